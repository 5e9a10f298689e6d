"""DICOM segmentations: written for a series, read as label maps, the same voxels both ways."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import generate_uid

from medseg3d.errors import DataError
from medseg3d.io import dicom, read_image, read_labels, write_image, write_labels
from medseg3d.io.dicom import segmentation

Series = Callable[..., list[Path]]
SHAPE = (6, 5, 4)


def labels_of(kind: str) -> np.ndarray[Any, Any]:
    labels = np.zeros(SHAPE, np.uint8)
    if kind == "inside":
        labels[1:3, 2:5, 1], labels[4, 1, 2] = 1, 2
    elif kind == "corner":
        labels[0, 0, 0] = 1
    elif kind == "gap":
        labels[0, 0, 0], labels[5, 4, 3] = 3, 3
    elif kind == "full":
        labels[:] = np.random.default_rng(0).integers(0, 4, SHAPE)
    return labels


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_labels(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "inside", "corner", "gap", "full"])
@pytest.mark.parametrize("step", [(0.0, 0.0, 2.5), (0.0, 0.0, -2.5)])
def test_what_is_written_is_read(
    tmp_path: Path, dicom_series: Series, kind: str, step: tuple[float, float, float]
) -> None:
    dicom_series(tmp_path / "ct", step=step)
    volume = read_image(tmp_path / "ct")
    labels = labels_of(kind)
    write_labels(tmp_path / "seg.dcm", labels, volume)
    stored = read_labels(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(stored.labels, labels)
    assert stored.grid.same_as(volume.grid, 1e-6)
    assert stored.is_cropped


def test_highdicom_reads_the_same_voxels_in_the_same_place(
    tmp_path: Path, dicom_series: Series
) -> None:
    turn = np.linalg.qr(np.array([[3.0, 1, 0.2], [0.5, 2, 1], [0.1, 0.7, 4]]))[0]
    turn *= np.sign(np.linalg.det(turn))
    orientation = [float(f"{value:.10f}") for value in turn.T[:2].ravel()]
    step = tuple(float(f"{value:.9f}") for value in turn[:, 2] * 1.7)
    dicom_series(tmp_path / "mr", step=step, ImageOrientationPatient=orientation)
    volume = read_image(tmp_path / "mr")
    labels = labels_of("full")
    write_labels(tmp_path / "seg.dcm", labels, volume, names={1: "liver", 2: "tumor"})
    other = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    ours = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ volume.grid.affine)
    for index in np.ndindex(other.array.shape):
        world = other.affine @ [*index, 1]
        place = tuple(np.rint(ours @ world)[:3].astype(int))
        assert other.array[index] == labels[place]


def test_itk_finds_each_frame_in_its_place(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    labels = (labels_of("full") == 1).astype(np.uint8)
    write_labels(tmp_path / "seg.dcm", labels, volume)
    image = SimpleITK.ReadImage(str(tmp_path / "seg.dcm"))
    frames = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    heights = [item.PlanePositionSequence[0].ImagePositionPatient[2] for item in frames]
    found = SimpleITK.GetArrayFromImage(image)[np.argsort(heights)]
    np.testing.assert_array_equal(found.T != 0, labels != 0)


def test_values_that_skip_numbers_come_back(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    labels = labels_of("inside").astype(np.uint16) * 300
    write_labels(tmp_path / "seg.dcm", labels, volume)
    np.testing.assert_array_equal(read_labels(tmp_path / "seg.dcm").labels, labels)
    numbers = [item.SegmentNumber for item in pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence]
    assert numbers == [1, 2]


def test_the_file_refers_to_its_series_and_says_who_made_it(
    tmp_path: Path, dicom_series: Series
) -> None:
    files = dicom_series(tmp_path / "ct", PatientName="Doe^Jane", PatientID="7", PatientSex="F")
    names = {1: "kidney_left", 2: "Läsion", 3: "spleen"}
    write_labels(tmp_path / "seg.dcm", labels_of("full"), read_image(tmp_path / "ct"), names=names)
    made, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(files[0])
    assert made.SegmentationType == "BINARY"
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID"):
        assert made[keyword].value == source[keyword].value
    series = made.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    referred = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referred == {pydicom.dcmread(file).SOPInstanceUID for file in files}
    first, second, third = made.SegmentSequence
    assert [item.SegmentLabel for item in made.SegmentSequence] == list(names.values())
    kidney = first.SegmentedPropertyTypeCodeSequence[0]
    assert (kidney.CodeValue, kidney.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert third.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "medseg3d"
    assert algorithm.AlgorithmVersion == made.SoftwareVersions


def test_nothing_of_the_patient_is_said_while_writing(
    tmp_path: Path,
    dicom_series: Series,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    personal = {"PatientName": "MARKER", "PatientID": "MARKER" * 20, "StudyDescription": "MARKER"}
    dicom_series(tmp_path / "ct", **personal, PatientBirthDate="MARKER")
    said = ""
    try:
        write_labels(tmp_path / "seg.dcm", labels_of("full"), read_image(tmp_path / "ct"))
    except DataError as error:
        said = str(error)
    captured = capfd.readouterr()
    assert "MARKER" not in said + caplog.text + captured.out + captured.err


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "SeriesInstanceUID"])
def test_a_series_that_cannot_be_referred_to_is_refused(
    tmp_path: Path, dicom_series: Series, keyword: str
) -> None:
    dicom_series(tmp_path / "ct", **{keyword: ""})
    volume = read_image(tmp_path / "ct")
    with pytest.raises(DataError, match=f"00.dcm has no {keyword}; choose another format"):
        write_labels(tmp_path / "seg.dcm", labels_of("full"), volume)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_without_patient_works(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "ct", PatientID=None, PatientName=None)
    write_labels(tmp_path / "seg.dcm", labels_of("full"), read_image(tmp_path / "ct"))
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientID == ""


def test_only_label_maps_of_a_series_are_written(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    with pytest.raises(DataError, match="only label maps are written as DICOM"):
        write_image(tmp_path / "a.dcm", volume.array, volume)
    write_labels(tmp_path / "a.nii.gz", labels_of("full"), volume)
    like = read_image(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match=r"refers to the DICOM series .* which was NIfTI here"):
        write_labels(tmp_path / "a.dcm", labels_of("full"), like)


def test_a_series_that_is_gone_is_told(tmp_path: Path, dicom_series: Series) -> None:
    files = dicom_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    files[1].unlink()
    with pytest.raises(DataError, match=r"01\.dcm"):
        write_labels(tmp_path / "seg.dcm", labels_of("full"), volume)


def test_label_maps_may_be_written_as_anything_else(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    for suffix in (".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".mgz"):
        write_labels(tmp_path / f"a{suffix}", labels_of("full"), volume, names={1: "liver"})
        stored = read_labels(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(stored.labels, labels_of("full"))
        assert stored.grid.same_as(volume.grid)


def test_the_real_segmentation_is_its_nrrd_voxel_for_voxel(shared_data: Path) -> None:
    folder = shared_data / "dicom"
    dicom, nrrd = (read_labels(folder / n) for n in ("dcmqi_seg_liver.dcm", "dcmqi_liver_seg.nrrd"))
    assert int((nrrd.labels == 1).sum()) == 107098
    np.testing.assert_array_equal(dicom.labels, nrrd.labels)
    assert dicom.grid.same_as(nrrd.grid)
    assert dicom.grid.same_as(read_image(folder / "dcmqi_ct3").grid)


def test_real_segmentations_of_other_kinds(shared_data: Path) -> None:
    folder = shared_data / "dicom"
    sparse = read_labels(folder / "dcmqi_seg_sparse-labelmap-ppv5.dcm")
    assert sparse.grid.shape == (24, 38, 3)
    counts = np.bincount(sparse.labels.ravel())
    assert counts.tolist() == [2106, 630]
    assert not sparse.labels[..., 1].any()
    binary = read_labels(folder / "highdicom_seg_image_ct_binary.dcm")
    reference = highdicom.seg.segread(folder / "highdicom_seg_image_ct_binary.dcm")
    assert int(binary.labels.sum()) == int((reference.pixel_array != 0).sum())
    for name in ("dcmqi_seg_partial_overlaps", "highdicom_seg_image_ct_binary_overlap"):
        assert "is not one label map: segments 1 and 2 overlap" in refusal(folder / f"{name}.dcm")
    fractional = refusal(folder / "highdicom_seg_image_ct_true_fractional.dcm")
    assert "is a fractional segmentation" in fractional
    assert "declares 1 frames but describes 3" in refusal(folder / "pydicom_liver_1frame.dcm")


def written(tmp_path: Path, dicom_series: Series) -> Any:
    dicom_series(tmp_path / "ct")
    write_labels(tmp_path / "seg.dcm", labels_of("full"), read_image(tmp_path / "ct"))
    return pydicom.dcmread(tmp_path / "seg.dcm")


def test_damaged_segmentations_are_refused(tmp_path: Path, dicom_series: Series) -> None:
    path = tmp_path / "seg.dcm"
    whole = written(tmp_path, dicom_series)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    assert "is cut short" in refusal(path) or "breaks off" in refusal(path)
    whole.SegmentSequence = whole.SegmentSequence[:1]
    whole.save_as(path)
    assert "segments that it does not describe" in refusal(path)
    whole.PerFrameFunctionalGroupsSequence = whole.PerFrameFunctionalGroupsSequence[:3]
    whole.save_as(path)
    assert "describes 3" in refusal(path)


def test_frames_at_uneven_distances_are_refused(tmp_path: Path, dicom_series: Series) -> None:
    whole = written(tmp_path, dicom_series)
    frames = whole.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence[0].ImagePositionPatient = [10, 20, 1.1]
    whole.save_as(tmp_path / "seg.dcm")
    assert "frames at uneven distances" in refusal(tmp_path / "seg.dcm")


def enhanced(path: Path, heights: list[float], b_values: list[int] | None = None) -> None:
    """A multi-frame file of 4 rows and 5 columns."""
    step_mm = 2.0
    image = pydicom.Dataset()
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", generate_uid()
    image.SeriesInstanceUID, image.StudyInstanceUID = generate_uid(), generate_uid()
    image.FrameOfReferenceUID, image.Modality = generate_uid(), "MR"
    image.SeriesNumber, image.NumberOfFrames = 5, len(heights)
    image.Rows, image.Columns, image.SamplesPerPixel = 4, 5, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    measures, orientation, shared = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = [2.0, 1.5], step_mm
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place, height in enumerate(heights):
        position, frame = pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = [0, 0, height]
        frame.PlanePositionSequence = [position]
        if b_values:
            frame.MRDiffusionSequence = [pydicom.Dataset()]
            frame.MRDiffusionSequence[0].DiffusionBValue = float(b_values[place])
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    image.PixelData = np.zeros((len(heights), 4, 5), np.uint16).tobytes()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    image.save_as(path, enforce_file_format=True)


def test_segments_of_an_enhanced_image_stay_in_their_place(tmp_path: Path) -> None:
    enhanced(tmp_path / "mr.dcm", [4.0, 0.0, 2.0])
    volume = read_image(tmp_path / "mr.dcm")
    labels = np.zeros((5, 4, 3), np.uint8)
    labels[1, 2, 0], labels[2, 3, 2] = 1, 2
    write_labels(tmp_path / "seg.dcm", labels, volume)
    stored = read_labels(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(stored.labels, labels)
    assert stored.grid.same_as(volume.grid)


def test_a_segmentation_of_chosen_frames_refers_to_these(tmp_path: Path) -> None:
    (tmp_path / "mr").mkdir()
    enhanced(tmp_path / "mr" / "a.dcm", [0.0, 0.0, 2.0, 2.0], [0, 800, 0, 800])
    labels = np.zeros((5, 4, 2), np.uint8)
    labels[1, 2, 0], labels[2, 3, 1] = 1, 2
    for choice in (tmp_path / "mr" / "b=800", tmp_path / "mr" / "a.dcm" / "b=800"):
        volume = read_image(choice)
        write_labels(tmp_path / "seg.dcm", labels, volume)
        stored = read_labels(tmp_path / "seg.dcm")
        np.testing.assert_array_equal(stored.labels, labels)
        assert stored.grid.same_as(volume.grid)
        referred = [
            source.ReferencedFrameNumber
            for frame in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
            for source in frame.DerivationImageSequence[0].SourceImageSequence
        ]
        assert referred == [2, 4]


def test_several_multi_frame_files_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "mr").mkdir()
    for place in range(2):
        enhanced(tmp_path / "mr" / f"{place}.dcm", [2.0 * place])
        image = pydicom.dcmread(tmp_path / "mr" / f"{place}.dcm")
        image.SeriesInstanceUID, image.StudyInstanceUID = "1.2.3", "1.2"
        image.save_as(tmp_path / "mr" / f"{place}.dcm")
    assert read_image(tmp_path / "mr").grid.shape == (5, 4, 2)
    with pytest.raises(DataError, match=r"a single multi-frame file, but .*mr has 2"):
        dicom.expect_identified(tmp_path / "mr")


def test_a_cropped_label_map_fills_the_grid_of_its_image(
    tmp_path: Path, dicom_series: Series
) -> None:
    dicom_series(tmp_path / "ct")
    volume = read_image(tmp_path / "ct")
    labels = labels_of("inside")
    write_labels(tmp_path / "whole.dcm", labels, volume)
    # as other programs write it: without the empty frames at both ends
    whole = pydicom.dcmread(tmp_path / "whole.dcm")
    kept = [1, 2]
    bits = np.unpackbits(np.frombuffer(whole.PixelData, np.uint8), bitorder="little")
    frames = bits[: whole.NumberOfFrames * 30].reshape(-1, 30)
    places = [
        f.PlanePositionSequence[0].ImagePositionPatient[2] / 2.5
        for f in whole.PerFrameFunctionalGroupsSequence
    ]
    keep = [n for n, place in enumerate(places) if place in kept]
    whole.PixelData = np.packbits(frames[keep].ravel(), bitorder="little").tobytes()
    whole.PerFrameFunctionalGroupsSequence = [
        whole.PerFrameFunctionalGroupsSequence[n] for n in keep
    ]
    whole.NumberOfFrames = len(keep)
    whole.save_as(tmp_path / "cropped.dcm")
    cropped = read_labels(tmp_path / "cropped.dcm")
    assert cropped.grid.shape == (6, 5, 2)
    filled = cropped.filled(volume.grid)
    np.testing.assert_array_equal(filled.labels, labels)
    assert filled.grid.same_as(volume.grid)
    turned = volume.grid.canonical()
    assert cropped.filled(turned).labels[-2, -3, 1] == labels[1, 2, 1] == 1
    away = type(volume.grid)((6, 5, 4), volume.grid.affine + np.eye(4)[:, [3]] * 0.3)
    assert cropped.filled(away) is cropped


def test_names_are_read_by_label_value(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "ct")
    names = {1: "liver", 3: "tumor"}
    write_labels(tmp_path / "a.dcm", labels_of("full"), read_image(tmp_path / "ct"), names=names)
    assert read_labels(tmp_path / "a.dcm").names == names | {2: "label 2"}


def test_tables_of_values_are_read_only_when_complete() -> None:
    def item(number: int, text: str) -> pydicom.Dataset:
        segment = pydicom.Dataset()
        segment.SegmentNumber, segment.SegmentDescription = number, text
        return segment

    noted = [item(1, "Label value 5"), item(2, "Label value 9")]
    assert segmentation._values(noted) == {1: 5, 2: 9}
    assert segmentation._values([*noted, item(3, "spleen")]) == {1: 1, 2: 2, 3: 3}
    assert segmentation._values([item(1, "Label value 5"), item(2, "Label value 5")]) == {
        1: 1,
        2: 2,
    }
