"""The score command: several models, patients, other grids, many cases, and every refusal."""

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

import medseg3d
from medseg3d.api.scoring import inputs as score_inputs
from medseg3d.api.scoring import pairs
from medseg3d.api.scoring import run as scores
from medseg3d.config import Part, ScoreConfig, validated
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.io import LabelVolume, write_labels
from medseg3d.metrics.surface import surface_dice
from medseg3d.scoring import read_table
from medseg3d.types import LabelMap

CASES = ("s1_ses-1", "s1_ses-2", "s2", "s3")
SPACING = (1.0, 1.5, 2.0)


def save(path: Path, labels: LabelMap, affine: npt.NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.diag([*SPACING, 1]) if affine is None else affine), path)
    return path


def blocks(chance: int, shift: int = 0) -> LabelMap:
    """Two labels in boxes whose size depends on chance."""
    rng = np.random.default_rng(chance)
    labels = np.zeros((9, 8, 7), np.uint8)
    for label, start in ((1, 0), (2, 4)):
        i, j, k = rng.integers(2, 4, 3)
        labels[start + shift : start + shift + i, 1 : 1 + j, 2 : 2 + k] = label
    return labels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """References ``r``, predictions ``a`` that are equal to them and ``b`` that are shifted."""
    for number, case in enumerate(CASES):
        save(tmp_path / "r" / f"{case}.nii.gz", blocks(number))
        save(tmp_path / "a" / f"{case}.nii.gz", blocks(number))
        save(tmp_path / "b" / f"{case}.nii.gz", blocks(number, shift=1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def in_folder() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def told(path: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def test_models_are_scored_side_by_side(folder: Path) -> None:
    result = medseg3d.score("a", "r", also=["b"], labels={1: "core", 2: "shell"})
    assert [(row.case, row.model, row.label) for row in result.rows] == [
        (case, model, label) for case in CASES for model in ("a", "b") for label in (1, 2)
    ]
    for found, row in zip(read_table(Path("scores.csv")), result.rows, strict=True):
        assert found.scores == pytest.approx(row.scores, abs=1e-6)
        assert found.reference_ml == pytest.approx(row.reference_ml, abs=1e-6)
        volumes = {"prediction_ml": 0.0, "reference_ml": 0.0}
        assert replace(found, scores={}, **volumes) == replace(row, scores={}, **volumes)
    dice = {m: {row.scores["dice"] for row in result.rows if row.model == m} for m in ("a", "b")}
    assert dice["a"] == {1.0}
    assert max(dice["b"]) < 1
    first, second = result.summary.models
    assert (first.model, first.mean_over_labels.scores["dice"].mean) == ("a", 1.0)
    assert second.mean_over_labels.scores["dice"].mean < 1
    assert [one["model"] for one in told("scores.json")["models"]] == ["a", "b"]


def test_one_model_needs_no_name(folder: Path) -> None:
    result = medseg3d.score("b", "r")
    assert {row.model for row in result.rows} == {""}
    assert [one.model for one in result.summary.models] == [""]


def test_a_case_has_one_id_however_the_models_name_their_files(folder: Path) -> None:
    for name in ("r", "a"):
        for case in CASES:
            Path(name, f"{case}.nii.gz").rename(Path(name, f"{case}_seg.nii.gz"))
    for case in CASES:
        Path("b", f"{case}.nii.gz").rename(Path("b", f"{case}_pred.nii.gz"))
    result = medseg3d.score("a", "r", also=["b"])
    assert [(row.case, row.model) for row in result.rows[::2]] == [
        (case, model) for case in CASES for model in ("a", "b")
    ]


def test_a_model_that_lacks_a_case_is_refused_or_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("b", "s2.nii.gz").unlink()
    with pytest.raises(DataError, match=r"^b and r: 1 reference \(s2\) without prediction"):
        medseg3d.score("a", "r", also=["b"])
    assert not Path("scores.csv").exists()
    result = medseg3d.score("a", "r", also=["b"], skip_unpaired=True)
    assert sum(row.case == "s2" for row in result.rows) == 2
    assert "1 reference (s2) without prediction left out" in caplog.text


def test_models_given_twice_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"predictions a are given twice; name each model once"):
        medseg3d.score("a", "r", also=["b", "b/../a"])


def test_the_file_beside_the_table_tells_where_the_scores_come_from(folder: Path) -> None:
    result = medseg3d.score("a", "r", also=["b"], metrics=["assd", "surface_dice"], surface="mesh")
    found = told(result.json)
    assert found["table"] == {"file": "scores.csv", "sha256": sha256(result.csv)}
    assert found["versions"]["medseg3d"] == medseg3d.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert {"scipy", "nibabel", "SimpleITK", "python"} <= set(found["versions"])
    assert found["options"]["surface"] == "mesh"
    assert found["options"]["border_is_surface"] is True
    assert found["options"]["tolerance_mm"] == [1.0, 2.0]
    assert found["options"]["predictions"] == "a"
    assert found["options"]["also"] == ["b"]
    assert not {"out", "overwrite", "threads"} & set(found["options"])
    assert list(found["columns"])[:3] == ["assd_mm", "surface_dice_1mm", "surface_dice_2mm"]
    assert "Nikolov" in found["columns"]["surface_dice_1mm"]["source"]
    assert [(one["case"], one["model"]) for one in found["files"]][:2] == [
        ("s1_ses-1", "a"), ("s1_ses-1", "b"),
    ]  # fmt: skip
    for one in found["files"]:
        name = f"{one['case']}.nii.gz"
        assert one["prediction"] == {name: sha256(Path(one["model"], name))}
        assert one["reference"] == {name: sha256(Path("r", name))}
        assert one["resampled"] is False


def test_a_label_map_of_two_files_has_two_digests(tmp_path: Path) -> None:
    labels = blocks(0)
    pair = nib.Nifti1Pair(labels, np.eye(4))
    nib.save(pair, tmp_path / "a.img")
    result = medseg3d.score(tmp_path / "a.hdr", tmp_path / "a.hdr", out=tmp_path / "s.csv")
    [one] = told(result.json)["files"]
    assert one["prediction"] == {name: sha256(tmp_path / name) for name in ("a.hdr", "a.img")}


def test_patients_come_from_the_ids_or_from_a_table(folder: Path) -> None:
    result = medseg3d.score("b", "r", out="ids.csv")
    assert [row.patient for row in result.rows[::2]] == ["s1", "s1", "s2", "s3"]
    assert result.summary.models[0].labels[0].n_patients == 3
    table = "\ufeffcase,sex,patient\r\n" + "".join(f"{c},f,ann\r\n" for c in (*CASES, "other"))
    Path("p.csv").write_text(table, encoding="utf-8")
    result = medseg3d.score("b", "r", out="table.csv", patients="p.csv")
    assert {row.patient for row in result.rows} == {"ann"}
    statistics = result.summary.models[0].labels[0].scores["dice"]
    assert np.isnan(statistics.interval).all(), "one patient says nothing about others"
    assert {one["patient"] for one in told("table.json")["files"]} == {"ann"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,name\n", r"p\.csv has the columns case, name; expected a CSV"),
        ("patient,patient\ns2,s2\n", r"expected a CSV with the columns case and patient$"),
        ("", r"p\.csv has the columns none; expected a CSV"),
        ("case,patient\ns2,\n", r"p\.csv, line 2: case 's2' has the patient ''; expected a name"),
        ("case,patient\ns2\n", r"p\.csv, line 2: case 's2' has the patient ''"),
        ("case,patient\ns2,x\ns2,y\n", r"line 3: case s2 has patient x and patient y; keep one"),
        ("case,patient\ns2,x\ns3,x\n", r"names no patient for s1_ses-1, s1_ses-2; add a line"),
        (None, r"p\.csv cannot be read as CSV in UTF-8: No such file"),
    ],
)
def test_a_table_of_patients_that_does_not_fit_is_refused(
    folder: Path, text: str | None, message: str
) -> None:
    if text is not None:
        Path("p.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        medseg3d.score("a", "r", patients="p.csv")
    assert not Path("scores.csv").exists()


@pytest.mark.parametrize(
    ("option", "name"), [("patients", "people.csv"), ("regions", "people.json")]
)
def test_an_input_is_never_replaced(folder: Path, option: str, name: str) -> None:
    text = "case,patient\n" + "".join(f"{case},ann\n" for case in CASES)
    Path(name).write_text(text)
    with pytest.raises(RunError, match=rf"^{name} is an input; choose another -o"):
        medseg3d.score("a", "r", out="people.csv", overwrite=True, **{option: name})
    assert Path(name).read_text() == text


def test_another_grid_is_refused_with_the_tolerance(folder: Path) -> None:
    affine = np.diag([*SPACING, 1])
    affine[0, 3] = 0.5
    save(Path("a/s2.nii.gz"), blocks(2), affine)
    message = (
        r"case s2: a/s2\.nii\.gz and r/s2\.nii\.gz lie on different grids: .* 0\.5 mm "
        r"\(0\.5 voxels\) apart, where 0\.001 voxels are accepted; .* or give --resample"
    )
    with pytest.raises(RunError, match=message):
        medseg3d.score("a", "r")
    assert signature(Grid.same_as).parameters["tolerance"].default == pairs.TOLERANCE


def test_on_demand_another_grid_is_resampled(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "medseg3d")
    fine = np.diag([*(length / 2 for length in SPACING), 1])
    fine[:3, 3] = [-length / 4 for length in SPACING]  # eight voxels in the place of one
    labels = np.kron(blocks(2), np.ones((2, 2, 2), np.uint8))
    save(Path("a/s2.nii.gz"), np.roll(labels, 2, axis=0), fine)
    result = medseg3d.score("a", "r", resample=True)
    scores = {(row.case, row.label): row.scores for row in result.rows}
    expected = np.roll(blocks(2), 1, axis=0)
    for label in (1, 2):
        ours, theirs = expected == label, blocks(2) == label
        assert scores["s2", label]["dice"] == 2 * (ours & theirs).sum() / (
            ours.sum() + theirs.sum()
        )
        assert scores["s3", label]["dice"] == 1
    assert [one["resampled"] for one in told("scores.json")["files"]] == [False, False, True, False]
    assert "case s2: a/s2.nii.gz is resampled onto the grid of its reference" in caplog.text


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("cropped", "finer", "is_resampled"),
    [(None, 1, False), ((1, 5), 1, False), ((0, 5), 1, False), (None, 2, True)],
)
def test_a_cropped_reference_hides_nothing_that_lies_outside(
    tmp_path: Path,
    cropped: tuple[int, int] | None,
    finer: int,
    is_resampled: bool,
    turned: bool,
) -> None:
    predicted = np.zeros((6, 6, 6), np.uint8)
    predicted[1:3, 1:3, 1:3] = 1
    expected = predicted.copy()
    predicted[4, 4, 1:5] = 1  # beyond the reference
    cut = (slice(*cropped),) * 3 if cropped else (slice(None),) * 3
    labels = np.kron(predicted[cut], np.ones((finer,) * 3, np.uint8))
    start = (cropped or (0,))[0] - (1 - 1 / finer) / 2
    affine = np.diag([*(length / finer for length in SPACING), 1])
    affine[:3, 3] = [start * length for length in SPACING]
    stored = nib.Nifti1Image(labels, affine)
    if turned:
        stored = stored.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    grid, array = Grid(stored.shape, stored.affine), np.asarray(stored.dataobj)
    prediction = tmp_path / "p" / ("a.seg.nrrd" if cropped else "a.nii.gz")
    write_labels(prediction, array, LabelVolume(array, grid, prediction))
    (tmp_path / "r").mkdir()
    reference = tmp_path / "r" / "a.seg.nrrd"
    crop = LabelVolume(expected[:4, :4, :4], Grid((4, 4, 4), np.diag([*SPACING, 1])), reference)
    write_labels(reference, crop.labels, crop)
    result = medseg3d.score(prediction, reference, out=tmp_path / "s.csv", resample=is_resampled)
    [row] = result.rows
    assert row.scores["dice"] == 2 * 8 / (12 + 8)
    assert row.prediction_ml == pytest.approx(12 * 3 / 1000)
    assert [one["resampled"] for one in told(tmp_path / "s.json")["files"]] == [is_resampled]


def test_resampling_takes_the_nearest_voxel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.integers(0, 70_000, (5, 4, 6)).astype(np.uint32)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        source, target = np.eye(4), np.eye(4)
        source[:3, :3] = np.diag(rng.uniform(0.5, 3, 3))
        target[:3, :3] = turn @ np.diag(rng.uniform(0.5, 3, 3))
        target[:3, 3] = rng.uniform(-2, 5, 3)
        onto = Grid((6, 5, 4), target)
        found = pairs.nearest_on(labels, Grid(labels.shape, source), onto)
        assert found.dtype == labels.dtype
        for place in np.ndindex(onto.shape):
            world = target @ [*place, 1]
            index = np.rint(np.linalg.solve(source, world)[:3]).astype(int)
            inside = ((index >= 0) & (index < labels.shape)).all()
            assert found[place] == (labels[tuple(index)] if inside else 0)


def test_a_prediction_elsewhere_is_told_and_counts_as_a_miss(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    affine = np.diag([*SPACING, 1])
    affine[0, 3] = 500.0
    save(Path("a/s2.nii.gz"), blocks(2), affine)
    result = medseg3d.score("a", "r", resample=True)
    assert {row.status for row in result.rows if row.case == "s2"} == {"missed"}
    assert "case s2: no label of a/s2.nii.gz lies where its reference is" in caplog.text


def test_axes_that_are_mixed_up_are_not_resampled(folder: Path) -> None:
    save(Path("a/s2.nii.gz"), np.ascontiguousarray(blocks(2).transpose(2, 1, 0)))
    with pytest.raises(RunError, match=r"case s2: .* written with its axes mixed up, which"):
        medseg3d.score("a", "r", resample=True)


def test_metrics_and_surfaces_are_as_asked_for(folder: Path) -> None:
    parts = ["dice", {"name": "surface_dice", "options": {"tolerance": 0.7}}]
    result = medseg3d.score("b", "r", metrics=parts, surface="mesh", tolerance_mm=3)
    assert list(result.rows[0].scores) == ["dice", "surface_dice_0.7mm"]
    ours, theirs = blocks(2, shift=1) == 2, blocks(2) == 2
    expected = {
        kind: surface_dice(ours, theirs, SPACING, tolerance=0.7, surface=kind)
        for kind in ("mesh", "voxel")
    }
    [row] = [row for row in result.rows if (row.case, row.label) == ("s2", 2)]
    assert row.scores["surface_dice_0.7mm"] == pytest.approx(expected["mesh"])
    assert expected["mesh"] != pytest.approx(expected["voxel"])
    result = medseg3d.score("b", "r", metrics="surface_dice", tolerance_mm=[0.5, 3], out="2.csv")
    assert list(result.rows[0].scores) == ["surface_dice_0.5mm", "surface_dice_3mm"]


def test_metrics_of_whole_label_maps_are_told_by_case(folder: Path) -> None:
    """Labels 0 to 2 in rows; of the reference 2, 1 and 1 voxels are right, 9 is not annotated."""
    for case, prediction in (("x", (0, 0, 2, 1, 2, 7)), ("y", (0, 0, 0, 1, 2, 1))):
        save(Path("p", f"{case}.nii.gz"), np.array(prediction, np.uint8).reshape(1, 2, 3))
        reference = np.array((0, 0, 0, 1, 2, 9), np.uint8).reshape(1, 2, 3)
        save(Path("q", f"{case}.nii.gz"), reference)
    options = {"ignore_label": 9, "labels": {1: "core", 2: "shell"}}
    asked = ["dice", "mean_iou", "pixel_accuracy"]
    result = medseg3d.score("p", "q", metrics=asked, **options)
    assert list(result.rows[0].scores) == ["dice"]
    found = told(result.json)["label_maps"]
    mean_iou = pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert found["cases"] == [
        {"case": "x", "model": "", "mean_iou": mean_iou, "pixel_accuracy": 0.8},
        {"case": "y", "model": "", "mean_iou": 1.0, "pixel_accuracy": 1.0},
    ]
    assert found["means"] == [
        {"model": "", "metric": "mean_iou", "mean": pytest.approx(31 / 36), "n": 2},
        {"model": "", "metric": "pixel_accuracy", "mean": 0.9, "n": 2},
    ]
    assert set(told(result.json)["columns"]) == {"dice", "prediction_ml", "reference_ml"}
    assert read_table(result.csv)[0].scores == pytest.approx({"dice": 1.0})
    inside = {"name": "mean_iou", "options": {"include_background": False}}
    result = medseg3d.score("p", "q", metrics=[inside], out="i.csv", **options)
    [one, _] = told(result.json)["label_maps"]["cases"]
    assert one["mean_iou_include_background_False"] == 0.75


def test_voxels_that_nobody_annotated_do_not_count_as_background(tmp_path: Path) -> None:
    prediction, reference = np.zeros((2, 1, 2, 4), np.uint8)
    prediction[0] = (1, 1, 0, 0), (1, 0, 0, 0)
    reference[0] = (1, 0, 1, 0), (9, 9, 9, 9)
    pair = save(tmp_path / "a.nii.gz", prediction), save(tmp_path / "r.nii.gz", reference)
    options = {"metrics": ["specificity"], "regions": {"all": [1]}, "out": tmp_path / "s.csv"}
    result = medseg3d.score(*pair, ignore_label=9, **options)
    assert [row.scores["specificity"] for row in result.rows] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["dyce"]}, "unknown metric 'dyce'; did you mean dice"),
        ({"metrics": ["auroc"]}, "metric 'auroc' is one of probabilities, not of masks or labels"),
        ({"metrics": [Part(name="dice", options={"beta": 1})]}, "'dice' has no option 'beta'"),
        ({"tolerance_mm": [1, 0]}, "tolerance_mm: expected distances in mm above 0"),
        ({"tolerance_mm": [1, float("inf")]}, "tolerance_mm.1: input should be a finite number"),
        ({"tolerance_mm": [2, 2]}, "tolerance_mm: 2 mm is given twice"),
        ({"tolerance_mm": []}, "tolerance_mm: "),
        ({"out": "scores.txt"}, r"out: the name of the table must end in \.csv, \.xlsx, \.parquet"),
        ({"layout": "broad"}, "layout: "),
        ({"threads": 0}, "threads: "),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    folder: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "score_pair", lambda *_: pytest.fail("too late"))
    with pytest.raises(ConfigError, match=message):
        medseg3d.score("a", "r", **options)
    assert in_folder() == ["a", "b", "r"]


