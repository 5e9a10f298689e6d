"""Reading and writing label maps: one integer per voxel."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.io.formats import format_of
from medseg3d.io.volume import LabelVolume, Volume
from medseg3d.types import LabelMap

ROUNDING = 1e-3
"""Stored floats count as labels when all lie this close to an integer."""

MOST_VALUES_SHOWN = 10


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
    labels = _whole(file, stored.array[0])
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError(
            f"{file} has negative labels (values {_some_values(labels)}); expected 0 for "
            "background and positive integers"
        )
    for dtype in (np.uint8, np.uint16, np.uint32):
        if high <= np.iinfo(dtype).max:
            return LabelVolume(
                labels.astype(dtype, copy=False),
                inspection.grid,
                file,
                inspection.header,
                inspection.notes,
            )
    raise DataError(f"{file} has the label {high}; expected labels below {2**32}")


def write_labels(
    path: str | os.PathLike[str], labels: LabelMap, like: Volume | LabelVolume
) -> None:
    """Write a label map on the grid of ``like``; the file appears whole or not at all.

    The stored type is the smallest of uint8, uint16 and int32 that holds the labels. A
    NIfTI file made like a NIfTI source has its sform, qform, their codes, its units and its
    version, the intent "label", and none of its free text.

    Args:
        path: Target; its suffix says the format.
        labels: ``(I, J, K)``, integers from 0.
        like: Whose geometry to take over.

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
    format_of(file).write(file, stored, like.grid, like.header, labels=True)


def _whole(path: Path, stored: npt.NDArray[Any]) -> npt.NDArray[np.integer[Any]]:
    if stored.dtype.kind != "f":
        return stored
    whole = np.empty_like(stored, dtype=np.int64)
    for k in range(stored.shape[-1]):  # slices, so that temporaries stay small
        plane = stored[..., k]
        nearest = np.rint(plane)
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(plane - nearest) <= ROUNDING)
        if off.any():
            raise _no_labels(path, stored, plane[off])
        # far beyond any label, but still within int64
        whole[..., k] = nearest.clip(-(2.0**40), 2.0**40)
    return whole


def _no_labels(path: Path, stored: npt.NDArray[Any], off: npt.NDArray[Any]) -> DataError:
    if np.isnan(off).any():
        count = sum(int(np.isnan(stored[..., k]).sum()) for k in range(stored.shape[-1]))
        return DataError(f"{path} has {count} voxels without a number (NaN), expected labels")
    return DataError(
        f"{path} has values between labels ({_some_values(off)}), as from interpolation; "
        "expected integers, resample with nearest neighbor"
    )


def _some_values(array: npt.NDArray[Any]) -> str:
    values = np.unique(array)
    shown = ", ".join(f"{value:g}" for value in values[:MOST_VALUES_SHOWN].tolist())
    return shown + (f", ... {values.size} in all" if values.size > MOST_VALUES_SHOWN else "")
