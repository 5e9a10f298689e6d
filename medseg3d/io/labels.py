"""Reading and writing label maps: one integer per voxel."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.io.formats import format_of
from medseg3d.io.volume import LabelVolume, Volume
from medseg3d.io.voxels import enough_memory
from medseg3d.types import LabelMap

ROUNDING = 1e-3
"""Stored floats count as labels when all lie this close to an integer."""

SHARE_OF_IMAGE = 0.9
"""Voxels other than integers, of all but 0; interpolation leaves the inside of labels whole."""

MOST_BLENDS = 256
"""Values that the rims of labels too small to have an inside may be expected to hold."""

MOST_VALUES_SHOWN = 10
MOST_VALUES_COUNTED = 10_000
PART = 1 << 20


def read_labels(path: str | os.PathLike[str]) -> LabelVolume:
    """Read a label map.

    Floats are rounded when every one lies within 0.001 of an integer, since some programs
    store labels with a scale that returns 0.99999997 for 1.

    Returns:
        Labels ``(I, J, K)`` in the smallest of uint8, uint16 and uint32 that holds them.

    Raises:
        DataError: If the file is broken or holds anything but one label per voxel.
    """
    file = Path(path)
    stored = format_of(file).read(file)
    inspection = stored.inspection
    if inspection.channels > 1:
        raise DataError(
            f"{file} holds {inspection.channels} volumes (values {_some_values(stored.array)}), "
            "expected one integer label per voxel; merge them into one label map"
        )
    with enough_memory(file):
        labels = _whole(file, stored.array[0])
    return LabelVolume(
        labels, inspection.grid, file, inspection.header, inspection.notes, inspection.names
    )


def write_labels(
    path: str | os.PathLike[str],
    labels: LabelMap,
    like: Volume | LabelVolume,
    *,
    names: Mapping[int, str] | None = None,
) -> None:
    """Write a label map on the grid of ``like``; the file appears whole or not at all.

    The stored type is the smallest of uint8, uint16 and int32 that holds the labels. A
    NIfTI file made like a NIfTI source has its sform, qform, their codes, its units and its
    version, the intent "label", and none of its free text.

    Args:
        path: Target; its suffix says the format.
        labels: ``(I, J, K)``, integers from 0.
        like: Whose geometry to take over.
        names: What each label is called, for formats that store it.

    Raises:
        DataError: If the shape is not that of the grid, or a label is negative or too large.
        RunError: If the target cannot be written.
    """
    file = Path(path)
    if labels.shape != like.grid.shape:
        raise DataError(
            f"labels of shape {labels.shape} do not fit the grid {like.grid.shape} of {like.path}"
        )
    if labels.dtype.kind not in "iub":
        raise DataError(f"labels of type {labels.dtype} given for {file}; expected integers")
    low, high = int(labels.min()), int(labels.max())
    fitting = [kind for kind in (np.uint8, np.uint16, np.int32) if high <= np.iinfo(kind).max]
    if low < 0 or not fitting:
        raise DataError(f"labels from {low} to {high} given for {file}; expected 0 to {2**31 - 1}")
    stored = labels.astype(fitting[0], copy=False)[None]
    format_of(file).write(file, stored, like.grid, like.header, labels=True, names=names)


def _whole(path: Path, stored: npt.NDArray[Any]) -> LabelMap:
    """Stored numbers as labels, in the smallest unsigned type and the order of the file."""
    kind = _smallest(path, stored, stored) if stored.dtype.kind != "f" else np.uint8
    if stored.dtype == kind:
        return stored
    values = stored.ravel(order="F")  # a view, as files store it
    labels = np.empty(values.shape, kind)
    for first in range(0, values.size, PART):  # parts, so that temporaries stay small
        part = values[first : first + PART]
        if part.dtype.kind == "f":
            part = _rounded(path, stored, part)
            wider = _smallest(path, stored, part)
            if np.iinfo(wider).max > np.iinfo(labels.dtype).max:
                labels = labels.astype(wider)
        labels[first : first + PART] = part
    return labels.reshape(stored.shape, order="F")


def _smallest(
    path: Path, stored: npt.NDArray[Any], values: npt.NDArray[Any]
) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type for whole numbers, which are some or all of those stored."""
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise DataError(
            f"{path} has negative labels (values {_some_values(stored)}); expected 0 for "
            "background and positive integers"
        )
    for kind in (np.uint8, np.uint16, np.uint32):
        if high <= np.iinfo(kind).max:
            return kind
    raise DataError(f"{path} has the label {high}; expected labels below {2**32}")


def _rounded(
    path: Path, stored: npt.NDArray[Any], part: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.floating[Any]]:
    nearest: npt.NDArray[np.floating[Any]] = np.rint(part)
    with np.errstate(invalid="ignore"):
        off = ~(np.abs(part - nearest) <= ROUNDING)
    if not off.any():
        return nearest
    if count := int(np.isnan(stored).sum()):
        raise DataError(f"{path} has {count} voxels without a number (NaN), expected labels")
    if count := int(np.isinf(stored).sum()):
        raise DataError(f"{path} has {count} infinite voxels, expected labels")
    if _is_image(stored):
        raise DataError(
            f"{path} has other values than integers nearly everywhere ({_some_values(stored)}) "
            "and looks like an image; put the label map in its place"
        )
    raise DataError(
        f"{path} has values between labels ({_some_values(part[off])}), as from interpolation; "
        "expected integers, resample with nearest neighbor"
    )


def _is_image(stored: npt.NDArray[np.floating[Any]]) -> bool:
    """Whether nearly all voxels that are not 0 hold other numbers than integers, and many."""
    inside = stored[stored != 0]
    share = (np.abs(inside - np.rint(inside)) > ROUNDING).mean()
    return bool(share > SHARE_OF_IMAGE) and np.unique(inside[:PART]).size > MOST_BLENDS


def _some_values(array: npt.NDArray[Any]) -> str:
    """The smallest values, and how many there are."""
    flat = array.ravel(order="K")
    values = np.unique(flat[:PART])
    for first in range(PART, flat.size, PART):
        if values.size > MOST_VALUES_COUNTED:
            break
        values = np.union1d(values, flat[first : first + PART])
    shown = ", ".join(f"{value:.7g}" for value in values[:MOST_VALUES_SHOWN].tolist())
    if values.size <= MOST_VALUES_SHOWN:
        return shown
    over = "more than " if values.size > MOST_VALUES_COUNTED else ""
    return f"{shown}, ... {over}{min(values.size, MOST_VALUES_COUNTED)} in all"