def test_metrics_may_be_separated_by_commas() -> None:
    given = {"predictions": "a", "references": "r"}
    found = validated(ScoreConfig, given | {"metrics": ["dice, iou", {"name": "f_beta"}]})
    assert [part.name for part in found.metrics or ()] == ["dice", "iou", "f_beta"]
    assert validated(ScoreConfig, given).metrics is None


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_other_formats_and_layouts_hold_the_same(folder: Path, suffix: str) -> None:
    usual = medseg3d.score("b", "r")
    for layout in ("wide", "long"):
        found = medseg3d.score("b", "r", out=f"{layout}{suffix}", layout=layout)
        assert read_table(found.csv) == read_table(usual.csv)
        assert found.json == Path(f"{layout}.json")
        assert told(found.json)["models"] == told(usual.json)["models"]


def test_an_absent_package_is_told_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.scoring.table.find_spec", lambda _: None)
    monkeypatch.setattr(scores, "score_pair", lambda *_: pytest.fail("too late"))
    with pytest.raises(RunError, match=r'need openpyxl, .* pip install "medseg3d\[tables\]"'):
        medseg3d.score("a", "r", out="s.xlsx")


def test_cases_are_scored_at_once_and_told_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = medseg3d.score("b", "r", out="1.csv", threads=1)
    meeting = threading.Barrier(2, timeout=30)
    given = []

    def score_pair(rules: pairs.Rules, pair: pairs.Pair) -> pairs.Scored:
        given.append(rules.threads)
        meeting.wait()  # breaks if another case is not under way
        return pairs.score_pair(rules, pair)

    monkeypatch.setattr(scores, "score_pair", score_pair)
    monkeypatch.setattr(scores, "MOST_AT_ONCE", 2)
    together = medseg3d.score("b", "r", out="2.csv", threads=7)
    assert together.rows == alone.rows
    assert given == [3] * 4


