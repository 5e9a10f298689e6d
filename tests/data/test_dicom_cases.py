"""DICOM folders stand wherever an image file may stand."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg3d.api.predicting.targets import find_targets
from medseg3d.config import PredictConfig
from medseg3d.data.cases import find_inputs, pair_by_id
from medseg3d.data.layouts import find_cases
from medseg3d.data.partners import Fault
from medseg3d.errors import DataError
from medseg3d.io import read_image, write_labels

Series = Callable[..., list[Path]]


def label(path: Path, series: Path) -> None:
    volume = read_image(series)
    write_labels(path, np.ones(volume.grid.shape, np.uint8), volume)


def ids(*paths: Path) -> dict[str, list[str]]:
    return {case.id: [image.name for image in case.images] for case in find_inputs(paths)}


def refusal(*paths: Path) -> str:
    with pytest.raises(DataError) as caught:
        find_inputs(paths)
    return str(caught.value)


def test_a_series_folder_is_one_case(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "P1")
    assert ids(tmp_path / "P1") == {"P1": ["P1"]}


def test_a_folder_of_series_is_a_case_each(tmp_path: Path, dicom_series: Series) -> None:
    for name in ("P2", "P1.v2", "image_10"):
        dicom_series(tmp_path / name, name="im{}".format)
    (tmp_path / "empty").mkdir()
    (tmp_path / ".DS_Store").write_text("x")
    assert ids(tmp_path) == {name: [name] for name in ("P1.v2", "P2", "image_10")}


def test_files_and_series_stand_side_by_side(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "P1")
    (tmp_path / "P2.nii.gz").touch()
    assert ids(tmp_path) == {"P1": ["P1"], "P2": ["P2.nii.gz"]}


def test_series_further_below_are_named_by_their_way(tmp_path: Path, dicom_series: Series) -> None:
    for patient in ("P1", "P2"):
        dicom_series(tmp_path / patient / "study" / "ct")
        (tmp_path / patient / "back").symlink_to(tmp_path)
    assert ids(tmp_path) == {"P1_study_ct": ["ct"], "P2_study_ct": ["ct"]}


def test_channels_may_be_series(tmp_path: Path, dicom_series: Series) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        dicom_series(tmp_path / name)
    assert ids(tmp_path) == {"a": ["a_0000", "a_0001"], "b": ["b_0000", "b_0001"]}


def test_one_of_several_series_is_named_like_a_file(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "P1")
    dicom_series(tmp_path / "P1", name="b{}".format, SeriesNumber=7)
    assert ids(tmp_path / "P1" / "series=7") == {"P1_series=7": ["series=7"]}
    (case,) = find_inputs([tmp_path / "P1" / "series=7"])
    assert read_image(case.images).grid.shape == (6, 5, 4)


def test_images_beside_slices_are_not_forgotten(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "P1")
    (tmp_path / "P1" / "other.nii.gz").touch()
    assert "slices of a DICOM series and 1 other images (other.nii.gz)" in refusal(tmp_path / "P1")


def test_a_segmentation_is_no_image_to_predict(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "in" / "P1")
    label(tmp_path / "in" / "P1" / "seg.dcm", tmp_path / "in" / "P1")
    label(tmp_path / "in" / "seg.dcm", tmp_path / "in" / "P1")
    assert ids(tmp_path / "in") == {"P1": ["P1"]}
    assert ids(tmp_path / "in" / "P1") == {"P1": ["P1"]}


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "again").symlink_to(tmp_path)
    assert "no file with a suffix of .nii.gz" in refusal(tmp_path)
    assert "no DICOM series" in refusal(tmp_path)


def test_images_and_labels_may_be_series_and_segmentations(
    tmp_path: Path, dicom_series: Series
) -> None:
    for name in ("P1", "P2"):
        dicom_series(tmp_path / "images" / name)
    label(tmp_path / "labels" / "P1.dcm", tmp_path / "images" / "P1")
    label(tmp_path / "labels" / "P2.nii.gz", tmp_path / "images" / "P2")
    cases = find_cases(tmp_path).cases
    assert [(c.id, c.images[0].name, c.labels and c.labels.name) for c in cases] == [
        ("P1", "P1", "P1.dcm"),
        ("P2", "P2", "P2.nii.gz"),
    ]


def test_patient_folders_may_hold_series(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "P1" / "ct")
    label(tmp_path / "P1" / "seg.nii.gz", tmp_path / "P1" / "ct")
    dicom_series(tmp_path / "P2" / "ct", name="im{}".format)
    label(tmp_path / "P2" / "made.dcm", tmp_path / "P2" / "ct")
    dataset = find_cases(tmp_path)
    assert dataset.channel_names == ("ct",)
    assert [(c.id, c.labels and c.labels.name) for c in dataset.cases] == [
        ("P1", "seg.nii.gz"),
        ("P2", "made.dcm"),
    ]


def test_slices_may_lie_beside_the_label_map(tmp_path: Path, dicom_series: Series) -> None:
    for name in ("P1", "P2"):
        dicom_series(tmp_path / name)
        label(tmp_path / name / "seg.nii.gz", tmp_path / name)
    cases = find_cases(tmp_path).cases
    assert [(c.id, c.images, c.labels) for c in cases] == [
        (n, (tmp_path / n,), tmp_path / n / "seg.nii.gz") for n in ("P1", "P2")
    ]


def test_lists_may_name_series(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "P1")
    label(tmp_path / "P1_label.nii.gz", tmp_path / "P1")
    listed = {"training": [{"image": "P1", "label": "P1_label.nii.gz"}], "labels": {"0": "b"}}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    (case,) = find_cases(tmp_path).cases
    assert case.images == (tmp_path / "P1",)


def test_segmentations_are_scored_beside_other_label_maps(
    tmp_path: Path, dicom_series: Series
) -> None:
    dicom_series(tmp_path / "P1")
    label(tmp_path / "ours" / "P1.dcm", tmp_path / "P1")
    label(tmp_path / "theirs" / "P1_seg.nii.gz", tmp_path / "P1")
    assert [(a.name, b.name) for _, a, b in pair_by_id(tmp_path / "ours", tmp_path / "theirs")] == [
        ("P1.dcm", "P1_seg.nii.gz")
    ]


def test_series_further_below_count_beside_others(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "A")
    dicom_series(tmp_path / "B" / "ct")
    assert ids(tmp_path) == {"A": ["A"], "B_ct": ["ct"]}


def test_series_below_loose_slices_are_missed_aloud(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "P1")
    dicom_series(tmp_path / "P2" / "ct")
    dicom_series(tmp_path)
    unusable: list[Fault] = []
    (case,) = find_inputs([tmp_path], unusable=unusable)
    assert case.images == (tmp_path,)
    stem = tmp_path.name
    assert [fault.cases for fault in unusable] == [(f"{stem}_P1",), (f"{stem}_P2_ct",)]
    assert "move those into a folder of their own, or name" in unusable[0]
    label(tmp_path / "seg" / "seg.dcm", tmp_path / "P1")
    unusable = []
    named = [tmp_path, tmp_path / "P1", tmp_path / "P2" / "ct"]
    found = find_inputs(named, unusable=unusable)
    assert sorted(case.images[0] for case in found) == sorted(named), "what is named is taken"
    assert unusable == []
    assert ids(tmp_path) == {stem: [stem]}, "elsewhere it is a warning"


def test_several_files_of_frames_below_are_a_case_each(
    tmp_path: Path, dicom_series: Series
) -> None:
    dicom_series(tmp_path / "A")
    for file in dicom_series(tmp_path / "B", stored=np.zeros((2, 5, 6), np.int16)):
        frames = pydicom.dcmread(file)
        frames.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        frames.file_meta.MediaStorageSOPClassUID = frames.SOPClassUID
        frames.save_as(file)
    assert ids(tmp_path) == {"A": ["A"], "B_00": ["00.dcm"], "B_01": ["01.dcm"]}


def test_series_too_deep_in_a_data_set_are_told(
    tmp_path: Path, dicom_series: Series, caplog: pytest.LogCaptureFixture
) -> None:
    dicom_series(tmp_path / "images" / "A")
    dicom_series(tmp_path / "images" / "B" / "ct")
    label(tmp_path / "labels" / "A.nii.gz", tmp_path / "images" / "A")
    assert [case.id for case in find_cases(tmp_path).cases] == ["A"]
    assert f"1 folder (B/ct) left out of {tmp_path / 'images'}" in caplog.text


def test_segmentations_hide_no_series(
    tmp_path: Path, dicom_series: Series, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("A", "B"):
        dicom_series(tmp_path / name / "ct")
    label(tmp_path / "A" / "ct_seg.dcm", tmp_path / "A" / "ct")
    label(tmp_path / "B" / "made" / "1.dcm", tmp_path / "B" / "ct")
    assert ids(tmp_path) == {"A_ct": ["ct"], "B_ct": ["ct"]}
    assert f"2 label maps (A, B/made) left out of {tmp_path}" in caplog.text
    assert ids(tmp_path / "A") == {"ct": ["ct"]}


def test_a_segmentation_alone_is_refused(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "ct")
    label(tmp_path / "in" / "a.dcm", tmp_path / "ct")
    for path in (tmp_path / "in", tmp_path / "in" / "a.dcm"):
        assert "a.dcm is a segmentation, not an image" in refusal(path)
    label(tmp_path / "in" / "b.dcm", tmp_path / "ct")
    assert "holds 2 label maps (a.dcm, b.dcm) and no image" in refusal(tmp_path / "in")


def test_label_maps_that_predict_wrote_are_no_images(
    tmp_path: Path, dicom_series: Series, caplog: pytest.LogCaptureFixture
) -> None:
    dicom_series(tmp_path / "P1" / "ct")
    made = ["ct_seg.nii.gz", "P1_ct_seg.mha", "ct_b=50_seg.nii.gz", "a_seg.nrrd", "c_seg.nii"]
    made += [f"a_seg_{what}.nii.gz" for what in ("probabilities", "uncertainty", "sample_01")]
    made += ["a_seg_samples_entropy.nii.gz"]
    for name in (*made, "a.nii.gz", "x_seg.nii.gz", "my_a_seg.nii.gz"):
        (tmp_path / "P1" / name).touch()
    (tmp_path / "P1" / "c.mha").touch()
    assert set(ids(tmp_path / "P1")) == {"ct", "a", "c", "x_seg", "my_a_seg"}
    assert "9 label maps (P1_ct_seg.mha, a_seg.nrrd" in caplog.text
    assert set(ids(tmp_path / "P1" / "a_seg.nrrd")) == {"a_seg"}


def test_results_beside_numbered_channels_are_no_images(tmp_path: Path) -> None:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "a_seg.nii.gz"):
        (tmp_path / name).touch()
    assert ids(tmp_path) == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}


def test_choices_are_named_after_their_folder_or_file(
    tmp_path: Path, dicom_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom_series(tmp_path / "P1")
    monkeypatch.chdir(tmp_path / "P1")
    assert set(ids(Path("series=3"))) == {"P1_series=3"}
    (case,) = find_inputs([Path("series=3")])
    (target,) = find_targets([case], PredictConfig(model=Path("m"), inputs=case.images))
    assert target.labels == tmp_path / "P1_series=3_seg.nii.gz"
    assert set(ids(Path())) == {"P1"}


def test_a_broken_slice_is_named_and_no_other_image(tmp_path: Path, dicom_series: Series) -> None:
    files = dicom_series(tmp_path / "P1")
    files[3].write_bytes(b"")
    assert "03.dcm is empty" in refusal(tmp_path / "P1")
    files[3].write_bytes(b"text")
    message = refusal(tmp_path / "P1")
    assert "03.dcm holds no DICOM" in message
    assert "other images" not in message


def test_reports_and_contours_are_no_channels(
    tmp_path: Path, dicom_series: Series, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("P1", "P2"):
        files = dicom_series(tmp_path / name / "ct")
        label(tmp_path / name / "seg.nii.gz", tmp_path / name / "ct")
    contours = pydicom.dcmread(files[0])
    contours.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    contours.file_meta.MediaStorageSOPClassUID = contours.SOPClassUID
    contours.save_as(tmp_path / "P2" / "rs.dcm")
    dataset = find_cases(tmp_path)
    assert dataset.channel_names == ("ct",)
    assert [len(case.images) for case in dataset.cases] == [1, 1]
    assert "1 file (rs.dcm) left out" in caplog.text
