"""Rows of one case: values, empty labels, and agreement with the single metrics."""

from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.config import Part
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import read_labels
from medseg3d.metrics import METRICS
from medseg3d.metrics.volume import volume
from medseg3d.scoring.case import Row, score_case
from medseg3d.scoring.columns import columns

SHAPE = (8, 7, 6)
GRID = Grid(SHAPE, np.diag([-2.0, 1.0, 3.0, 1.0]))
DIAGONAL_MM = np.sqrt(16.0**2 + 7.0**2 + 18.0**2)
LABELS = {1: "liver", 2: "spleen"}
ZERO_WHEN_ABSENT = (
    "dice", "iou", "precision", "recall", "volume_similarity", "surface_dice_1mm",
    "surface_dice_2mm",
)  # fmt: skip
WORST_WHEN_ABSENT = ("hausdorff_mm", "hausdorff_95_mm", "assd_mm", "masd_mm")


def score(prediction, reference, **options) -> list[Row]:
    return score_case("a", prediction, reference, GRID, **{"labels": LABELS, **options})


def with_box(label: int, start: int, stop: int) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[start:stop, 2:5, 2:5] = label
    return labels


def test_a_row_has_all_columns_and_says_whose_it_is() -> None:
    empty = np.zeros(SHAPE, np.uint8)
    row, _ = score(empty, empty, patient="p7", model="ours")
    assert [field.name for field in fields(Row)] == [
        "case", "label", "name", "scores", "prediction_ml", "reference_ml", "status", "patient",
        "model",
    ]  # fmt: skip
    assert (row.patient, row.model) == ("p7", "ours")
    assert list(row.scores) == [column.name for column in columns()]
    assert score(empty, empty)[0].patient == score(empty, empty)[0].model == ""


def test_a_shifted_box_scores_what_can_be_worked_out_by_hand() -> None:
    prediction, reference = with_box(1, 2, 5), with_box(1, 3, 6)
    row, _ = score(prediction, reference, columns=columns(tolerances_mm=(1.9, 2.0)))
    found = row.scores
    assert (row.case, row.label, row.name, row.status) == ("a", 1, "liver", "ok")
    assert found["dice"] == pytest.approx(2 / 3)
    assert found["iou"] == pytest.approx(1 / 2)
    assert found["precision"] == found["recall"] == pytest.approx(2 / 3)
    assert found["volume_similarity"] == 1.0
    assert found["volume_difference_ml"] == 0.0
    assert found["hausdorff_mm"] == found["hausdorff_95_mm"] == 2.0
    assert row.prediction_ml == row.reference_ml == pytest.approx(27 * 6 / 1000)
    # of 26 surface voxels the 9 of the outer face are 2 mm apart, and the middle of the face
    # inside the other box 1 mm along the second axis
    assert found["assd_mm"] == found["masd_mm"] == pytest.approx(19 / 26)
    assert found["surface_dice_1.9mm"] == pytest.approx(17 / 26)
    assert found["surface_dice_2mm"] == 1.0


labels_of_noise = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 0, 1, 2]))


@pytest.mark.parametrize("kind", ["voxel", "mesh"])
@pytest.mark.parametrize("border", [True, False])
@settings(max_examples=40)
@given(prediction=labels_of_noise, reference=labels_of_noise)
def test_rows_hold_what_the_metrics_say(prediction, reference, kind: str, border: bool) -> None:
    chosen = columns(tolerances_mm=(2.5,))
    rows = score(prediction, reference, columns=chosen, surface=kind, border_is_surface=border)
    for row in rows:
        pair = (prediction == row.label, reference == row.label)
        for column in chosen:
            options = dict(column.options)
            if column.metric in ("hausdorff", "hausdorff_95", "assd", "masd", "surface_dice"):
                options |= {"surface": kind, "border": border}
            found = METRICS[column.metric](*pair, GRID.spacing, **options)
            expected = DIAGONAL_MM if np.isinf(found) else found
            assert row.scores[column.name] == pytest.approx(expected, nan_ok=True)
        assert row.prediction_ml == pytest.approx(volume(pair[0], GRID))
        assert row.reference_ml == pytest.approx(volume(pair[1], GRID))