def test_the_others_are_scored_when_some_cannot_be(folder: Path) -> None:
    for name in ("a/s1_ses-1", "b/s3"):
        Path(f"{name}.nii.gz").write_bytes(b"broken")
    with pytest.raises(RunError, match=r"^2 of 8 label maps could not be scored, the others are"):
        medseg3d.score("a", "r", also=["b"])
    found = {(row.case, row.model) for row in read_table(Path("scores.csv"))}
    assert found == {(c, m) for c in CASES for m in "ab"} - {("s1_ses-1", "a"), ("s3", "b")}
    assert len(told("scores.json")["files"]) == 6
    assert Path("scores_failed.csv").read_text().count("\n") == 3


def test_failures_are_listed_for_each_table_and_leave_those_of_others(folder: Path) -> None:
    listed = "case,file,error\ns9,s9.nii,torn\n"
    Path("failed.csv").write_text(listed)  # of predict in the same folder
    good = Path("b/s3.nii.gz").read_bytes()
    Path("b/s3.nii.gz").write_bytes(b"broken")
    with pytest.raises(RunError, match=r"failures are in b_failed\.csv$"):
        medseg3d.score("b", "r", out="b.csv")
    medseg3d.score("a", "r", out="a.csv")
    assert Path("b_failed.csv").read_text().count("\n") == 2
    Path("b/s3.nii.gz").write_bytes(good)
    medseg3d.score("b/s3.nii.gz", "r/s3.nii.gz", out="b.csv", overwrite=True)
    assert not Path("b_failed.csv").exists()
    assert Path("failed.csv").read_text() == listed


