"""Which files make a case."""

import logging
from pathlib import Path

import numpy as np
import pytest

from medseg3d.data.cases import Case
from medseg3d.data.partners import Fault
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, write_image
from medseg3d.review.finding import find_cases

VOXELS = Volume.from_array(np.zeros((1, 2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4)))


def put(folder: Path, *names: str) -> Path:
    for name in names:
        write_image(folder / f"{name}.nii.gz", VOXELS.array, VOXELS)
    return folder


def test_cases_pair_by_id_and_channels_belong_together(tmp_path: Path) -> None:
    predictions = put(tmp_path / "p", "b", "a", "a_uncertainty", "a_probabilities")
    put(predictions, "a_sample_01", "a_sample_02", "a_samples_entropy")
    images = put(tmp_path / "i", "a_0000", "a_0001", "b_0000", "b_0001", "c_0000", "c_0001")
    references = put(tmp_path / "r", "a")
    unusable: list[Fault] = []
    first, second = find_cases(predictions, [images], references, unusable=unusable)
    assert (first.id, second.id) == ("a", "b")
    assert [path.name for path in first.images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert first.prediction == predictions / "a.nii.gz"
    assert first.reference == references / "a.nii.gz"
    assert first.uncertainty == predictions / "a_uncertainty.nii.gz"
    assert second.reference is second.uncertainty is None
    assert unusable == []


def test_endings_that_say_what_a_file_is_do_not_matter(tmp_path: Path) -> None:
    predictions = put(tmp_path / "p", "a_pred", "b_pred")
    found = find_cases(
        predictions,
        [put(tmp_path / "i", "a", "b")],
        put(tmp_path / "r", "a_seg", "b_seg"),
        unusable=[],
    )
    assert [case.id for case in found] == ["a", "b"]
    assert [case.reference.name for case in found if case.reference] == [
        "a_seg.nii.gz",
        "b_seg.nii.gz",
    ]


def test_an_image_beside_its_prediction_is_not_taken_for_one(tmp_path: Path) -> None:
    put(tmp_path, "a", "a_seg", "b", "b_seg")
    unusable: list[Fault] = []
    images = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    for given in (images, [tmp_path]):
        found = find_cases(tmp_path, given, unusable=unusable)
        assert [(case.id, case.prediction.name) for case in found] == [
            ("a", "a_seg.nii.gz"),
            ("b", "b_seg.nii.gz"),
        ]
    assert unusable == []


def test_one_of_each_is_a_case_whatever_the_names(tmp_path: Path) -> None:
    put(tmp_path, "ct", "expert", "network")
    [case] = find_cases(
        tmp_path / "network.nii.gz",
        [tmp_path / "ct.nii.gz"],
        tmp_path / "expert.nii.gz",
        unusable=[],
    )
    assert (case.id, case.reference) == ("ct", tmp_path / "expert.nii.gz")


def test_a_prediction_without_an_image_spoils_no_other(tmp_path: Path) -> None:
    unusable: list[Fault] = []
    predictions = put(tmp_path / "p", "a", "b", "x")
    found = find_cases(predictions, [put(tmp_path / "i", "a", "b")], unusable=unusable)
    assert [case.id for case in found] == ["a", "b"]
    [fault] = unusable
    assert (fault.cases, str(fault)) == (("x",), "has no image of its name")


def test_the_reason_is_the_images_own_and_other_images_do_not_matter(tmp_path: Path) -> None:
    images = put(tmp_path / "i", "a_0000", "a_0001", "p", "x_0000", "x_0002", "torn")
    (images / "torn.nii.gz").write_bytes(b"")
    unusable: list[Fault] = []
    nowhere = tmp_path / "nowhere.nii.gz"
    predictions = put(tmp_path / "p", "a", "p_pred")
    found = find_cases(predictions, [images, nowhere], unusable=unusable)
    assert [case.id for case in found] == ["a"]
    assert [(fault.cases, fault.file) for fault in unusable] == [
        (("p_pred",), images / "p.nii.gz"),
        (("nowhere.nii.gz",), nowhere),
    ]
    assert "lacks the channel number that others have" in unusable[0]
    with pytest.raises(DataError, match="lacks the channel number that others have"):
        find_cases(put(tmp_path / "q", "p"), [images], unusable=[])


def test_a_data_set_brings_images_and_references(tmp_path: Path) -> None:
    put(tmp_path, "a", "ct", "b", "other")
    cases = {
        "a": Case("a", (tmp_path / "ct.nii.gz",), tmp_path / "b.nii.gz", "a"),
        "z": Case("z", (tmp_path / "other.nii.gz",), tmp_path / "b.nii.gz", "z"),
    }
    [case] = find_cases(put(tmp_path / "p", "a"), cases, unusable=[])
    assert case.images == (tmp_path / "ct.nii.gz",)
    assert case.reference == tmp_path / "b.nii.gz"


def test_sets_that_share_nothing_are_refused(tmp_path: Path) -> None:
    predictions, images = put(tmp_path / "p", "a", "b"), put(tmp_path / "i", "c", "d")
    with pytest.raises(DataError, match=r"none of the 2 predictions \(a, b\) .* 2 images \(c, d\)"):
        find_cases(predictions, [images], unusable=[])
    with pytest.raises(DataError, match="does not exist"):
        find_cases(tmp_path / "nowhere", [images], unusable=[])


def test_what_lacks_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="medseg3d")
    images = put(tmp_path / "i", "a", "b", "c")
    find_cases(put(tmp_path / "p", "a", "b"), [images], put(tmp_path / "r", "a"), unusable=[])
    assert "1 of 3 images have no prediction and are left out" in caplog.messages
    assert "1 prediction (b) shown without a reference" in caplog.messages