@pytest.mark.parametrize("status", ["missed", "spurious"])
def test_a_label_on_one_side_only_scores_the_worst(status: str) -> None:
    here, nowhere = with_box(2, 1, 4), np.zeros(SHAPE, dtype=np.uint8)
    pair = (nowhere, here) if status == "missed" else (here, nowhere)
    for kind, border in product(("voxel", "mesh"), (True, False)):
        row = score(*pair, surface=kind, border_is_surface=border)[1]
        assert row.status == status
        assert [row.scores[name] for name in ZERO_WHEN_ABSENT] == [0.0] * 7
        assert [row.scores[n] for n in WORST_WHEN_ABSENT] == pytest.approx([DIAGONAL_MM] * 4)
        volumes = (row.prediction_ml, row.reference_ml)
        assert volumes == pytest.approx((0, 0.162) if status == "missed" else (0.162, 0))


def test_a_structure_that_fills_the_image_and_is_missed_is_no_undefined_score() -> None:
    full = np.ones(SHAPE, dtype=np.uint8)
    row = score(np.zeros_like(full), full, border_is_surface=False)[0]
    assert row.scores["hausdorff_mm"] == pytest.approx(DIAGONAL_MM)
    assert row.scores["surface_dice_1mm"] == 0.0


@pytest.mark.parametrize("kind", ["voxel", "mesh"])
def test_a_structure_that_fills_the_image_ends_at_its_border(kind: str) -> None:
    full = np.ones(SHAPE, dtype=np.uint8)
    without_a_slice = full.copy()
    without_a_slice[0] = 0
    options = {"surface": kind, "border_is_surface": False, "columns": columns(tolerances_mm=(1,))}
    row = score(full, full, **options)[0]
    assert [row.scores[name] for name in WORST_WHEN_ABSENT] == [0.0] * 4
    assert row.scores["surface_dice_1mm"] == 1.0
    for pair in ((without_a_slice, full), (full, without_a_slice)):
        row = score(*pair, **options)[0]
        assert row.scores["hausdorff_mm"] == pytest.approx(2.0)  # the slice
        assert 0 < row.scores["assd_mm"] < 1
        assert 0 < row.scores["surface_dice_1mm"] < 1


def test_voxels_that_nobody_annotated_are_no_background() -> None:
    prediction, reference = np.zeros((2, 1, 2, 4), np.uint8)
    prediction[0, 0] = (1, 1, 0, 0)
    reference[0, 0] = (1, 0, 1, 0)
    names = ("specificity", "matthews_correlation", "cohen_kappa", "dice")
    chosen = columns([Part(name=name) for name in names])
    grid = Grid((1, 2, 4), np.eye(4))
    for num_ignored, expected in ((0, (5 / 6, 1 / 3, 1 / 3, 0.5)), (4, (0.5, 0.0, 0.0, 0.5))):
        (row,) = score_case(
            *("a", prediction, reference, grid),
            labels={1: "all"},
            columns=chosen,
            num_ignored=num_ignored,
        )
        assert tuple(row.scores.values()) == pytest.approx(expected)


def test_a_label_on_neither_side_is_undefined() -> None:
    row = score(with_box(2, 1, 4), with_box(2, 1, 4))[0]
    assert row.status == "both_empty"
    assert np.isnan([row.scores[name] for name in ZERO_WHEN_ABSENT + WORST_WHEN_ABSENT]).all()
    assert row.scores["volume_difference_ml"] == 0.0
    assert (row.prediction_ml, row.reference_ml) == (0.0, 0.0)


