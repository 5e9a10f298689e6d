"""Every faulty case is told, with the file, the values and what to do."""

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg3d.data.cases import Case, Dataset, find_cases
from medseg3d.data.checks import check_case, check_cases
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
        (root / folder).mkdir(exist_ok=True)
        nib.Nifti1Image(array, affine).to_filename(root / folder / f"{case_id}.nii.gz")
    return root


def described(root: Path, **changes: Any) -> Dataset:
    found = find_cases(root)
    values = {"label_names": {0: "background", 1: "organ", 2: "tumor"}, "channel_names": None}
    values |= changes
    return Dataset(found.root, found.layout, found.cases, **values)


def only_case(root: Path) -> Case:
    (case,) = find_cases(root).cases
    return case


def test_a_sound_case_tells_grid_channels_and_label_counts(tmp_path: Path) -> None:
    facts = check_case(only_case(add(tmp_path, "a")), 1, {0, 1, 2})
    assert facts.case_id == "a"
    assert facts.grid.shape == SHAPE
    assert facts.grid.spacing == (2.0, 1.0, 3.0)
    assert facts.num_channels == 1
    assert facts.label_counts == {0: 80, 1: 30, 2: 10}


def test_labels_of_many_values_are_counted(tmp_path: Path) -> None:
    labels = blocks().astype(np.int32)
    labels[labels == 2] = 70_000
    assert check_case(only_case(add(tmp_path, "a", labels=labels))).label_counts == {
        0: 80,
        1: 30,
        70_000: 10,
    }


def test_an_unlabelled_case_has_its_image_checked_only(tmp_path: Path) -> None:
    case = only_case(add(tmp_path, "a"))
    assert check_case(Case("a", case.images, None, "a")).label_counts == {}


def test_undeclared_values_are_told_with_their_voxels(tmp_path: Path) -> None:
    case = only_case(add(tmp_path, "a", labels=np.where(blocks() == 2, 5, blocks())))
    with pytest.raises(DataError) as caught:
        check_case(case, labels={0, 1, 2})
    told = str(caught.value)
    assert told.startswith("case a: label map")
    assert "undeclared values 5 (10 voxels), declared are 0, 1, 2; declare" in told


def test_at_most_ten_values_are_told(tmp_path: Path) -> None:
    labels = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    with pytest.raises(DataError, match=r"12 \(1 voxels\), and 107 more, declared are 0, 1, 2;"):
        check_case(only_case(add(tmp_path, "a", labels=labels)), labels={0, 1, 2})


def test_a_mask_of_255_gets_a_remedy(tmp_path: Path) -> None:
    labels = (blocks() > 0).astype(np.uint8) * 255
    with pytest.raises(DataError, match=r"255 \(40 voxels\).*map 255 to 1"):
        check_case(only_case(add(tmp_path, "a", labels=labels)), labels={0, 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": blocks()[:5]}, r"shapes \(6, 5, 4\) and \(5, 5, 4\)"),
        ({"label_affine": AFFINE + np.eye(4, k=3) * 5}, "corners lie up to 5 mm"),
        ({"label_affine": np.diag([2.0, 1.0, 6.0, 1.0])}, "spacings 2 x 1 x 3 mm and 2 x 1 x 6"),
        ({"labels": blocks() / np.float32(2)}, "between labels"),
        ({"image": np.full(SHAPE, np.nan, np.float32)}, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_case(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    case = only_case(add(tmp_path, "a", **change))
    with pytest.raises(DataError, match=f"case a: .*{message}"):
        check_case(case)


def test_rounding_of_the_affine_is_no_difference(tmp_path: Path) -> None:
    case = only_case(add(tmp_path, "a", label_affine=AFFINE + np.eye(4, k=3) * 1e-4))
    assert check_case(case).label_counts


def test_a_wrong_number_of_channels_is_refused(tmp_path: Path) -> None:
    case = only_case(add(tmp_path, "a"))
    with pytest.raises(DataError, match=r"has 1 channels, expected 2"):
        check_case(case, num_channels=2)


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
    starts = ["case odd: ", "case shifted: ", "case torn: "]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts
    assert len(calls) == 4


def test_images_with_another_number_of_channels_than_the_rest_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add(tmp_path, name)
    add(tmp_path, "c", image=np.zeros((*SHAPE, 2), dtype=np.int16))
    with pytest.raises(DataError, match="case c: image has 2 channels, 2 other cases have 1"):
        check_cases(described(tmp_path))


def test_the_channels_that_are_named_must_be_there(tmp_path: Path) -> None:
    add(tmp_path, "a")
    with pytest.raises(DataError, match="expected 2"):
        check_cases(described(tmp_path, channel_names=("T1", "T2")))


def test_oddities_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    add(tmp_path, "a", image=same, labels=np.minimum(blocks(), 1))
    add(tmp_path, "b", image=same, labels=np.zeros(SHAPE, np.uint8))
    add(tmp_path, "c", labels=np.ones(SHAPE, np.uint8))
    with caplog.at_level(logging.WARNING, logger="medseg3d"):
        checked = check_cases(described(tmp_path))
    assert checked.label_values == (0, 1)
    assert checked.num_channels == 1
    assert [found.case_id for found in checked.facts] == ["a", "b", "c"]
    assert list(checked.warnings) == [
        "1 label maps hold background only: b",
        "1 label maps hold no background: c",
        "label 2 (tumor) is declared but in no case",
        "cases a, b have the same image and may leak between folds",
    ]
    assert caplog.messages == list(checked.warnings)


def test_a_set_without_any_foreground_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "a", labels=np.zeros(SHAPE, np.uint8))
    with pytest.raises(DataError, match="anything but background"):
        check_cases(described(tmp_path))


def test_the_sample_data_are_sound() -> None:
    checked = check_cases(find_cases(SAMPLE))
    assert checked.label_values == (0, 1, 2)
    assert checked.warnings == ()
    orientations = {found.grid.orientation for found in checked.facts}
    assert orientations == {"RAS", "LAS", "LPS"}
