"""Label maps: what counts as labels, and what is refused with a short reason."""

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import LabelVolume, Volume, read_labels, write_labels
from medseg3d.io import labels as label_maps

SHAPE = (6, 5, 4)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def labels(dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    found = np.zeros(SHAPE, dtype)
    found[1:4, 1:3, 2] = 1
    found[3, 4, 1] = 2
    return found


def stored(path: Path, array: npt.NDArray[Any]) -> Path:
    nib.save(nib.Nifti1Image(array, AFFINE, dtype=array.dtype), path)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_small_labels_of_any_type_become_uint8(tmp_path: Path, dtype: str) -> None:
    volume = read_labels(stored(tmp_path / "a.nii.gz", labels(dtype)))
    assert isinstance(volume, LabelVolume)
    assert volume.labels.dtype == np.uint8
    np.testing.assert_array_equal(volume.labels, labels())
    assert volume.grid == Grid(SHAPE, AFFINE)


@pytest.mark.parametrize(
    ("highest", "dtype"),
    [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)],
)
@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_type_is_the_smallest_unsigned_that_holds_the_labels(
    tmp_path: Path, highest: int, dtype: npt.DTypeLike, kind: npt.DTypeLike
) -> None:
    array = labels(kind)
    array[0, 0, 0] = highest
    volume = read_labels(stored(tmp_path / "a.nii", array))
    assert volume.labels.dtype == dtype
    assert volume.labels[0, 0, 0] == highest


@pytest.mark.parametrize("factor", [0.99999, 1.0004])
def test_labels_within_a_thousandth_are_rounded_and_never_cut(
    tmp_path: Path, factor: float
) -> None:
    array = labels(np.float32) * np.float32(factor)
    volume = read_labels(stored(tmp_path / "a.nii.gz", array))
    np.testing.assert_array_equal(volume.labels, labels())


def test_labels_scaled_from_wide_integers_are_found_again(tmp_path: Path) -> None:
    array = np.where(labels() > 0, np.int32(2**31 - 1), np.int32(-(2**31)))
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_slope_inter(2.3283064e-10, 0.5)
    nib.save(image, tmp_path / "a.nii.gz")
    content = nib.load(tmp_path / "a.nii.gz")
    assert 0.9999 < np.asarray(content.dataobj).max() < 1
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz").labels, labels() > 0)


def test_interpolated_labels_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.nii.gz", labels(np.float32) / 2)
    with pytest.raises(DataError, match=r"a\.nii\.gz .*\(0\.5\), as from interpolation.*nearest"):
        read_labels(path)


def test_an_image_in_place_of_labels_is_called_one(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(1, 0.2, (12, 12, 12)).astype(np.float32)
    image[:8] = 0  # a brain that was cut out
    with pytest.raises(DataError, match=r"a\.nii .*looks like an image; put the label map"):
        read_labels(stored(tmp_path / "a.nii", image))


def test_a_smooth_transition_between_labels_is_no_image(tmp_path: Path) -> None:
    distance = np.linalg.norm(
        np.indices((30, 30, 30)) - np.array([14.317, 14.941, 15.263])[:, *[None] * 3], axis=0
    )
    blurred = np.clip(10.5 - distance, 0, 1).astype(np.float32)
    assert np.unique(blurred).size > 300
    with pytest.raises(DataError, match="as from interpolation"):
        read_labels(stored(tmp_path / "a.nii", blurred))


def test_at_most_ten_values_are_shown(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 99, SHAPE)
    for array in (noise, noise.astype(np.int16)):
        with pytest.raises(DataError, match=r"(-?\d\S*, ){10}\.\.\. \d+ in all") as raised:
            read_labels(stored(tmp_path / "a.nii.gz", array))
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "1 voxels without a number"),
        (np.inf, "has 1 infinite voxels, expected labels"),
        (-np.inf, "has 1 infinite voxels, expected labels"),
        (-1, "negative"),
        (2.0**33, "label 8589934592"),
        (1e30, "below"),
    ],
)
def test_what_cannot_be_a_label_is_refused(tmp_path: Path, value: float, message: str) -> None:
    array = labels(np.float64)
    array[0, 1, 2] = value
    with pytest.raises(DataError, match=rf"a\.nii .*{message}"):
        read_labels(stored(tmp_path / "a.nii", array))


def test_huge_integers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label 18446744073709551615"):
        read_labels(stored(tmp_path / "a.nii", np.full(SHAPE, 2**64 - 1, np.uint64)))


