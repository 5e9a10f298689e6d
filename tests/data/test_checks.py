"""fit runs the checks of the doctor: it refuses all errors at once and tells the warnings."""

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg3d.data.cases import Dataset
from medseg3d.data.checks import check_cases, examine
from medseg3d.data.doctor.facts import Folding
from medseg3d.data.layouts import find_cases
from medseg3d.errors import DataError

SHAPE = (6, 5, 4)
AFFINE = np.diag([2.0, 1.0, 3.0, 1.0])
SAMPLE = Path(__file__).parents[2] / "sample_data"


def blocks() -> np.ndarray[Any, Any]:
    """Labels 0, 1, 2 with 80, 30 and 10 voxels."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels.ravel()[:30] = 1
    labels.ravel()[30:40] = 2
    return labels


def add(
    root: Path,
    case_id: str,
    *,
    labels: np.ndarray[Any, Any] | None = None,
    image: np.ndarray[Any, Any] | None = None,
    label_affine: np.ndarray[Any, Any] = AFFINE,
) -> Path:
    """Write one case into ``images`` and ``labels``."""
    if image is None:
        steps = np.arange(np.prod(SHAPE)) + sum(case_id.encode())
        image = steps.reshape(SHAPE).astype(np.int16)
    labels = blocks() if labels is None else labels
    for folder, array, affine in (("images", image, AFFINE), ("labels", labels, label_affine)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(array, affine).to_filename(root / folder / f"{case_id}.nii.gz")
    return root


def described(root: Path, **changes: Any) -> Dataset:
    found = find_cases(root)
    values = {"label_names": {0: "background", 1: "organ", 2: "tumor"}, "channel_names": None}
    values |= changes
    return Dataset(found.root, found.layout, found.cases, **values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": blocks()[:5]}, r"shapes \(6, 5, 4\) and \(5, 5, 4\)"),
        ({"label_affine": AFFINE + np.eye(4, k=3) * 5}, "corners lie up to 5 mm"),
        ({"label_affine": np.diag([2.0, 1.0, 6.0, 1.0])}, "spacings 2 x 1 x 3 mm and 2 x 1 x 6"),
        ({"labels": blocks() / np.float32(2)}, "between labels"),
        ({"labels": np.where(blocks() == 2, 5, blocks())}, r"undeclared values 5 \(10 voxels\)"),
        ({"labels": blocks() * 127.5}, "between labels"),
        ({"image": np.full(SHAPE, np.nan, np.float32)}, "not finite"),
        ({"image": np.zeros((*SHAPE, 2), np.int16)}, "has 2 channels, 2 other cases have 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_case(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    add(tmp_path, "x")
    add(tmp_path, "y")
    add(tmp_path, "z", **change)
    with pytest.raises(DataError, match=f"case z: .*{message}"):
        check_cases(described(tmp_path))


def test_rounding_of_the_affine_is_no_difference(tmp_path: Path) -> None:
    for case_id in ("a", "b"):
        add(tmp_path, case_id, label_affine=AFFINE + np.eye(4, k=3) * 1e-4)
    assert check_cases(described(tmp_path)).label_values == (0, 1, 2)


def test_every_faulty_case_is_listed(tmp_path: Path) -> None:
    add(tmp_path, "good")
    add(tmp_path, "odd", labels=blocks() + 1)
    add(tmp_path, "shifted", label_affine=AFFINE + np.eye(4, k=3) * 5)
    add(tmp_path, "torn")
    torn = tmp_path / "images" / "torn.nii.gz"
    torn.write_bytes(torn.read_bytes()[:80])
    calls = []
    with pytest.raises(DataError) as caught:
        check_cases(described(tmp_path), advance=lambda: calls.append(1))
    head, *lines = str(caught.value).splitlines()
    assert head == "3 of 4 cases cannot be used:"
    assert sorted(line.split(":")[0] for line in lines) == ["case odd", "case shifted", "case torn"]
    assert len(calls) == 4


def test_the_channels_that_are_named_must_be_there(tmp_path: Path) -> None:
    add(tmp_path, "a")
    with pytest.raises(DataError, match=r"has 1 channel, expected 2 \(T1, T2\); add"):
        check_cases(described(tmp_path, channel_names=("T1", "T2")))


@pytest.mark.parametrize(("channels", "names"), [(1, ("img",)), (4, None)])
def test_one_file_per_patient_may_hold_all_channels(
    tmp_path: Path, channels: int, names: tuple[str, ...] | None
) -> None:
    for patient in ("P1", "P2"):
        add(tmp_path / patient, "x", image=np.ones((*SHAPE, channels), np.int16))
        for folder, name in (("images", "img"), ("labels", "seg")):
            (tmp_path / patient / folder / "x.nii.gz").rename(tmp_path / patient / f"{name}.nii.gz")
            (tmp_path / patient / folder).rmdir()
    dataset = find_cases(tmp_path)
    assert dataset.channel_names == names
    [facts, _] = check_cases(dataset).survey.facts
    assert facts.num_channels == channels


def test_oddities_are_warned_of_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    add(tmp_path, "a", image=same, labels=np.minimum(blocks(), 1))
    add(tmp_path, "b", image=same, labels=np.zeros(SHAPE, np.uint8))
    add(tmp_path, "c", labels=np.ones(SHAPE, np.uint8))
    with caplog.at_level(logging.WARNING, logger="medseg3d"):
        checked = check_cases(described(tmp_path, label_names={0: "background", 1: "organ"}))
    assert checked.label_values == (0, 1)
    assert [found.num_channels for found in checked.survey.facts] == [1, 1, 1]
    assert [found.case_id for found in checked.survey.facts] == ["a", "b", "c"]
    told = "\n".join(caplog.messages)
    assert "cases a, b have the same image and may leak between folds, now in folds" in told
    assert "case b: label map" in told
    assert "holds background only" in told
    assert "case c: label map" in told


def test_a_declared_label_that_no_case_has_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "a", labels=np.minimum(blocks(), 1))
    add(tmp_path, "b", labels=np.minimum(blocks(), 1))
    with pytest.raises(DataError, match=r"label 2 \(tumor\) is declared but in no case; remove"):
        check_cases(described(tmp_path))


def test_structures_are_looked_for_at_the_spacing_that_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    speck = blocks()
    speck[speck == 2] = 0
    speck[4, 2, 1] = 2
    add(tmp_path, "a", labels=speck)
    add(tmp_path, "b")
    for spacing, warned in ((None, False), ((8.0, 8.0, 9.0), True), ((2.0, 1.0, 3.0), False)):
        caplog.clear()
        check_cases(described(tmp_path), spacing=spacing)
        assert ("would vanish at the 8 x 8 x 9 mm that are given" in caplog.text) is warned


def test_a_set_without_any_foreground_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "a", labels=np.zeros(SHAPE, np.uint8))
    with pytest.raises(DataError, match="anything but background"):
        check_cases(described(tmp_path))


def test_the_sample_data_are_sound(caplog: pytest.LogCaptureFixture) -> None:
    checked = check_cases(find_cases(SAMPLE))
    assert checked.label_values == (0, 1, 2)
    assert caplog.messages == []
    assert {found.grid.orientation for found in checked.survey.facts} == {"RAS", "LAS", "LPS"}


def test_nothing_is_found_about_sound_real_cases(shared_data: Path) -> None:
    whole = find_cases(shared_data / "hippocampus")
    few = Dataset(whole.root, whole.layout, whole.cases[:40], whole.label_names, ("MRI",))
    serious = [finding for finding in examine(few).findings if finding.severity != "note"]
    assert {finding.code for finding in serious} <= {"file-unused", "image-huge-values"}


@pytest.mark.parametrize(("folds", "warned"), [(2, False), (3, True)])
def test_few_patients_are_few_for_the_folds_that_are_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, folds: int, warned: bool
) -> None:
    for number, case_id in enumerate(("a", "b")):
        add(tmp_path, case_id, image=np.random.default_rng(number).integers(1, 99, SHAPE, np.int16))
    check_cases(described(tmp_path), folding=Folding(folds))
    assert (f"fit makes {folds} folds" in caplog.text) is warned
