"""``check`` from end to end: what is printed, written, left alone, and the exit code."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import medseg3d
from medseg3d import cli
from medseg3d.api.fitting.planning import planned
from medseg3d.config import FitConfig, validated
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.runs import PLAN

SHAPE = (10, 9, 8)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)


def labels() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[2:7, 2:7, 2:6] = 1
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six sound cases, each of a patient."""
    root = tmp_path / "data"
    for n in range(6):
        image = np.random.default_rng(n).integers(0, 90, SHAPE).astype(np.int16) + 200 * labels()
        save(root / "images" / f"p{n}.nii.gz", image.astype(np.int16))
        save(root / "labels" / f"p{n}.nii.gz", labels())
    description = {"labels": {"background": 0, "organ": 1}, "channel_names": {"0": "MR"}}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def break_some(root: Path) -> Path:
    """A label map of 255, one of 0.9999, one that is torn and one that is missing."""
    save(root / "labels" / "p1.nii.gz", labels() * np.uint8(255))
    save(root / "labels" / "p2.nii.gz", labels() * np.float32(0.9999))
    torn = root / "images" / "p3.nii.gz"
    torn.write_bytes(torn.read_bytes()[:100])
    (root / "labels" / "p4.nii.gz").unlink()
    return root


def bytes_of(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["check", *map(str, arguments)])


def test_a_sound_set_ends_with_0_and_its_numbers(data: Path) -> None:
    before = bytes_of(data)
    result = run(data)
    assert result.exit_code == 0
    assert "6 cases of 6 patients" in result.stdout
    assert result.stdout.rstrip().endswith("0 errors, 0 warnings, 1 note")
    assert bytes_of(data) == before


