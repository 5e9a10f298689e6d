"""Reading and writing images: intensities, one or more channels on one grid."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io.formats import format_of
from medseg3d.io.volume import LabelVolume, Volume
from medseg3d.io.voxels import enough_memory, expect_memory

AnyPath = str | os.PathLike[str]
PART = 1 << 20
WRITABLE = ("u1", "i2", "u2", "i4", "f4")
"""Number types that every reader of every format here understands."""


def read_image(path: AnyPath | Sequence[AnyPath]) -> Volume:
    """Read an image from one file, or its channels from several.

    The fourth axis of a file holds channels too. Integers stay as stored where the file
    scales nothing; everything else becomes float32.

    Args:
        path: A file, or one file per channel in the order of the channels.

    Returns:
        The image ``(C, I, J, K)`` on the grid of the first file.

    Raises:
        DataError: If a file is broken, is no volume, has voxels that are not finite, or
            lies on another grid than the first.
    """
    if isinstance(path, str | os.PathLike):
        return _read_one(Path(path))
    if not path:
        raise DataError("an image needs at least one file, got none")
    first, *others = (_read_one(Path(one)) for one in path)
    for other in others:
        if not first.grid.same_as(other.grid):
            raise DataError(
                f"{other.path} is not on the grid of {first.path}: "
                f"{first.grid.difference(other.grid)}; resample one to the other"
            )
    if not others:
        return first
    volumes = [first, *others]
    kinds = {volume.array.dtype for volume in volumes}
    with enough_memory(first.path):
        arrays = [volume.array if len(kinds) == 1 else volume.image for volume in volumes]
        expect_memory(first.path, sum(array.nbytes for array in arrays))
        array = np.concatenate(arrays)
    notes = tuple(note for volume in volumes for note in volume.notes)
    return Volume(array, first.grid, first.path, first.header, notes)


def read_grid(path: AnyPath) -> tuple[Grid, int]:
    """Grid and number of channels from the header alone.

    Raises:
        DataError: If the header is broken or describes no volume.
    """
    file = Path(path)
    inspection = format_of(file).inspect(file)
    return inspection.grid, inspection.channels


def write_image(path: AnyPath, array: npt.NDArray[Any], like: Volume | LabelVolume) -> None:
    """Write intensities on the grid of ``like``; the file appears whole or not at all.

    Args:
        path: Target; its suffix says the format.
        array: ``(C, I, J, K)`` or ``(I, J, K)``; types other than small integers are
            stored as float32.
        like: Whose grid, orientation codes and units to take over.

    Raises:
        DataError: If the array does not have the shape of the grid.
        RunError: If the target cannot be written.
    """
    file = Path(path)
    volume = array[None] if array.ndim == 3 else array
    if volume.ndim != 4 or volume.shape[1:] != like.grid.shape:
        raise DataError(
            f"image of shape {array.shape} does not fit the grid {like.grid.shape} of {like.path}"
        )
    if volume.dtype.newbyteorder("=").str[1:] not in WRITABLE:
        volume = volume.astype(np.uint8 if volume.dtype == np.bool_ else np.float32)
    format_of(file).write(file, volume, like.grid, like.header, labels=False)


def _read_one(path: Path) -> Volume:
    with enough_memory(path):
        stored = format_of(path).read(path)
        array = stored.array
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                array = array.astype(np.float32, copy=False)
            _expect_finite(path, array)
    inspection = stored.inspection
    return Volume(array, inspection.grid, path, inspection.header, inspection.notes)


def _expect_finite(path: Path, array: npt.NDArray[np.floating[Any]]) -> None:
    flat = array.ravel(order="K")
    parts = range(0, flat.size, PART)  # so that the mask stays small
    if all(np.isfinite(flat[first : first + PART]).all() for first in parts):
        return
    bad = ~np.isfinite(array)
    place = np.unravel_index(int(bad.ravel(order="F").argmax()), bad.shape, order="F")
    channel, *index = (int(axis) for axis in place)
    where = f"{tuple(index)}" + (f" of channel {channel}" if len(array) > 1 else "")
    raise DataError(
        f"{path} has {int(bad.sum())} voxels that are not finite numbers, the first "
        f"({array[place]}) at {where}; replace them in the file"
    )