def test_every_metric_of_masks_scores_labels_that_are_there_and_those_that_are_not() -> None:
    of_masks = [name for name in METRICS if METRICS.facts(name).get("of") == "masks"]
    chosen = columns([Part(name=name) for name in of_masks])
    here, there, nowhere = with_box(1, 1, 4), with_box(1, 2, 6), np.zeros(SHAPE, np.uint8)
    for pair in ((here, there), (here, nowhere), (nowhere, here), (nowhere, nowhere)):
        row = score(*pair, columns=chosen)[0]
        for column in chosen:
            value = row.scores[column.name]
            if row.status in ("ok", "missed") and column.unit in ("1", "mm"):
                assert np.isfinite(value), column.name
            if row.status == "missed" and column.unit == "mm":
                assert value == pytest.approx(DIAGONAL_MM)


@settings(max_examples=40)
@given(prediction=labels_of_noise, reference=labels_of_noise, threads=st.integers(2, 5))
def test_threads_change_no_row(prediction, reference, threads: int) -> None:
    names = {2: "spleen", 9: "nowhere", 1: "liver"}
    expected = score(prediction, reference, labels=names)
    found = score(prediction, reference, labels=names, threads=threads)
    assert [str(row) for row in found] == [str(row) for row in expected]


@settings(max_examples=40)
@given(prediction=labels_of_noise, reference=labels_of_noise, axes=st.permutations(range(3)))
def test_the_layout_in_memory_changes_no_score(prediction, reference, axes) -> None:
    expected = score(prediction, reference)
    back = np.argsort(axes)
    other = np.ascontiguousarray(reference.transpose(axes)).transpose(back)
    for pair in ((prediction, other), (np.flip(np.flip(prediction, 0).copy(), 0), other)):
        for found, row in zip(score(*pair), expected, strict=True):
            assert found.scores == pytest.approx(row.scores, nan_ok=True)
            assert replace(found, scores={}) == replace(row, scores={})


def test_background_is_no_row_and_names_keep_their_order() -> None:
    labels = {0: "background", 300: "tumor", 1: "liver"}
    prediction = with_box(1, 1, 3).astype(np.uint16) + with_box(1, 5, 7) * np.uint16(300)
    rows = score(prediction, prediction, labels=labels)
    assert [(row.label, row.name, row.scores["dice"]) for row in rows] == [
        (300, "tumor", 1.0),
        (1, "liver", 1.0),
    ]


def test_volumes_follow_the_determinant_of_a_sheared_grid() -> None:
    affine = np.eye(4)
    affine[0, 1] = 1.0
    ones = np.ones((2, 2, 2), dtype=np.uint8)
    (row,) = score_case("a", ones, ones, Grid((2, 2, 2), affine), labels={1: "all"})
    assert row.prediction_ml == pytest.approx(0.008)
    (row,) = score_case("a", ones, 0 * ones, Grid((2, 2, 2), affine), labels={1: "all"})
    assert row.scores["volume_difference_ml"] == pytest.approx(0.008)


@pytest.mark.parametrize(
    "broken",
    [np.zeros(SHAPE, dtype=np.float32), np.zeros((8, 7, 5), dtype=np.uint8)],
    ids=["floats", "another shape"],
)
def test_arrays_that_are_not_labels_of_the_grid_are_refused(broken) -> None:
    fine = np.zeros(SHAPE, dtype=np.uint8)
    with pytest.raises(DataError, match=r"case a: prediction has .*shape \(8, 7, 6\)"):
        score(broken, fine)
    with pytest.raises(DataError, match=r"case a: reference has .*shape \(8, 7, 6\)"):
        score(fine, broken)


