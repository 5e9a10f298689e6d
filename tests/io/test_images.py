"""Images: several files as channels, values that are no numbers, types that are kept."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from medseg3d.errors import ConfigError, DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, read_grid, read_image, voxels, write_image

SHAPE = (6, 5, 4)


def stored(
    path: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64] | None = None
) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_files_become_channels_in_the_given_order(tmp_path: Path) -> None:
    paths = [stored(tmp_path / f"{i}.nii", np.full(SHAPE, i, np.int16)) for i in (3, 1, 2)]
    volume = read_image(paths)
    assert volume.array.shape == (3, *SHAPE)
    assert volume.array.dtype == np.int16
    assert volume.array[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert volume.path == paths[0]


def test_channels_of_different_types_become_float32(tmp_path: Path) -> None:
    first = stored(tmp_path / "a.nii", np.full(SHAPE, 70000, np.int32))
    second = stored(tmp_path / "b.nii", np.full(SHAPE, 0.5, np.float32))
    volume = read_image([first, second])
    assert volume.array.dtype == np.float32
    assert volume.array[:, 0, 0, 0].tolist() == [70000, 0.5]


def test_a_tiny_difference_between_channels_is_no_difference(tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[:3, 3] = 1e-5
    first = stored(tmp_path / "a.nii", np.zeros(SHAPE, np.int16))
    second = stored(tmp_path / "b.nii", np.zeros(SHAPE, np.int16), moved)
    assert read_image([first, second]).grid == read_image(first).grid


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    first = stored(tmp_path / "a.nii", np.zeros(SHAPE, np.int16))
    second = stored(tmp_path / "b.nii", np.zeros((3, 5, 4), np.int16), np.diag([2, 1, 1, 1.0]))
    with pytest.raises(DataError, match=r"b\.nii is not on the grid of .*a\.nii: shapes .* differ"):
        read_image([first, second])


def test_no_files_are_no_image() -> None:
    with pytest.raises(DataError, match="at least one file"):
        read_image([])


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_voxels_that_are_no_numbers_are_counted_and_located(
    tmp_path: Path, value: float, name: str
) -> None:
    array = np.ones(SHAPE, np.float32)
    array[3, 2, 1] = array[4, 4, 3] = value
    message = rf"a\.nii has 2 voxels .* \({name}\) at \(3, 2, 1\)"
    with pytest.raises(DataError, match=message):
        read_image(stored(tmp_path / "a.nii", array))


def test_the_channel_of_a_bad_voxel_is_named(tmp_path: Path) -> None:
    array = np.ones((*SHAPE, 2), np.float32)
    array[3, 2, 1, 1] = np.nan
    with pytest.raises(DataError, match=r"1 voxels .* at \(3, 2, 1\) of channel 1"):
        read_image(stored(tmp_path / "a.nii", array))


def test_float64_becomes_float32_and_what_overflows_is_refused(tmp_path: Path) -> None:
    array = np.full(SHAPE, 1e30)
    assert read_image(stored(tmp_path / "a.nii", array)).array.dtype == np.float32
    array[0, 0, 0] = 1e300
    beyond = r"a\.nii has 1 voxels beyond what float32 holds, the first \(1e\+300\) at "
    for number in (None, 0.0):
        with pytest.raises(DataError, match=beyond + r"\(0, 0, 0\); check the scaling") as raised:
            read_image(stored(tmp_path / "a.nii", array), replace_nonfinite=number)
        assert "finite" not in str(raised.value)


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_a_slope_that_leads_beyond_float32_is_not_called_infinite(
    tmp_path: Path, kind: type[np.generic]
) -> None:
    image = nib.Nifti1Image(np.full(SHAPE, 100, kind), np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([1e38, 0], np.float32).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(DataError, match="120 voxels beyond what float32 holds"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz"])
def test_voxels_that_are_no_numbers_are_replaced_where_asked(
    tmp_path: Path, kind: type[np.generic], suffix: str
) -> None:
    array = np.arange(np.prod((*SHAPE, 2)), dtype=kind).reshape(*SHAPE, 2)
    array[3, 2, 1, 1], array[0, 0, 0, 0], array[5, 4, 3, 1] = np.nan, np.inf, -np.inf
    path = tmp_path / f"a{suffix}"
    image = nib.MGHImage(array.astype(np.float32), np.eye(4)) if suffix == ".mgz" else None
    nib.save(image or nib.Nifti1Image(array, np.eye(4)), path)
    with pytest.raises(DataError, match=r"3 voxels .*replace them with --replace-nonfinite"):
        read_image(path)
    volume = read_image(path, replace_nonfinite=-7)
    expected = np.where(np.isfinite(array), array, -7)
    np.testing.assert_array_equal(volume.array, np.moveaxis(expected, -1, 0))
    assert volume.array.dtype == np.float32
    assert volume.notes[-1] == (
        f"{path} has 3 voxels that are not finite numbers; they are replaced by -7"
    )


def test_replacement_reaches_every_channel_and_leaves_whole_images_alone(tmp_path: Path) -> None:
    whole = stored(tmp_path / "a.nii", np.ones(SHAPE, np.float32))
    holed = stored(tmp_path / "b.nii", np.full(SHAPE, np.nan, np.float32))
    assert read_image(whole, replace_nonfinite=3.5).notes == read_image(whole).notes
    volume = read_image([whole, holed], replace_nonfinite=3.5)
    assert (volume.array[0] == 1).all()
    assert (volume.array[1] == 3.5).all()
    assert "b.nii has 120 voxels" in " ".join(volume.notes)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_a_replacement_must_be_a_number_itself(tmp_path: Path, number: float) -> None:
    path = stored(tmp_path / "a.nii", np.ones(SHAPE, np.float32))
    with pytest.raises(ConfigError, match=r"replace_nonfinite is .*; expected a finite number"):
        read_image(path, replace_nonfinite=number)


def test_image_is_float32_whatever_was_stored(tmp_path: Path) -> None:
    volume = read_image(stored(tmp_path / "a.nii", np.full(SHAPE, 60000, np.uint16)))
    assert volume.array.dtype == np.uint16
    assert volume.image.dtype == np.float32
    assert volume.image.max() == 60000


def test_the_grid_is_read_without_the_voxels(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.nii.gz", np.full((*SHAPE, 2), np.nan, np.float32))
    assert read_grid(path) == (Grid(SHAPE, np.eye(4)), 2)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("given", "kept"), [("f8", "f4"), ("i8", "f4"), ("?", "u1"), ("i2", "i2"), ("u1", "u1")]
)
def test_unusual_types_are_written_as_usual_ones(
    tmp_path: Path, suffix: str, given: str, kept: str
) -> None:
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(given)
    like = Volume.from_array(array[None], Grid(SHAPE, np.diag([-1.0, 2, 3, 1])))
    write_image(tmp_path / f"out{suffix}", array, like=like)
    back = read_image(tmp_path / f"out{suffix}")
    assert back.array.dtype == kept
    np.testing.assert_array_equal(back.array[0], array)
    assert back.grid.same_as(like.grid)


def test_images_of_another_shape_are_not_written(tmp_path: Path) -> None:
    like = Volume.from_array(np.zeros((1, *SHAPE)), Grid(SHAPE, np.eye(4)))
    with pytest.raises(DataError, match=r"\(5, 6, 4\) does not fit the grid \(6, 5, 4\)"):
        write_image(tmp_path / "out.nii", np.zeros((5, 6, 4)), like=like)


def test_arrays_of_another_shape_make_no_volume() -> None:
    with pytest.raises(DataError, match="does not fit the grid"):
        Volume.from_array(np.zeros(SHAPE), Grid(SHAPE, np.eye(4)))


def test_real_channels_share_a_grid(shared_data: Path) -> None:
    folder = shared_data / "multimodal"
    volume = read_image([folder / "ms19_flair.nii.gz", folder / "ms19_t1.nii.gz"])
    assert volume.array.shape == (2, 182, 218, 182)


def test_channels_that_do_not_fit_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"a_000{channel}.nii" for channel in range(3)]
    for path in paths:
        nib.save(nib.Nifti1Image(np.zeros((40, 40, 40), np.float32), np.eye(4)), path)
    monkeypatch.setattr(voxels, "memory_room", lambda: 500_000)
    assert read_image(paths[0]).array.shape == (1, 40, 40, 40)
    with pytest.raises(DataError, match=r"a_0000\.nii needs 750\.0 KiB of memory and 439\.5 KiB"):
        read_image(paths)
