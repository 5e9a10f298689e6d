"""Reading and writing images: intensities, one or more channels on one grid."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import ConfigError, DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import nifti
from medseg3d.io.formats import format_of
from medseg3d.io.volume import LabelVolume, Volume
from medseg3d.io.voxels import enough_memory, expect_memory

AnyPath = str | os.PathLike[str]
PART = 1 << 20
FLOAT32_MAX = float(np.finfo(np.float32).max)
WRITABLE = ("u1", "i2", "u2", "i4", "f4")
"""Number types that every reader of every format here understands."""


def read_image(
    path: AnyPath | Sequence[AnyPath], *, replace_nonfinite: float | None = None
) -> Volume:
    """Read an image from one file, or its channels from several.

    The fourth axis of a file holds channels too. Integers stay as stored where the file
    scales nothing; everything else becomes float32.

    Args:
        path: A file, or one file per channel in the order of the channels.
        replace_nonfinite: Number for voxels that are NaN or infinite, with a note of how
            many there are; without it, such voxels are refused.

    Returns:
        The image ``(C, I, J, K)`` on the grid of the first file.

    Raises:
        ConfigError: If the number for such voxels is none that float32 holds.
        DataError: If a file is broken, is no volume, has voxels that are not finite or
            beyond what float32 holds, or lies on another grid than the first.
    """
    if replace_nonfinite is not None and not abs(replace_nonfinite) <= FLOAT32_MAX:
        raise ConfigError(
            f"replace_nonfinite is {replace_nonfinite:g}; expected a finite number up to "
            f"{FLOAT32_MAX:.3g}"
        )
    if isinstance(path, str | os.PathLike):
        return _read_one(Path(path), replace_nonfinite)
    if not path:
        raise DataError("an image needs at least one file, got none")
    first, *others = (_read_one(Path(one), replace_nonfinite) for one in path)
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


def write_scaled(
    path: AnyPath, array: npt.NDArray[Any], like: Volume | LabelVolume, *, slope: float
) -> None:
    """Write integers that readers multiply by ``slope``; the file appears whole or not at all.

    Args:
        path: Target; NIfTI, since no other format here stores a scale.
        array: ``(C, I, J, K)`` or ``(I, J, K)`` of uint8, int16, uint16 or int32; of one on the
            disk only small parts are held.
        like: Whose grid, orientation codes and units to take over.
        slope: Value of the integer 1.

    Raises:
        DataError: If the array does not have the shape of the grid, or the format or the number
            type is another.
        RunError: If the target cannot be written.
    """
    file = Path(path)
    volume = array[None] if array.ndim == 3 else array
    if volume.ndim != 4 or volume.shape[1:] != like.grid.shape:
        raise DataError(
            f"image of shape {array.shape} does not fit the grid {like.grid.shape} of {like.path}"
        )
    if volume.dtype.kind not in "iu" or volume.dtype.newbyteorder("=").str[1:] not in WRITABLE:
        raise DataError(f"numbers of type {volume.dtype} given for {file}; expected integers")
    if not file.name.lower().endswith((".nii", ".nii.gz")):
        raise DataError(f"{file} cannot hold a scale; write a NIfTI file (.nii.gz)")
    nifti.write(file, volume, like.grid, like.header, labels=False, slope=slope)


def _read_one(path: Path, replacement: float | None) -> Volume:
    with enough_memory(path):
        stored = format_of(path).read(path)
        array, inspection = stored.array, stored.inspection
        notes = inspection.notes
        if array.dtype.kind == "f":
            if not _all_finite(array):
                what = "not finite numbers"
                if replacement is None:
                    remedy = "replace them with --replace-nonfinite 0, for instance"
                    raise _odd_voxels(path, array, ~np.isfinite(array), f"that are {what}", remedy)
                array, count = _replaced(array, replacement)
                note = f"{path} has {count} voxels that are {what}; they are replaced by "
                notes = (*notes, f"{note}{replacement:g}")
            with np.errstate(over="ignore"):
                narrow = array.astype(np.float32, copy=False)
            if narrow is not array and not _all_finite(narrow):
                beyond, remedy = "beyond what float32 holds", "check the scaling in the header"
                raise _odd_voxels(path, array, ~np.isfinite(narrow), beyond, remedy)
            array = narrow
    return Volume(array, inspection.grid, path, inspection.header, notes)


def _all_finite(array: npt.NDArray[np.floating[Any]]) -> bool:
    flat = array.ravel(order="K")
    parts = range(0, flat.size, PART)  # so that the mask stays small
    return all(np.isfinite(flat[first : first + PART]).all() for first in parts)


def _replaced(
    array: npt.NDArray[np.floating[Any]], replacement: float
) -> tuple[npt.NDArray[np.floating[Any]], int]:
    """The array with a number in place of what is not finite, and how many voxels that were."""
    bad = ~np.isfinite(array)
    if not array.flags.writeable:
        array = array.copy(order="K")
    array[bad] = replacement
    return array, int(bad.sum())


def _odd_voxels(
    path: Path, array: npt.NDArray[Any], bad: npt.NDArray[np.bool_], what: str, remedy: str
) -> DataError:
    """How many voxels are bad, and where the first one is."""
    place = np.unravel_index(int(bad.ravel(order="F").argmax()), bad.shape, order="F")
    channel, *index = (int(axis) for axis in place)
    where = f"{tuple(index)}" + (f" of channel {channel}" if len(array) > 1 else "")
    return DataError(
        f"{path} has {int(bad.sum())} voxels {what}, the first ({array[place]:g}) at {where}; "
        f"{remedy}"
    )
