"""Integers that stand for fractions, written with their scale."""

import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, read_image, write_scaled

ONE = 65535


def volume(*shape: int) -> Volume:
    i, j, k = shape
    return Volume.from_array(
        np.zeros((1, i, j, k), np.int16), Grid((i, j, k), np.diag([-1, 2, 3, 1.0]))
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_readers_get_the_fractions(tmp_path: Path, suffix: str, order: str) -> None:
    shares = np.random.default_rng(0).integers(0, ONE + 1, (3, 5, 6, 7)).astype(np.uint16)
    like, path = volume(5, 6, 7), tmp_path / f"shares{suffix}"
    write_scaled(path, np.asarray(shares, order=order), like, slope=1 / ONE)  # type: ignore[call-overload]
    found = read_image(path)
    assert found.grid.same_as(like.grid)
    np.testing.assert_allclose(found.image, shares / ONE, atol=1e-7)
    peer = np.moveaxis(nib.load(path).get_fdata(), -1, 0)  # type: ignore[attr-defined]
    np.testing.assert_allclose(peer, shares / ONE, atol=1e-7)


def test_of_an_array_on_the_disk_only_parts_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.io.nifti.WRITTEN_AT_ONCE", 1 << 16)
    stored = np.memmap(tmp_path / "raw", np.uint16, "w+", shape=(2, 40, 64, 64))
    stored[:] = np.arange(stored.size, dtype=np.uint32).reshape(stored.shape) % ONE
    stored.flush()
    mapped = np.memmap(tmp_path / "raw", np.uint16, "r", shape=stored.shape)
    turned, like = mapped.transpose(0, 3, 2, 1)[:, ::-1], volume(64, 64, 40)
    tracemalloc.start()
    try:
        write_scaled(tmp_path / "a.nii", turned, like, slope=1 / ONE)
        assert tracemalloc.get_traced_memory()[1] < stored.nbytes // 4
    finally:
        tracemalloc.stop()
    expected = np.asarray(stored).transpose(0, 3, 2, 1)[:, ::-1] / ONE
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").image, expected, atol=1e-7)


def test_what_was_changed_in_memory_alone_is_written(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(2 * 60))
    private = np.memmap(tmp_path / "raw", np.uint16, "c", shape=(1, 3, 4, 5))
    private[:] = 7
    write_scaled(tmp_path / "a.nii", private, volume(3, 4, 5), slope=0.5)
    assert (read_image(tmp_path / "a.nii").array == 3.5).all()
    assert (private == 7).all()


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    shares = np.zeros((1, 3, 4, 5), np.uint16)
    with pytest.raises(DataError, match="cannot hold a scale; write a NIfTI file"):
        write_scaled(tmp_path / "a.nrrd", shares, volume(3, 4, 5), slope=1)
    with pytest.raises(DataError, match="expected integers"):
        write_scaled(tmp_path / "a.nii", shares / 2, volume(3, 4, 5), slope=1)
    with pytest.raises(DataError, match="does not fit the grid"):
        write_scaled(tmp_path / "a.nii", shares, volume(3, 4, 6), slope=1)
    assert not list(tmp_path.iterdir())
