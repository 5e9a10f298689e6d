"""Probabilities and uncertainty, collected plane by plane and written as images."""

import errno
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from medseg3d.data.preprocess import Placement
from medseg3d.errors import RunError
from medseg3d.geometry.grid import Grid
from medseg3d.geometry.orientation import Reorientation
from medseg3d.inference.planes import Entropy, PlaneFile, Probabilities
from medseg3d.inference.stream import stream
from medseg3d.io import read_image
from tests.inference.reference import Network, interpolated, noisy, stitched

Box = tuple[slice, slice, slice]
LPS = np.array([[0, 0, -2.0, 5], [-1.5, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1]])
"""Stored from front to back, then from feet to head, then from right to left."""


def placement_of(part: Box, *, shape: tuple[int, int, int] = (20, 21, 22)) -> Placement:
    """A case of ``shape`` voxels in RAS+ order, whose working grid is coarser."""
    stored = Grid((shape[1], shape[2], shape[0]), LPS)
    turn = Reorientation.to_canonical(stored)
    assert turn.grid.shape == shape
    whole = tuple(slice(0, n) for n in shape)
    working = (15, 17, 30)
    held = tuple(
        slice(max(0, p.start * m // n - 1), min(m, -(-p.stop * m // n) + 1))
        for p, n, m in zip(part, shape, working, strict=True)
    )
    return Placement(shape, whole, turn, working, part, held)  # type: ignore[arg-type]


def run(sink: PlaneFile, placement: Placement, **options: Any) -> np.ndarray:
    """Stream some image through three labels; gives the logits ``(3, I, J, K)`` of the part."""
    image = np.random.default_rng(1).normal(size=(1, *placement.held_shape)).astype(np.float32)
    labels = np.zeros(placement.canonical_shape, np.uint8)
    maps = placement.maps()
    stream(Network(noisy(3), (100,) * 3), image, maps, labels, np.arange(3), window=(8, 8, 8),  # type: ignore[arg-type]
           planes=[sink], **options)  # fmt: skip
    axis = int(np.argmax(image.shape[1:]))
    logits = stitched(noisy(3), image, window=(8, 8, 8), overlap=0.5, axis=axis)
    return 3 * interpolated(logits, maps, axis) / 3


WHOLE = (slice(0, 20), slice(0, 21), slice(0, 22))
PART = (slice(2, 17), slice(3, 20), slice(4, 21))


@pytest.mark.parametrize("part", [WHOLE, PART])
@pytest.mark.parametrize("max_slab_bytes", [None, 0])
@pytest.mark.parametrize("threads", [1, 2])
def test_probabilities_are_the_softmax_and_background_outside(
    part: Box, max_slab_bytes: int | None, threads: int, tmp_path: Path
) -> None:
    placement = placement_of(part)
    sink = Probabilities(tmp_path / "p.nii.gz", placement, 3)
    logits = run(sink, placement, max_slab_bytes=max_slab_bytes, threads=threads)
    expected = np.zeros((3, 20, 21, 22))
    expected[0] = 1
    expected[(slice(None), *part)] = special.softmax(logits.astype(np.float64), axis=0)
    np.testing.assert_allclose(sink.array() / 65535, expected, atol=0.51 / 65535 + 1e-7)


@pytest.mark.parametrize("part", [WHOLE, PART])
def test_the_entropy_is_that_of_the_softmax_over_its_largest(part: Box, tmp_path: Path) -> None:
    placement = placement_of(part)
    sink = Entropy(tmp_path / "h.nii.gz", placement, 3)
    logits = run(sink, placement)
    expected = np.zeros((1, 20, 21, 22))
    shares = special.softmax(logits.astype(np.float64), axis=0)
    expected[(0, *part)] = stats.entropy(shares, axis=0) / np.log(3)
    np.testing.assert_allclose(sink.array() / 65535, expected, atol=0.51 / 65535 + 1e-6)


def test_the_image_has_the_order_and_geometry_of_the_source(tmp_path: Path) -> None:
    source = tmp_path / "source.nii.gz"
    native = np.zeros((21, 22, 20), np.int16)
    nib.save(nib.Nifti1Image(native, LPS), source)
    placement = placement_of(PART)
    path = tmp_path / "new folder" / "p.nii.gz"
    sink = Probabilities(path, placement, 3)
    logits = run(sink, placement)
    sink.write(read_image([source]))
    written = nib.load(path)
    assert written.get_data_dtype() == np.uint16
    assert written.dataobj.slope == pytest.approx(1 / 65535)
    np.testing.assert_allclose(written.affine, LPS)
    values = np.moveaxis(written.get_fdata(), -1, 0)
    np.testing.assert_allclose(values.sum(axis=0), 1, atol=1e-4)
    canonical = np.asarray(nib.as_closest_canonical(written).dataobj)
    inside = canonical[PART]
    expected = special.softmax(logits.astype(np.float64), axis=0)
    np.testing.assert_allclose(np.moveaxis(inside, -1, 0), expected, atol=1e-5)
    assert [file.name for file in path.parent.iterdir()] == ["p.nii.gz"]


@given(shift=st.floats(-1e4, 1e4), spread=st.floats(0, 1e4))
def test_large_logits_neither_overflow_nor_leave_the_range(
    shift: float, spread: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    logits = np.random.default_rng(0).normal(shift, spread, (4, 5, 6)).astype(np.float32)
    placement = placement_of(WHOLE)
    shares = Probabilities(folder / "p.nii", placement, 4).numbers(logits)
    np.testing.assert_allclose(shares.astype(int).sum(axis=0), 65535, atol=2)
    entropy = Entropy(folder / "h.nii", placement, 4).numbers(logits)
    assert entropy.max() <= 65535
    if spread == 0:
        assert (entropy == 65535).all()


def test_no_voxel_taken_is_background(tmp_path: Path) -> None:
    sink = Probabilities(tmp_path / "p.nii", placement_of(WHOLE), 2)
    array = sink.array()
    assert array.shape == (2, 20, 21, 22)
    assert (array[0] == 65535).all()
    assert not array[1].any()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Probabilities(tmp_path / "p.nii.gz", placement_of(WHOLE), 3)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match=r"p\.nii\.gz cannot be written: the disk is full"):
        run(sink, placement_of(WHOLE), threads=2)


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written: a file is where a folder should be"):
        Entropy(tmp_path / "file" / "p.nii.gz", placement_of(WHOLE), 3)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, place: write(fd, data[:101], place))
    sink = Probabilities(tmp_path / "p.nii.gz", placement_of(WHOLE), 2)
    assert (sink.array()[0] == 65535).all()
