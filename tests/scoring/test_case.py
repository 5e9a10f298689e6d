"""Rows of one case: values, empty labels, and agreement with the single metrics."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.errors import ConfigError, DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import read_labels
from medseg3d.metrics import METRICS
from medseg3d.metrics.volume import volume
from medseg3d.scoring.case import Row, score_case

SHAPE = (8, 7, 6)
GRID = Grid(SHAPE, np.diag([-2.0, 1.0, 3.0, 1.0]))
DIAGONAL_MM = np.sqrt(16.0**2 + 7.0**2 + 18.0**2)
LABELS = {1: "liver", 2: "spleen"}
ZERO_WHEN_ABSENT = ("dice", "iou", "precision", "recall", "surface_dice")
WORST_WHEN_ABSENT = ("hausdorff_mm", "hausdorff_95_mm", "assd_mm")


def score(prediction, reference, **options) -> list[Row]:
    return score_case("a", prediction, reference, GRID, **{"labels": LABELS, **options})


def with_box(label: int, start: int, stop: int) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[start:stop, 2:5, 2:5] = label
    return labels


def test_columns_are_those_of_the_table() -> None:
    assert [field.name for field in fields(Row)] == [
        "case", "label", "name", "dice", "iou", "precision", "recall", "hausdorff_mm",
        "hausdorff_95_mm", "assd_mm", "surface_dice", "prediction_ml", "reference_ml", "status",
    ]  # fmt: skip


def test_a_shifted_box_scores_what_can_be_worked_out_by_hand() -> None:
    prediction, reference = with_box(1, 2, 5), with_box(1, 3, 6)
    row, _ = score(prediction, reference, tolerance_mm=1.9)
    assert (row.case, row.label, row.name, row.status) == ("a", 1, "liver", "ok")
    assert row.dice == pytest.approx(2 / 3)
    assert row.iou == pytest.approx(1 / 2)
    assert row.precision == row.recall == pytest.approx(2 / 3)
    assert row.hausdorff_mm == row.hausdorff_95_mm == 2.0
    assert row.prediction_ml == row.reference_ml == pytest.approx(27 * 6 / 1000)
    # of 26 surface voxels the 9 of the outer face are 2 mm apart, and the middle of the face
    # inside the other box 1 mm along the second axis
    assert row.assd_mm == pytest.approx(19 / 26)
    assert row.surface_dice == pytest.approx(17 / 26)


labels_of_noise = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 0, 1, 2]))


@given(prediction=labels_of_noise, reference=labels_of_noise)
def test_rows_hold_what_the_metrics_say(prediction, reference) -> None:
    for row in score(prediction, reference, tolerance_mm=2.5):
        pair = (prediction == row.label, reference == row.label)
        for name in ("dice", "iou", "precision", "recall"):
            found = METRICS.build(name, *pair, GRID.spacing)
            assert getattr(row, name) == pytest.approx(found, nan_ok=True)
        for name in ("hausdorff", "hausdorff_95", "assd"):
            found = METRICS.build(name, *pair, GRID.spacing)
            expected = DIAGONAL_MM if np.isinf(found) else found
            assert getattr(row, f"{name}_mm") == pytest.approx(expected, nan_ok=True)
        found = METRICS.build("surface_dice", *pair, GRID.spacing, tolerance=2.5)
        assert row.surface_dice == pytest.approx(found, nan_ok=True)
        assert row.prediction_ml == pytest.approx(volume(pair[0], GRID))
        assert row.reference_ml == pytest.approx(volume(pair[1], GRID))


@pytest.mark.parametrize("status", ["missed", "spurious"])
def test_a_label_on_one_side_only_scores_the_worst(status: str) -> None:
    here, nowhere = with_box(2, 1, 4), np.zeros(SHAPE, dtype=np.uint8)
    pair = (nowhere, here) if status == "missed" else (here, nowhere)
    row = score(*pair)[1]
    assert row.status == status
    assert [getattr(row, name) for name in ZERO_WHEN_ABSENT] == [0.0] * 5
    assert [getattr(row, name) for name in WORST_WHEN_ABSENT] == pytest.approx([DIAGONAL_MM] * 3)
    volumes = (row.prediction_ml, row.reference_ml)
    assert volumes == pytest.approx((0, 0.162) if status == "missed" else (0.162, 0))


def test_a_label_on_neither_side_is_undefined() -> None:
    row = score(with_box(2, 1, 4), with_box(2, 1, 4))[0]
    assert row.status == "both_empty"
    assert np.isnan([getattr(row, name) for name in ZERO_WHEN_ABSENT + WORST_WHEN_ABSENT]).all()
    assert (row.prediction_ml, row.reference_ml) == (0.0, 0.0)


@given(prediction=labels_of_noise, reference=labels_of_noise, axes=st.permutations(range(3)))
def test_the_layout_in_memory_changes_no_score(prediction, reference, axes) -> None:
    expected = score(prediction, reference)
    back = np.argsort(axes)
    other = np.ascontiguousarray(reference.transpose(axes)).transpose(back)
    for pair in ((prediction, other), (np.flip(np.flip(prediction, 0).copy(), 0), other)):
        for found, row in zip(score(*pair), expected, strict=True):
            assert vars(found) == pytest.approx(vars(row), nan_ok=True)


def test_background_is_no_row_and_names_keep_their_order() -> None:
    labels = {0: "background", 300: "tumor", 1: "liver"}
    prediction = with_box(1, 1, 3).astype(np.uint16) + with_box(1, 5, 7) * np.uint16(300)
    rows = score(prediction, prediction, labels=labels)
    assert [(row.label, row.name, row.dice) for row in rows] == [
        (300, "tumor", 1.0),
        (1, "liver", 1.0),
    ]


def test_volumes_follow_the_determinant_of_a_sheared_grid() -> None:
    affine = np.eye(4)
    affine[0, 1] = 1.0
    ones = np.ones((2, 2, 2), dtype=np.uint8)
    (row,) = score_case("a", ones, ones, Grid((2, 2, 2), affine), labels={1: "all"})
    assert row.prediction_ml == pytest.approx(0.008)


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


def test_a_negative_tolerance_is_refused() -> None:
    box = with_box(1, 1, 4)
    with pytest.raises(ConfigError, match="tolerance"):
        score(box, box, tolerance_mm=-1.0)


def test_a_real_liver_scores_as_measured_before(shared_data: Path) -> None:
    folder = shared_data / "abdomen_ct"
    prediction = read_labels(folder / "chaos3_sample_prediction.nii.gz")
    reference = read_labels(folder / "chaos3_liver.nii.gz")
    assert prediction.grid.same_as(reference.grid)
    (row,) = score_case(
        "chaos3", prediction.labels, reference.labels, reference.grid, labels={1: "liver"}
    )
    assert row.status == "ok"
    assert row.dice == pytest.approx(0.97843, abs=5e-6)
    assert row.assd_mm == pytest.approx(0.71293, abs=5e-6)  # MONAI's value
    assert row.hausdorff_95_mm == pytest.approx(3.63281, abs=5e-6)  # MONAI's value
    assert row.hausdorff_mm == pytest.approx(14.0)
    # the liver touches the first slice: the published CHAOS figure has no surface at that cut
    [cut] = score_case(
        "chaos3",
        prediction.labels,
        reference.labels,
        reference.grid,
        labels={1: "liver"},
        border_is_surface=False,
    )
    assert cut.assd_mm == pytest.approx(0.73413, abs=5e-6)
    assert cut.hausdorff_mm == pytest.approx(14.0)


def test_labels_of_any_size_take_no_room_for_those_below() -> None:
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 4, (6, 7, 5)).astype(np.uint32) for _ in range(2)]
    values = np.array([0, 4_000_000_000, 70_000, 3], np.uint32)
    names = {int(values[label]): f"label {label}" for label in (2, 1, 3)}
    grid = Grid((6, 7, 5), np.eye(4))
    usual = score_case("a", *small, grid, labels={label: f"label {label}" for label in (2, 1, 3)})
    large = score_case("a", values[small[0]], values[small[1]], grid, labels=names)
    assert [replace(row, label=0) for row in large] == [replace(row, label=0) for row in usual]
    assert [row.label for row in large] == list(names)