def test_a_full_disk_ends_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scores, "score_pair", fail)
    with pytest.raises(OSError, match="No space"):
        medseg3d.score("a", "r")
    assert in_folder() == ["a", "b", "r"]


def test_ctrl_c_while_scoring_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(rules: pairs.Rules, pair: pairs.Pair) -> pairs.Scored:
        if pair.case == "s2":
            raise KeyboardInterrupt
        return pairs.score_pair(rules, pair)

    monkeypatch.setattr(scores, "score_pair", interrupt)
    with pytest.raises(KeyboardInterrupt):
        medseg3d.score("a", "r")
    assert in_folder() == ["a", "b", "r"]


@pytest.mark.parametrize("place", ["write_table", "write_json"])
def test_a_summary_never_stands_beside_the_table_of_another_time(
    folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    medseg3d.score("a", "r")
    before = sha256(Path("scores.csv"))

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scores, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            medseg3d.score("b", "r", overwrite=True)
    assert not Path("scores.json").exists()
    assert (sha256(Path("scores.csv")) == before) is (place == "write_table")
    medseg3d.score("b", "r", overwrite=True)
    assert told("scores.json")["table"]["sha256"] == sha256(Path("scores.csv")) != before


def test_models_of_a_case_are_in_one_part(folder: Path) -> None:
    rows = []
    for index in (1, 2, 3):
        part = medseg3d.score("a", "r", also=["b"], shard=f"{index}/3", out="t.csv")
        assert all({row.model for row in part.rows if row.case == c} == {"a", "b"}
                   for c in {row.case for row in part.rows})  # fmt: skip
        rows += part.rows
    whole = medseg3d.score("a", "r", also=["b"])
    assert sorted(rows, key=lambda row: (row.case, row.model, row.label)) == list(whole.rows)


def test_a_part_without_cases_has_the_header_of_the_others(folder: Path) -> None:
    part = medseg3d.score("a", "r", shard="4/5", out="t.csv")
    assert part.rows == ()
    whole = medseg3d.score("a", "r")
    assert part.csv.read_text() == whole.csv.read_text().splitlines(keepends=True)[0]


def test_values_on_one_side_only_are_warned_of_by_model(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, case in enumerate(CASES):
        save(Path("b", f"{case}.nii.gz"), blocks(number) * 100)
    medseg3d.score("a", "r", also=["b"])
    assert (
        "only the predictions of b hold 100, 200 and only the references hold 1, 2" in caplog.text
    )
    assert "predictions of a" not in caplog.text


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_values_are_found_in_any_type(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "PART", 7)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, np.iinfo(kind).max, (4, 3, 5), endpoint=True).astype(kind)
    for view in (labels, labels.transpose(2, 0, 1), labels[::-1, ::2]):
        assert pairs._values(view) == sorted(set(view.ravel().tolist()))


def test_names_of_models_grow_until_they_differ() -> None:
    paths = [Path(text) for text in ("/x/a/p", "/x/b/p", "/x/c")]
    assert score_inputs.model_names(paths) == ["a/p", "b/p", "x/c"]
    assert score_inputs.model_names([Path("a/b/../c/"), Path("d")]) == ["c", "d"]
    assert score_inputs.model_names([Path()]) == [Path.cwd().name]


def test_scoring_loads_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys, medseg3d\n"
        "medseg3d.score('a', 'r')\n"
        "heavy = ('torch', 'monai', 'pandas', 'matplotlib', 'openpyxl', 'pyarrow', 'dask')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
