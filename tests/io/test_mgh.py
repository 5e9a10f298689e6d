"""FreeSurfer volumes against nibabel, and what is refused."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.errors import DataError
from medseg3d.io import read_grid, read_image, read_labels, write_labels

SHAPE = (4, 5, 6)
AFFINE = np.array([[-1.0, 0, 0, 30], [0, 0, 1.5, -20], [0, -2.0, 0, 10], [0, 0, 0, 1]])


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_voxels_and_affine_agree_with_nibabel(tmp_path: Path, suffix: str, dtype: type) -> None:
    array = np.arange(2 * np.prod(SHAPE)).reshape(*SHAPE, 2).astype(dtype)
    path = tmp_path / f"a{suffix}"
    nib.save(nib.MGHImage(array, AFFINE), path)
    volume = read_image(path)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(np.moveaxis(volume.array, 0, -1), array)
    np.testing.assert_allclose(volume.grid.affine, AFFINE, atol=1e-5)
    assert read_grid(path) == (volume.grid, 2)


@pytest.mark.parametrize("suffix", [".mgz", ".mgh", ".nii.gz"])
def test_labels_round_trip(tmp_path: Path, suffix: str) -> None:
    nib.save(nib.MGHImage(np.zeros(SHAPE, np.uint8), AFFINE), tmp_path / "a.mgz")
    source = read_image(tmp_path / "a.mgz")
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) * 5
    write_labels(tmp_path / f"out{suffix}", labels, like=source)
    back = read_labels(tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(back.labels, labels)
    assert back.grid.same_as(source.grid)


def test_cut_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mgh"
    nib.save(nib.MGHImage(np.zeros(SHAPE, np.float32), AFFINE), path)
    content = path.read_bytes()[: 284 + 4 * int(np.prod(SHAPE))]
    (tmp_path / "cut.mgh").write_bytes(content[:-1])
    (tmp_path / "cut.mgz").write_bytes(gzip.compress(content[:-1]))
    (tmp_path / "sum.mgz").write_bytes(gzip.compress(content)[:-8] + bytes(8))
    for name in ("cut.mgh", "cut.mgz", "sum.mgz"):
        with pytest.raises(DataError, match=rf"{name} is (cut short|damaged)"):
            read_image(tmp_path / name)
    (tmp_path / "bare.mgz").write_bytes(gzip.compress(content))
    assert read_image(tmp_path / "bare.mgz").array.shape == (1, *SHAPE)


def test_a_real_file_with_a_sheared_affine_is_refused(shared_data: Path) -> None:
    with pytest.raises(DataError, match=r"nibabel_test\.mgz: .*right angles"):
        read_image(shared_data / "odd_nifti" / "nibabel_test.mgz")