def test_one_hot_labels_are_refused(tmp_path: Path) -> None:
    one_hot = np.stack([labels() == label for label in range(3)], -1).astype(np.uint8)
    with pytest.raises(DataError, match=r"3 volumes \(values 0, 1\), expected one integer"):
        read_labels(stored(tmp_path / "a.nii", one_hot))


def test_a_trailing_axis_of_one_is_dropped(tmp_path: Path) -> None:
    volume = read_labels(stored(tmp_path / "a.nii", labels()[..., None]))
    np.testing.assert_array_equal(volume.labels, labels())


LIKE = Volume.from_array(np.zeros((1, *SHAPE), np.float32), Grid(SHAPE, AFFINE))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 6, 4), np.uint8), r"\(5, 6, 4\) do not fit the grid \(6, 5, 4\)"),
        (labels(np.float32), "float32"),
        (labels(np.int16) - 1, "from -1 to 1"),
        (labels(np.int64) * 2**31, "expected 0 to 2147483647"),
    ],
)
def test_what_is_not_labels_is_not_written(
    tmp_path: Path, array: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_labels(tmp_path / "out.nii.gz", array, like=LIKE)
    assert list(tmp_path.iterdir()) == []


def test_masks_are_written_as_zero_and_one(tmp_path: Path) -> None:
    write_labels(tmp_path / "out.nii.gz", labels() > 0, like=LIKE)
    np.testing.assert_array_equal(read_labels(tmp_path / "out.nii.gz").labels, labels() > 0)


def test_real_one_hot_labels_are_refused(shared_data: Path) -> None:
    with pytest.raises(DataError, match="3 volumes"):
        read_labels(shared_data / "prostate" / "case000025_fixed_label4d.nii.gz")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("dicom/dcmqi_liver_spine_gapped_seg.nrrd", [0, 1, 5]),
        ("lung/elastix_lung_followup_seg.mha", [0, 137]),
        ("spine/sub-unf01_T1w_seg.nii.gz", [0, 1]),
        ("abdomen_ct/ts_ct_sm_seg.nii.gz", None),
    ],
)
def test_real_labels_survive_a_round_trip(
    shared_data: Path, tmp_path: Path, name: str, values: list[int] | None
) -> None:
    volume = read_labels(shared_data / name)
    if values is not None:
        assert np.unique(volume.labels).tolist() == values
    write_labels(tmp_path / "out.nii.gz", volume.labels, like=volume)
    back = read_labels(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(back.labels, volume.labels)
    assert back.grid.same_as(volume.grid)


def test_whole_scales_beyond_float32_keep_every_label(tmp_path: Path) -> None:
    array = np.where(labels() > 0, np.int32(2**24 + 1), 0).astype(np.int32)
    content = bytearray(nib.Nifti1Image(array, AFFINE).to_bytes())
    struct.pack_into("<2f", content, 112, 1.0, 2.0)
    (tmp_path / "a.nii").write_bytes(bytes(content))
    found = read_labels(tmp_path / "a.nii").labels
    assert np.unique(found).tolist() == [2, 2**24 + 3]


def test_300_is_300(tmp_path: Path) -> None:
    for kind in (np.uint16, np.int64, np.float64):
        found = read_labels(stored(tmp_path / "a.nii.gz", labels(kind) * kind(150))).labels
        assert np.unique(found).tolist() == [0, 150, 300]
        assert found.dtype == np.uint16


def test_wider_labels_late_in_the_file_widen_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_maps, "PART", 7)
    array = np.arange(120).reshape(SHAPE, order="F").astype(np.float64) * 3.0
    found = read_labels(stored(tmp_path / "a.nii", array)).labels
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, array)


def test_counting_values_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_maps, "PART", 16)
    monkeypatch.setattr(label_maps, "MOST_VALUES_COUNTED", 20)
    array = np.arange(-120, 0).reshape(SHAPE).astype(np.int16)
    with pytest.raises(DataError, match=r"\.\.\. more than 20 in all"):
        read_labels(stored(tmp_path / "a.nii", array))


def test_names_go_to_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def record(*_: object, labels: bool, names: object) -> None:
        given.update(labels=labels, names=names)

    monkeypatch.setattr(label_maps, "format_of", lambda _: SimpleNamespace(write=record))
    write_labels(tmp_path / "a.nii", labels(), LIKE, names={1: "liver"})
    assert given == {"labels": True, "names": {1: "liver"}}