@pytest.mark.parametrize("kind", ["voxel", "mesh"])
def test_a_real_liver_scores_as_measured_before(shared_data: Path, kind: str) -> None:
    folder = shared_data / "abdomen_ct"
    prediction = read_labels(folder / "chaos3_sample_prediction.nii.gz")
    reference = read_labels(folder / "chaos3_liver.nii.gz")
    assert prediction.grid.same_as(reference.grid)
    pair = (prediction.labels, reference.labels, reference.grid)
    chosen = columns(
        [Part(name=n) for n in ("dice", "assd", "hausdorff", "hausdorff_95")]
        + [Part(name="relative_volume_difference")]
    )
    scores = {}
    for border in (True, False):
        (row,) = score_case(
            "chaos3", *pair, labels={1: "liver"}, columns=chosen, surface=kind,
            border_is_surface=border,
        )  # fmt: skip
        assert row.status == "ok"
        scores[border] = row.scores
    closed, cut = scores[True], scores[False]
    assert cut["dice"] == closed["dice"] == pytest.approx(0.97843, abs=5e-6)
    (rvd,) = (value for name, value in cut.items() if name.startswith("relative_volume"))
    assert abs(rvd) == pytest.approx(0.66453, abs=5e-6)
    if kind == "mesh":
        assert 0 < cut["assd_mm"] < 0.73413  # finer along the slices than voxels
        return
    assert closed["assd_mm"] == pytest.approx(0.71293, abs=5e-6)  # MONAI's value
    assert closed["hausdorff_95_mm"] == pytest.approx(3.63281, abs=5e-6)  # MONAI's value
    assert closed["hausdorff_mm"] == pytest.approx(14.0)
    # the liver touches the first slice: the published CHAOS figure has no surface at that cut
    assert cut["assd_mm"] == pytest.approx(0.73413, abs=5e-6)
    assert cut["hausdorff_mm"] == pytest.approx(14.0)


def test_labels_of_any_size_take_no_room_for_those_below() -> None:
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 4, (6, 7, 5)).astype(np.uint32) for _ in range(2)]
    values = np.array([0, 4_000_000_000, 70_000, 3], np.uint32)
    names = {int(values[label]): f"label {label}" for label in (2, 1, 3)}
    grid = Grid((6, 7, 5), np.eye(4))
    usual = score_case("a", *small, grid, labels={label: f"label {label}" for label in (2, 1, 3)})
    large = score_case("a", values[small[0]], values[small[1]], grid, labels=names)
    for found, row in zip(large, usual, strict=True):
        assert found.scores == pytest.approx(row.scores, nan_ok=True)
        assert replace(found, label=0, scores={}) == replace(row, label=0, scores={})
    assert [row.label for row in large] == list(names)


@pytest.mark.parametrize("kind", ["voxel", "mesh"])
@pytest.mark.parametrize("border", [True, False])
@pytest.mark.parametrize("axis", range(3))
def test_the_slice_of_an_image_of_one_is_no_surface(kind: str, border: bool, axis: int) -> None:
    prediction, reference = np.zeros((2, 60, 60), np.uint8)
    prediction[10:40, 10:40] = reference[18:48, 10:40] = 1
    shape = tuple(np.insert([60, 60], axis, 1).tolist())
    (row,) = score_case(
        "a",
        prediction.reshape(shape),
        reference.reshape(shape),
        Grid(shape, np.diag([*np.insert([1.0, 1.0], axis, 5.0), 1.0])),
        labels={1: "disc"},
        surface=kind,
        border_is_surface=border,
        columns=[*columns(), *columns([Part(name="boundary_iou"), Part(name="cldice")])],
    )
    assert row.scores["hausdorff_mm"] == pytest.approx(8.0)
    assert row.scores["hausdorff_95_mm"] == pytest.approx(8.0)
    # two sides of each square lie on sides of the other but for their ends, two are 8 mm away
    assert row.scores["surface_dice_1mm"] == pytest.approx(48 / 120, abs=0.06)
    assert row.scores["assd_mm"] > 3.0
    assert row.scores["boundary_iou_2mm"] < 0.4 < row.scores["iou"]


def test_the_first_voxel_alone_has_a_surface_without_the_border_too() -> None:
    corner = np.zeros(SHAPE, np.uint8)
    corner[0, 0, 0] = 1
    row, other = score(corner, corner, border_is_surface=False)
    assert (row.scores["hausdorff_mm"], row.status) == (0.0, "ok")
    assert (np.isnan(other.scores["hausdorff_mm"]), other.status) == (True, "both_empty")
