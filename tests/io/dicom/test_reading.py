"""A folder of slices is one volume, or one sentence says why it is not."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from medseg3d import machine
from medseg3d.errors import DataError
from medseg3d.io import case_stem, read_grid, read_image, read_labels, sources
from medseg3d.io.dicom import pixels, values

Series = Callable[..., list[Path]]
STORED = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path)
    return str(caught.value)


def test_voxels_lie_where_their_positions_say(tmp_path: Path, dicom_series: Series) -> None:
    folder = tmp_path / "ct"
    files = dicom_series(folder)
    volume = read_image(folder)
    # columns 0.6 mm, rows 0.8 mm, positions 2.5 mm apart; LPS (10, 20, 0) is RAS (-10, -20, 0)
    expected = [[-0.6, 0, 0, -10], [0, -0.8, 0, -20], [0, 0, 2.5, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.grid.affine, expected, atol=1e-12)
    np.testing.assert_array_equal(volume.array[0], STORED.transpose(2, 1, 0))
    assert volume.array.dtype == np.int16
    assert volume.notes == ()
    assert read_grid(folder) == (volume.grid, 1)
    assert sources(folder) == tuple(files)
    assert case_stem(folder) == "ct"


def test_oblique_slices_agree_with_itk(tmp_path: Path, dicom_series: Series) -> None:
    turn = np.linalg.qr(np.array([[3.0, 1, 0.2], [0.5, 2, 1], [0.1, 0.7, 4]]))[0]
    turn *= np.sign(np.linalg.det(turn))
    step = tuple((turn[:, 2] * 1.7).tolist())
    orientation = [float(f"{value:.10f}") for value in turn.T[:2].ravel()]
    files = dicom_series(tmp_path / "mr", step=step, ImageOrientationPatient=orientation)
    volume = read_image(tmp_path / "mr")
    image = SimpleITK.ReadImage([str(file) for file in files])
    np.testing.assert_array_equal(volume.array[0], SimpleITK.GetArrayFromImage(image).T)
    for index in [(0, 0, 0), (5, 4, 3), (2, 1, 3)]:
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(volume.grid.affine @ [*index, 1], [-x, -y, z, 1], atol=1e-4)


def test_neither_names_nor_numbers_say_the_order(tmp_path: Path, dicom_series: Series) -> None:
    names = ["image_10", "image_2", "image_9", "image_1"]
    dicom_series(
        tmp_path / "a",
        name=names.__getitem__,
        per_slice=lambda place: {"InstanceNumber": (place * 7) % 5},
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a").array[0], STORED.transpose(2, 1, 0))


def test_slices_from_head_to_foot_are_turned_over(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", step=(0.0, 0.0, -2.5))
    volume = read_image(tmp_path / "a")
    np.testing.assert_array_equal(volume.array[0], STORED[::-1].transpose(2, 1, 0))
    assert volume.grid.affine[2, 3] == -7.5


def test_every_slice_has_its_own_scale(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(
        tmp_path / "pet",
        Modality="PT",
        per_slice=lambda place: {"RescaleSlope": 0.5 * (place + 1), "RescaleIntercept": place},
    )
    volume = read_image(tmp_path / "pet")
    factors = np.array([0.5, 1.0, 1.5, 2.0])[:, None, None]
    expected = STORED * factors + np.arange(4)[:, None, None]
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array[0], expected.transpose(2, 1, 0), rtol=1e-6)


@pytest.mark.parametrize(
    ("stored", "intercept", "dtype"),
    [
        (np.uint16([[[0, 1000], [2000, 4095]]]), -1024, np.int16),
        (np.uint16([[[0, 1], [40000, 65535]]]), 0, np.uint16),
        (np.uint16([[[0, 1], [40000, 65535]]]), -1024, np.int32),
        (np.int16([[[-32768, -1], [0, 32767]]]), 0, np.int16),
        (np.uint8([[[0, 1], [2, 255]]]), -1, np.int16),
    ],
)
def test_integers_stay_integers(
    tmp_path: Path, dicom_series: Series, stored: Any, intercept: int, dtype: Any
) -> None:
    dicom_series(tmp_path / "a", stored=np.repeat(stored, 2, 0), RescaleIntercept=intercept)
    array = read_image(tmp_path / "a").array
    assert array.dtype == dtype
    np.testing.assert_array_equal(array[0, ..., 0].T, stored[0].astype(np.int64) + intercept)


def test_graphics_in_left_over_bits_are_no_values(tmp_path: Path, dicom_series: Series) -> None:
    values_ = np.uint16([[[0, 5], [4095, 7]], [[1, 2], [3, 4]]])
    dicom_series(tmp_path / "a", stored=values_ | 0xF000, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_image(tmp_path / "a").array[0].T, values_)
    signed = np.int16([[[-2048, 5], [2047, -1]], [[1, 2], [3, 4]]])
    dicom_series(tmp_path / "b", stored=signed & 0x0FFF, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_image(tmp_path / "b").array[0].T, signed)
    for number, meant in enumerate((values_, signed)):
        folder = tmp_path / f"high {number}"
        files = dicom_series(folder, stored=meant << 4 | 0xF, BitsStored=12, HighBit=15)
        np.testing.assert_array_equal(read_image(folder).array[0].T, meant)
        for file in files:
            content = pydicom.dcmread(file)
            content.compress(RLELossless, generate_instance_uid=False)
            content.save_as(file)
        np.testing.assert_array_equal(read_image(folder).array[0].T, meant)


def test_inverted_display_leaves_values_alone(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", PhotometricInterpretation="MONOCHROME1")
    volume = read_image(tmp_path / "a")
    np.testing.assert_array_equal(volume.array[0], STORED.transpose(2, 1, 0))
    assert "MONOCHROME1" in volume.notes[0]


def test_a_missing_slice_is_named_by_its_neighbors(tmp_path: Path, dicom_series: Series) -> None:
    stored = np.zeros((7, 5, 6), np.int16)
    dicom_series(tmp_path / "a", stored=stored)[4].unlink()
    message = refusal(tmp_path / "a")
    assert "gap of 5 mm between 03.dcm and 05.dcm" in message
    assert "7.5 to 12.5 mm" in message
    assert "1 missing" in message


def test_uneven_steps_are_refused_and_small_ones_told(tmp_path: Path, dicom_series: Series) -> None:
    def at(*heights: float) -> Callable[[int], dict[str, Any]]:
        return lambda place: {"ImagePositionPatient": [0, 0, heights[place]]}

    dicom_series(tmp_path / "a", per_slice=at(0, 2.5, 5, 8))
    assert "2.5 to 3 mm apart" in refusal(tmp_path / "a")
    dicom_series(tmp_path / "b", per_slice=at(0, 2.5, 5.08, 7.5))
    assert "2.42 to 2.58 mm apart" in read_image(tmp_path / "b").notes[0]
    dicom_series(tmp_path / "c", per_slice=at(0, 2.5, 5.01, 7.5))
    assert read_image(tmp_path / "c").notes == ()


def test_a_tilted_gantry_is_named_with_its_angle(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", step=(0.0, 2.5 * np.tan(np.radians(12)), 2.5))
    assert "tilted gantry: its slices shift by 12.0 degrees" in refusal(tmp_path / "a")


def test_a_slice_beside_the_others_is_refused(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(
        tmp_path / "a",
        per_slice=lambda place: {"ImagePositionPatient": [9 if place == 2 else 0, 0, place * 2.5]},
    )
    assert "02.dcm lies" in refusal(tmp_path / "a")


@pytest.mark.parametrize(
    ("trait", "tags"),
    [
        ("b", lambda group: {"DiffusionBValue": float(group * 500)}),
        ("echo", lambda group: {"EchoTime": 10.0 * group}),
        ("time", lambda group: {"TemporalPositionIdentifier": group}),
        ("phase", lambda group: {"TriggerTime": 100.0 * group}),
        ("acquisition", lambda group: {"AcquisitionNumber": group}),
        ("type", lambda group: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[group - 1]]}),
    ],
)
def test_volumes_in_one_place_are_listed_and_one_can_be_chosen(
    tmp_path: Path, dicom_series: Series, trait: str, tags: Callable[[int], dict[str, Any]]
) -> None:
    stored = np.concatenate([STORED, STORED + 1000])

    def two(place: int) -> dict[str, Any]:
        height = (place % 4) * 2.5
        return {"ImagePositionPatient": [0, 0, height]} | tags(place // 4 + 1)

    dicom_series(tmp_path / "a", stored=stored, per_slice=two)
    message = refusal(tmp_path / "a")
    assert f"holds 2 volumes in the same place: {trait}=" in message
    assert message.count("4 slices of 6x5") == 2
    choice = Path(message.split("choose one as ")[1].split(",")[0])
    volume = read_image(choice)
    np.testing.assert_array_equal(volume.array[0], STORED.transpose(2, 1, 0))
    assert len(sources(choice)) == 4
    assert "there are: " in refusal(tmp_path / "a" / f"{trait}=12345")


def test_volumes_that_lie_between_each_other_are_told_apart(
    tmp_path: Path, dicom_series: Series
) -> None:
    dicom_series(tmp_path / "a", per_slice=lambda place: {"EchoTime": 10.0 + place % 2})
    message = refusal(tmp_path / "a")
    assert "2 volumes between each other: echo=10 (CT, 2 slices of 6x5), echo=11" in message
    assert read_image(tmp_path / "a" / "echo=11").grid.spacing[2] == 5.0


def test_doubled_positions_without_a_reason_are_refused(
    tmp_path: Path, dicom_series: Series
) -> None:
    dicom_series(
        tmp_path / "a", per_slice=lambda p: {"ImagePositionPatient": [0, 0, min(p, 2) * 2.5]}
    )
    assert "1 slices lie in the place of another, the first 03.dcm" in refusal(tmp_path / "a")


def test_a_file_that_is_there_twice_counts_once(tmp_path: Path, dicom_series: Series) -> None:
    files = dicom_series(tmp_path / "a")
    (tmp_path / "a" / "copy of 02.dcm").write_bytes(files[2].read_bytes())
    volume = read_image(tmp_path / "a")
    assert volume.grid.shape[2] == 4
    assert "1 slices are there twice" in volume.notes[0]
    changed = bytearray(files[2].read_bytes())
    changed[-1] ^= 1
    (tmp_path / "a" / "copy of 02.dcm").write_bytes(changed)
    assert "claim to be the same image but differ" in refusal(tmp_path / "a")


def test_several_series_are_listed_and_one_can_be_chosen(
    tmp_path: Path, dicom_series: Series
) -> None:
    dicom_series(tmp_path / "a")
    dicom_series(tmp_path / "a", stored=STORED[:3], name="b{:02d}".format, SeriesNumber=7)
    message = refusal(tmp_path / "a")
    assert "holds 2 series: series=3 (CT, 4 slices of 6x5), series=7 (CT, 3 slices" in message
    assert read_image(tmp_path / "a" / "series=7").grid.shape == (6, 5, 3)


def test_series_of_one_number_are_told_apart(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a")
    dicom_series(tmp_path / "a", stored=STORED[:3], name="b{:02d}".format)
    message = refusal(tmp_path / "a")
    chosen = Path(message.split("choose one as ")[1].split(",")[0])
    assert read_image(chosen).grid.shape[:2] == (6, 5)


def test_an_empty_series_identifier_is_no_obstacle(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", SeriesInstanceUID="")
    assert read_image(tmp_path / "a").grid.shape == (6, 5, 4)


def test_scouts_are_left_out_and_told(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a")
    scout = {
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    }
    dicom_series(tmp_path / "a", stored=STORED[:1], name="s{:02d}".format, SeriesNumber=1, **scout)
    volume = read_image(tmp_path / "a")
    assert volume.grid.shape == (6, 5, 4)
    assert "1 image of other series, such as scouts, left out" in volume.notes[0]


def test_scouts_inside_a_series_are_left_out(tmp_path: Path, dicom_series: Series) -> None:
    scout = {
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    }
    dicom_series(tmp_path / "a", per_slice=lambda place: scout if place == 3 else {})
    volume = read_image(tmp_path / "a")
    assert volume.grid.shape == (6, 5, 3)
    assert "1 localizer images of another orientation are left out" in volume.notes[0]


def test_mixed_orientations_are_refused(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(
        tmp_path / "a",
        per_slice=lambda p: {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]} if p > 2 else {},
    )
    message = refusal(tmp_path / "a")
    assert "2 orientations or sizes: plane=axial (CT, 3 slices of 6x5), plane=sagittal" in message
    assert read_image(tmp_path / "a" / "plane=axial").grid.shape == (6, 5, 3)


def test_what_lies_beside_slices_is_counted(tmp_path: Path, dicom_series: Series) -> None:
    folder = tmp_path / "a"
    files = dicom_series(folder)
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    report = pydicom.dcmread(files[0])
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID
    report.save_as(folder / "report")
    volume = read_image(folder)
    np.testing.assert_array_equal(volume.array[0], STORED.transpose(2, 1, 0))
    assert "2 files are no slices and are skipped (1 no DICOM, 1 Basic Text SR)" in volume.notes[0]


def test_a_broken_slice_is_not_skipped(tmp_path: Path, dicom_series: Series) -> None:
    files = dicom_series(tmp_path / "a")
    files[3].write_bytes(b"")
    assert "03.dcm is empty" in refusal(tmp_path / "a")
    files = dicom_series(tmp_path / "b", name="im{}".format)
    files[3].write_bytes(b"")
    assert "im3 is empty" in refusal(tmp_path / "b")


@pytest.mark.parametrize("cut", [1, 17, 60])
def test_pixels_cut_short_are_refused(tmp_path: Path, dicom_series: Series, cut: int) -> None:
    files = dicom_series(tmp_path / "a")
    files[1].write_bytes(files[1].read_bytes()[:-cut])
    message = refusal(tmp_path / "a")
    assert f"01.dcm is cut short: it holds {60 - cut} of 60 bytes" in message or (
        "01.dcm breaks off" in message or "01.dcm holds no pixels" in message
    )


def test_headers_that_lie_about_the_size_cost_no_memory(
    tmp_path: Path, dicom_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom_series(tmp_path / "a", Rows=60000, Columns=60000)
    assert "declares 60000 x 60000 x 4 voxels" in refusal(tmp_path / "a") or (
        "is cut short" in refusal(tmp_path / "a")
    )
    dicom_series(tmp_path / "b")
    monkeypatch.setattr(pixels, "memory_limit", lambda: 100)
    assert "declares 6 x 5 x 4 voxels, which need 480 bytes" in refusal(tmp_path / "b")
    assert machine.memory_limit() > 480


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_slices_are_decoded(tmp_path: Path, dicom_series: Series, syntax: Any) -> None:
    stored = np.arange(2 * 32 * 32, dtype=np.int16).reshape(2, 32, 32) - 500
    for file in dicom_series(tmp_path / "a", stored=stored):
        content = pydicom.dcmread(file)
        content.compress(syntax, generate_instance_uid=False)
        content.save_as(file)
    np.testing.assert_array_equal(read_image(tmp_path / "a").array[0].T, stored)


def test_a_codec_that_is_missing_is_named(
    tmp_path: Path, dicom_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in dicom_series(tmp_path / "a"):
        content = pydicom.dcmread(file)
        content.compress(RLELossless, generate_instance_uid=False)
        content.save_as(file)
    monkeypatch.setattr(pixels, "_is_decodable", lambda _: False)
    assert "is compressed as RLE Lossless, which no installed codec reads" in refusal(
        tmp_path / "a"
    )


def test_deflated_files_are_inflated_within_limits(
    tmp_path: Path, dicom_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in dicom_series(tmp_path / "a"):
        content = pydicom.dcmread(file)
        content.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        content.save_as(file)
    np.testing.assert_array_equal(read_image(tmp_path / "a").array[0], STORED.transpose(2, 1, 0))
    monkeypatch.setattr(values, "memory_limit", lambda: 100)
    assert "00.dcm unpacks to" in refusal(tmp_path / "a")


def enhanced(folder: Path, heights: list[float], **options: Any) -> Path:
    """A multi-frame file with its positions per frame and one scale per frame."""
    stored = np.arange(len(heights) * 20, dtype=np.uint16).reshape(len(heights), 4, 5)
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", generate_uid()
    image.SeriesInstanceUID, image.StudyInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.SeriesNumber, image.NumberOfFrames = "MR", 5, len(heights)
    image.Rows, image.Columns, image.SamplesPerPixel = 4, 5, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [2.0, 1.5], 9
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place, height in enumerate(heights):
        position, scale, frame = Dataset(), Dataset(), Dataset()
        if "b_values" in options:
            frame.MRDiffusionSequence = [Dataset()]
            frame.MRDiffusionSequence[0].DiffusionBValue = float(options["b_values"][place])
        position.ImagePositionPatient = [0, 0, height]
        scale.RescaleSlope, scale.RescaleIntercept = 1 + place, 0
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [scale]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames[: options.get("described", len(frames))]
    image.PixelData = stored.tobytes()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    folder.mkdir(exist_ok=True)
    image.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    return folder / "enhanced.dcm"


def test_frames_are_sorted_and_scaled_one_by_one(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "a", [4.0, 0.0, 2.0])
    stored = np.arange(60).reshape(3, 4, 5) * np.array([1, 2, 3])[:, None, None]
    for path in (file, file.parent):
        volume = read_image(path)
        np.testing.assert_array_equal(volume.array[0].T, stored[[1, 2, 0]])
        assert volume.grid.spacing == (1.5, 2.0, 2.0)
        assert sources(path) == (file,)


def test_frames_that_do_not_stack_are_refused(tmp_path: Path) -> None:
    assert "gap of 6 mm" in refusal(enhanced(tmp_path / "a", [0.0, 2.0, 4.0, 10.0]))
    assert "declares 3 frames but describes 2" in refusal(
        enhanced(tmp_path / "b", [0.0, 2.0, 4.0], described=2)
    )


def test_frames_without_positions_are_refused(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", NumberOfFrames=3)
    assert "holds 3 frames but no position for each" in refusal(tmp_path / "a")


def test_colors_are_refused(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", SamplesPerPixel=3, PhotometricInterpretation="RGB")
    assert "00.dcm holds colors" in refusal(tmp_path / "a")
    colors = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    dicom_series(tmp_path / "b", per_slice=lambda place: colors if place == 3 else {})
    assert "03.dcm holds colors" in refusal(tmp_path / "b")


@pytest.mark.parametrize("position", [[0, 0, 0], None])
def test_a_capture_in_colors_beside_a_series_is_left_out_and_told(
    tmp_path: Path, dicom_series: Series, position: list[int] | None
) -> None:
    dicom_series(tmp_path / "a")
    dicom_series(
        tmp_path / "a",
        stored=STORED[:1],
        name="capture{}.dcm".format,
        SeriesNumber=9,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        ImagePositionPatient=position,
    )
    volume = read_image(tmp_path / "a")
    np.testing.assert_array_equal(volume.array[0], STORED.transpose(2, 1, 0))
    assert "1 image of other series, such as scouts, left out" in volume.notes[0]
    assert read_image(tmp_path / "a" / "series=3").notes == ()
    assert "capture0.dcm holds colors" in refusal(tmp_path / "a" / "series=9")


BY_TABLE = {"RescaleSlope": None, "RescaleIntercept": None, "ModalityLUTSequence": [Dataset()]}
SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


@pytest.mark.parametrize(
    "tags",
    [BY_TABLE | {"SeriesNumber": 9}, {"RescaleSlope": 0, "SeriesNumber": 9}, BY_TABLE | SCOUT],
    ids=["table", "zero", "scout"],
)
def test_values_that_cannot_be_told_beside_a_series_are_left_out_and_told(
    tmp_path: Path, dicom_series: Series, tags: dict[str, Any]
) -> None:
    dicom_series(tmp_path / "a")
    dicom_series(tmp_path / "a", stored=STORED[:1], name="other{}.dcm".format, **tags)
    volume = read_image(tmp_path / "a")
    np.testing.assert_array_equal(volume.array[0], STORED.transpose(2, 1, 0))
    assert "1 image of other series, such as scouts, left out" in volume.notes[0]


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({"RescaleSlope": 0}, "scales its values by zero or no number"),
        ({"ImageOrientationPatient": None}, "no image that tells its position"),
        ({"ImagePositionPatient": None}, "no image that tells its position"),
        ({"PixelSpacing": None}, "no image that tells its position"),
        ({"PixelSpacing": [0, 1]}, "no image that tells its position"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not at right angles"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "no pair of directions"),
        ({"Rows": 7}, "cut short"),
        ({"PixelData": None}, "holds no pixels"),
    ],
)
def test_headers_that_make_no_sense_are_refused(
    tmp_path: Path, dicom_series: Series, tags: dict[str, Any], sentence: str
) -> None:
    dicom_series(tmp_path / "a", **tags)
    assert sentence in refusal(tmp_path / "a")


def test_one_slice_needs_a_thickness(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", stored=STORED[:1])
    volume = read_image(tmp_path / "a")
    assert volume.grid.spacing == (0.6, 0.8, 5.0)
    assert "its thickness of 5 mm is the spacing" in volume.notes[0]
    dicom_series(tmp_path / "b", stored=STORED[:1], SliceThickness=None)
    assert "one slice of unknown thickness" in refusal(tmp_path / "b")


def test_one_file_of_a_series_is_not_the_series(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", name="im{}".format)
    assert "is one slice of a series; give the folder" in refusal(tmp_path / "a" / "im2")


def test_folders_without_dicom_are_refused(tmp_path: Path) -> None:
    assert "is a folder without DICOM images" in refusal(tmp_path)
    (tmp_path / "note.txt").write_text("x")
    assert "is a folder without DICOM images" in refusal(tmp_path)


def test_files_of_other_kinds_are_named(tmp_path: Path, dicom_series: Series) -> None:
    file = dicom_series(tmp_path / "a")[0]
    content = pydicom.dcmread(file)
    content.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID
    content.save_as(tmp_path / "paper.dcm")
    assert "is Encapsulated PDF: not an image" in refusal(tmp_path / "paper.dcm")


def test_damaged_headers_end_in_one_sentence(tmp_path: Path, dicom_series: Series) -> None:
    whole = dicom_series(tmp_path / "a")[0].read_bytes()
    rng = np.random.default_rng(0)
    (tmp_path / "b").mkdir()
    for _ in range(150):
        broken = bytearray(whole[: rng.integers(132, len(whole) + 1)])
        for place in rng.integers(132, len(broken), 3) if len(broken) > 132 else ():
            broken[place] = rng.integers(256)
        (tmp_path / "b" / "x.dcm").write_bytes(broken)
        with suppress(DataError):
            assert read_image(tmp_path / "b").array.size <= 1 << 20


def test_without_the_extra_one_sentence_says_what_to_install(
    tmp_path: Path, dicom_series: Series
) -> None:
    dicom_series(tmp_path / "a")
    code = (
        "import sys; sys.modules['pydicom'] = None; from medseg3d.io import read_image\n"
        "try: read_image(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("DataError")
    assert "pip install 'medseg3d[dicom]'" in run.stdout


PERSONAL = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "PatientComments"),
    *("ReferringPhysicianName", "InstitutionName", "AccessionNumber", "StudyDescription"),
    *("OperatorsName", "OtherPatientIDs", "StationName", "SeriesDescription", "ImageComments"),
)


def test_nothing_personal_is_said(
    tmp_path: Path,
    dicom_series: Series,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    personal = dict.fromkeys(PERSONAL, "MARKER")
    said = []
    for number, fault in enumerate(
        [
            {},
            {"per_slice": lambda _: {"SeriesInstanceUID": generate_uid()}},
            {"per_slice": lambda _: {"ImagePositionPatient": [0, 0, 0]}},
            {"step": (0.0, 1.0, 1.0)},
            {"RescaleSlope": 0},
            {"Rows": 60},
            {"PixelData": None},
        ]
    ):
        folder = tmp_path / str(number)
        dicom_series(folder, **(personal | fault))
        for file in folder.iterdir():  # values that the library would complain about
            content = file.read_bytes().replace(b"MARKER", b"MARK\xffR")
            file.write_bytes(content)
        try:
            volume = read_image(folder)
            said += [repr(volume), *volume.notes]
        except DataError as error:
            said += [str(error), repr(error.__cause__)]
    captured = capfd.readouterr()
    everything = "\n".join([*said, caplog.text, captured.out, captured.err])
    assert len(said) >= 7
    assert "MARK" not in everything


def test_a_slice_that_tells_no_place_is_not_left_out(tmp_path: Path, dicom_series: Series) -> None:
    size = len(dicom_series(tmp_path / "a")[3].read_bytes())
    for cut in range(140, size - 70, 23):
        file = dicom_series(tmp_path / "b")[3]
        file.write_bytes(file.read_bytes()[:cut])
        message = refusal(tmp_path / "b")
        assert str(file) in message
        assert "breaks off" in message or "cannot be understood" in message


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "PixelSpacing"])
@pytest.mark.parametrize("series", [{}, {"SeriesInstanceUID": ""}, {"SeriesInstanceUID": None}])
def test_a_slice_without_a_position_is_not_left_out(
    tmp_path: Path, dicom_series: Series, tag: str, series: dict[str, Any]
) -> None:
    dicom_series(tmp_path / "c", per_slice=lambda p: {tag: None} | series if p == 3 else {})
    message = refusal(tmp_path / "c")
    assert "03.dcm tells no position" in message
    assert "get the series again" in message


def test_pictures_of_other_series_are_left_out(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a")
    dicom_series(
        tmp_path / "a", stored=STORED[:1], name="s{:02d}".format, ImagePositionPatient=None
    )
    volume = read_image(tmp_path / "a")
    assert volume.grid.shape == (6, 5, 4)
    assert "1 image of other series" in volume.notes[0]


@pytest.mark.parametrize("more", [2, 60])
def test_pixels_too_many_are_refused(tmp_path: Path, dicom_series: Series, more: int) -> None:
    long = {"PixelData": bytes(60 + more)}
    dicom_series(tmp_path / "a", per_slice=lambda place: long if place == 2 else {})
    assert f"02.dcm holds {60 + more}, expected 60 bytes of pixels" in refusal(tmp_path / "a")


def test_one_byte_may_make_the_length_even(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", stored=np.ones((4, 3, 3), np.uint8))
    assert read_image(tmp_path / "a").grid.shape == (3, 3, 4)


def test_values_behind_a_table_are_refused(tmp_path: Path, dicom_series: Series) -> None:
    dicom_series(tmp_path / "a", **BY_TABLE)
    assert "00.dcm maps its values by a table (ModalityLUTSequence)" in refusal(tmp_path / "a")


def test_choices_within_one_file_work(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "a", [0.0, 2.0, 0.0, 2.0], b_values=[0, 0, 800, 800])
    for path in (file, file.parent):
        message = refusal(path)
        choice = Path(message.split("choose one as ")[1].split(",")[0])
        assert choice == path / "b=0"
        assert read_image(choice).grid.shape == (5, 4, 2)
        assert sources(path / "b=800") == (file,)
    assert "there are: b=0, b=800" in refusal(file / "b=7")


@pytest.mark.parametrize("values", [(None, "a"), ("a/b", "c,d=e")])
def test_awkward_values_can_be_chosen(tmp_path: Path, dicom_series: Series, values: Any) -> None:
    def two(place: int) -> dict[str, Any]:
        kernel = values[place // 4]
        where = {"ImagePositionPatient": [0, 0, place % 4]}
        return where | ({"ConvolutionKernel": kernel} if kernel else {})

    dicom_series(tmp_path / "a", stored=np.concatenate([STORED, STORED]), per_slice=two)
    message = refusal(tmp_path / "a")
    listed = message.split("place: ")[1].split("; choose")[0].split("), ")
    assert len(listed) == 2
    for each in listed:
        choice = tmp_path / "a" / each.split(" (")[0]
        assert choice.parent == tmp_path / "a"
        assert read_image(choice).grid.shape == (6, 5, 4)


def test_series_without_identifiers_can_be_chosen(tmp_path: Path, dicom_series: Series) -> None:
    for number in (0, 1):
        dicom_series(
            tmp_path / "a", name=f"{number}{{}}".format, SeriesInstanceUID="", SeriesNumber=3
        )
    message = refusal(tmp_path / "a")
    choice = Path(message.split("choose one as ")[1].split(",")[0])
    assert read_image(choice).grid.shape == (6, 5, 4)


def test_what_differs_from_slice_to_slice_makes_no_volumes(
    tmp_path: Path, dicom_series: Series
) -> None:
    def two(place: int) -> dict[str, Any]:
        return {"ImagePositionPatient": [0, 0, place % 4], "TriggerTime": 10.0 * place}

    dicom_series(tmp_path / "a", stored=np.concatenate([STORED, STORED]), per_slice=two)
    assert "4 slices lie in the place of another" in refusal(tmp_path / "a")
    dicom_series(
        tmp_path / "b",
        stored=np.concatenate([STORED, STORED]),
        per_slice=lambda p: two(p) | {"AcquisitionNumber": 1 + p // 4},
    )
    assert "holds 2 volumes in the same place: acquisition=1" in refusal(tmp_path / "b")
    dicom_series(tmp_path / "c", per_slice=lambda p: {"EchoTime": 10.0 + p})
    assert "choose one" not in refusal(tmp_path / "c")


def test_a_file_that_cannot_be_read_is_not_skipped(
    tmp_path: Path, dicom_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dicom_series(tmp_path / "a", name="im{}".format)
    whole = Path.open

    def locked(self: Path, *args: Any, **options: Any) -> Any:
        if self == files[3]:
            raise PermissionError(13, "Permission denied")
        return whole(self, *args, **options)

    monkeypatch.setattr(Path, "open", locked)
    assert "im3 cannot be read: Permission denied" in refusal(tmp_path / "a")


@pytest.mark.parametrize(
    ("description", "is_told"),
    [
        ("T1 axial post", True),
        ("T1 of Doe", False),
        ("scan 4711-x", False),
        ("born 1950-01-31", False),
        ("JaneDOE", False),
    ],
)
def test_series_are_described_without_the_patient(
    tmp_path: Path, dicom_series: Series, description: str, is_told: bool
) -> None:
    patient = {"PatientName": "Doe^Jane", "PatientID": "A-4711", "PatientBirthDate": "19500131"}
    for number in (3, 4):
        dicom_series(
            tmp_path / "a",
            name=f"{number}_{{}}".format,
            SeriesNumber=number,
            SeriesDescription=description if number == 4 else "scout",
            **patient,
        )
    message = refusal(tmp_path / "a")
    assert "series=3 (CT, 4 slices of 6x5, 'scout')" in message
    assert (f"series=4 (CT, 4 slices of 6x5, '{description}')" in message) == is_told
    assert (description in message) == is_told


def test_series_of_one_number_tell_their_number(tmp_path: Path, dicom_series: Series) -> None:
    for name in ("a{}", "b{}"):
        dicom_series(tmp_path / "a", name=name.format)
    assert refusal(tmp_path / "a").count("(CT, series number 3, 4 slices of 6x5)") == 2


def test_the_real_series_with_its_label(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "ts_ct_j2k"
    volume = read_image(folder)
    assert volume.grid.shape == (512, 512, 20)
    assert volume.grid.spacing == pytest.approx((0.9765625, 0.9765625, 2.0), abs=1e-6)
    assert (volume.array.min(), volume.array.max()) == (-1024, 1839)
    stored = read_labels(shared_data / "dicom" / "ts_ct_j2k_seg.nii.gz")
    assert (volume.grid.orientation, stored.grid.orientation) == ("LPS", "LAS")
    liver = np.argwhere(stored.labels == 5)
    world = liver @ stored.grid.affine[:3, :3].T + stored.grid.affine[:3, 3]
    back = np.linalg.inv(volume.grid.affine)
    places = np.rint(world @ back[:3, :3].T + back[:3, 3]).astype(int)
    assert round(float(volume.array[0][tuple(places.T)].mean())) == 89


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "low", "high"),
    [
        ("dcmqi_ct3", (512, 512, 3), (0.810547, 0.810547, 1.0), -3024, 1381),
        ("dcmqi_24x38", (24, 38, 3), (0.7, 0.7, 2.5), 0, 1),
        ("rtutils_oriented", (100, 50, 3), (2.5, 3.5, 4.5), -10, 9.999),
        ("prostatex0_adc", (84, 128, 19), (2, 2, 3), 0, 3265),
        ("rtutils", (512, 512, 2), (0.488281, 0.488281, 5), -3024, 125),
    ],
)
def test_the_real_series_agree_with_itk(
    shared_data: Path, name: str, shape: Any, spacing: Any, low: float, high: float
) -> None:
    folder = shared_data / "dicom" / name
    volume = read_image(folder)
    assert volume.grid.shape == shape
    assert volume.grid.spacing == pytest.approx(spacing, abs=1e-4)
    assert (volume.array.min(), volume.array.max()) == pytest.approx((low, high))
    image = SimpleITK.ReadImage([str(file) for file in sources(folder)])
    np.testing.assert_allclose(volume.array[0], SimpleITK.GetArrayFromImage(image).T, rtol=1e-6)
    x, y, z = image.TransformIndexToPhysicalPoint([1, 2, 0])
    np.testing.assert_allclose(volume.grid.affine @ [1, 2, 0, 1], [-x, -y, z, 1], atol=1e-4)


def test_the_real_faults_are_named(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "dicom"
    gap = refusal(root / "prostatex0_missing_slice")
    assert "gap of 6 mm between 1-07.dcm and 1-05.dcm" in gap
    doubled = refusal(root / "prostatex0_dwi_multi_b")
    assert all(f"b={b} (MR, 19 slices of 84x128)" in doubled for b in (50, 400, 800))
    assert read_grid(root / "prostatex0_dwi_multi_b" / "b=400")[0].shape == (84, 128, 19)
    (tmp_path / "mr").mkdir()
    (tmp_path / "mr" / "x.dcm").write_bytes((root / "pydicom_MR_truncated.dcm").read_bytes())
    assert "holds 8130 of 8192 bytes" in refusal(tmp_path / "mr")
    assert "RT Structure Set: contours" in refusal(root / "pydicom_rtstruct.dcm")
    assert "RT Structure Set: contours" in refusal(root / "rtutils" / "invalid_reference_rt.dcm")
    assert "2 RT Structure Set" in read_image(root / "rtutils").notes[0]