def test_a_broken_case_does_not_stop_the_others(data: Path) -> None:
    before = bytes_of(break_some(data))
    result = run(data, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    codes = {(finding["code"], finding["case"]) for finding in found["findings"]}
    assert {("label-undeclared", "p1"), ("image-unreadable", "p3"), ("structure", None)} <= codes
    assert [case["id"] for case in found["cases"]] == ["p0", "p1", "p2", "p5"]
    assert found["counts"]["error"] == 3
    assert found["labels"] == {"0": "background", "1": "organ", "255": None}
    (structure,) = (f for f in found["findings"] if f["code"] == "structure")
    assert "1 image (p4) without label map" in structure["message"]
    assert bytes_of(data) == before


def test_a_copy_is_repaired_checked_and_its_changes_are_listed(data: Path, tmp_path: Path) -> None:
    before = bytes_of(break_some(data))
    copy = tmp_path / "copy"
    report = medseg3d.check(data, fix=copy, map=["255=1"], dry_run=True)
    assert not copy.exists()
    assert report.copy is None
    assert {change.file for change in report.changes} == {"labels/p1.nii.gz", "labels/p2.nii.gz"}
    result = run(data, "--fix", copy, "--map", "255=1")
    assert result.exit_code == 1  # the torn and the missing one cannot be repaired
    assert "2 changed in" in result.stdout
    assert bytes_of(data) == before
    again = medseg3d.check(copy)
    assert {finding.code for finding in again.findings if finding.severity == "error"} == {
        "image-unreadable",
        "structure",
    }
    for name in ("images/p3.nii.gz", "labels/p3.nii.gz", "images/p4.nii.gz"):
        (copy / name).unlink()
    assert run(copy).exit_code == 0


def test_a_copy_without_errors_ends_with_0(data: Path, tmp_path: Path) -> None:
    save(data / "labels" / "p1.nii.gz", -labels().astype(np.int16))
    assert run(data).exit_code == 1
    result = run(data, "--fix", tmp_path / "copy", "--map", "-1=1")
    assert result.exit_code == 0, result.output


def test_a_voxel_in_no_mask_does_not_shift_the_labels_of_its_case(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = np.stack([labels() == 0, labels() == 1], axis=-1).astype(np.uint8)
    save(data / "labels" / "p1.nii.gz", masks)
    masks[0, 0, 0] = 0
    save(data / "labels" / "p0.nii.gz", masks)
    report = medseg3d.check(data, fix=tmp_path / "copy", onehot=True)
    (change,) = report.changes
    assert (change.file, change.before) == ("labels/p1.nii.gz", "2 masks, the first is background")
    written = np.asarray(nib.load(tmp_path / "copy" / "labels" / "p1.nii.gz").dataobj)
    np.testing.assert_array_equal(written, labels())
    assert "case p0: not repaired: 1 voxels are in none of the masks" in caplog.text


def test_fit_is_checked_at_the_spacing_that_it_will_use(tmp_path: Path) -> None:
    """One case is too coarse for the spacing that would be chosen, but not for a given one."""
    root, box = tmp_path / "data", np.zeros((40, 40, 40), np.uint8)
    box[10:30, 10:30, 10:30] = 1
    for n in range(3):
        image = np.random.default_rng(n).integers(1, 90, box.shape).astype(np.int16)
        save(root / "images" / f"p{n}.nii.gz", image, np.diag([0.5, 0.5, 0.5, 1.0]))
        save(root / "labels" / f"p{n}.nii.gz", box, np.diag([0.5, 0.5, 0.5, 1.0]))
    coarse = np.diag([60.0, 60.0, 60.0, 1.0])
    save(root / "images" / "p3.nii.gz", np.arange(720, dtype=np.int16).reshape(SHAPE), coarse)
    save(root / "labels" / "p3.nii.gz", labels(), coarse)
    options = {"data": root, "folds": 2, "device": "cpu"}
    with pytest.raises(DataError, match=r"spacing 60 x 60 x 60 mm with .* check the spacing"):
        planned(validated(FitConfig, options), tmp_path / "chosen")
    given = validated(FitConfig, options | {"spacing": (2.0, 2.0, 2.0)})
    _, plan, _ = planned(given, tmp_path / "given")
    assert plan.spacing == (2.0, 2.0, 2.0)
    edited = validated(FitConfig, options | {"plan": tmp_path / "given" / PLAN})
    assert planned(edited, tmp_path / "edited")[1].spacing == (2.0, 2.0, 2.0)


def test_the_page_is_written_beside_and_never_replaced_unasked(data: Path, tmp_path: Path) -> None:
    break_some(data)
    assert run(data, "--html", tmp_path / "pages").exit_code == 1
    page = tmp_path / "pages" / "check.html"
    assert "data:image/png;base64," in page.read_text(encoding="utf-8")
    with pytest.raises(RunError, match="--overwrite"):
        medseg3d.check(data, html=page)
    report = medseg3d.check(data, html=page, overwrite=True)
    assert "p1" in report.examination.survey.pictures


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"map": ["255"]}, "no pair of label values"),
        ({"map": ["a=1"]}, "no pair of label values"),
        ({"map": ["5=1", "5=2"]}, "mapped twice"),
        ({"resample_labels": True, "ignore_geometry": True}, "exclude each other"),
        ({"replace_nonfinite": float("nan")}, "finite"),
        ({"map": ["255=1"]}, "map is about a repaired copy; give fix, or dry_run"),
        ({"onehot": True}, "onehot is about a repaired copy"),
        ({"replace_nonfinite": 0.0}, "replace_nonfinite is about a repaired copy"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    data: Path, options: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        medseg3d.check(data, **options)


def test_a_folder_that_cannot_be_checked_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        medseg3d.check(tmp_path / "gone")
    with pytest.raises(DataError, match="looked for images/"):
        medseg3d.check(tmp_path)


def test_the_program_refuses_a_copy_before_it_reads(data: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "medseg3d", "check", str(data), "--fix", str(tmp_path / "copy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is not empty" in done.stderr


def test_a_folder_of_dicom_slices_is_a_case_like_any_other(
    shared_data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for name in ("a", "b"):
        (root / "images" / name).symlink_to(shared_data / "dicom" / "ts_ct_j2k")
        label_map = root / "labels" / f"{name}.nii.gz"
        label_map.parent.mkdir(exist_ok=True)
        shutil.copy(shared_data / "dicom" / "ts_ct_j2k_seg.nii.gz", label_map)
    report = medseg3d.check(root)
    codes = {finding.code for finding in report.findings}
    assert codes == {"few-cases", "few-patients", "image-duplicate", "label-turned"}


def test_what_nobody_annotated_is_no_label_if_its_value_is_told(data: Path) -> None:
    unsure = labels()
    unsure[8:] = 255
    save(data / "labels" / "p1.nii.gz", unsure)
    assert run(data).exit_code == 1
    assert run(data, "--set", "ignore_label=255").exit_code == 0
    for value in ("0", "-5"):
        assert run(data, "--set", f"ignore_label={value}").exit_code == 2
