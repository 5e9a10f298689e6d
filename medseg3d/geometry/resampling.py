"""Resampling between grids that cover the same box.

Everything here is separable and linear, voxel centers at ``(i + 0.5) / length`` of the
box (``align_corners=False`` in torch, ``grid_mode=True`` in scipy), so one small matrix or
two weights per axis do the work.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.geometry.splines import places, resample_channel
from medseg3d.types import Image, Size3


@dataclass(frozen=True)
class AxisMap:
    """Where voxels along one axis of a target grid lie in an array.

    Attributes:
        first: First voxel of the target grid that is written.
        positions: For it and those that follow, where they lie in the array, in its voxels,
            each within ``0 .. n - 1`` and ascending.
    """

    first: int
    positions: npt.NDArray[np.float64]


Labels = TypeVar("Labels", bound=np.integer[Any])


def resample_image(image: Image, shape: Size3, *, coarse_axis: int | None = None) -> Image:
    """Resample intensities by cubic splines, clipped to the range they had.

    Equals ``scipy.ndimage.zoom(order=3, mode="nearest", grid_mode=True)`` to float32
    rounding, before clipping.

    Args:
        image: ``(C, I, J, K)``.
        shape: Voxels wanted along ``(I, J, K)``.
        coarse_axis: 0, 1 or 2 for a voxel axis with much thicker voxels, along which the
            nearest slice is taken and slices do not mix, as in nnU-Net [1]_.

    Returns:
        ``(C, *shape)``; ``image`` itself if it has that shape already.

    Raises:
        DataError: If the image has no four axes or a length is below 1.

    References:
        .. [1] Isensee et al., "nnU-Net", Nat. Methods 18, 2021.
           https://doi.org/10.1038/s41592-020-01008-z

    Examples:
        >>> ramp = np.arange(4.0, dtype=np.float32).reshape(1, 4, 1, 1)
        >>> resample_image(ramp, (2, 1, 1)).ravel().astype(float).round(3).tolist()
        [0.426, 2.574]
    """
    _expect(image, shape)
    if image.shape[1:] == tuple(shape):
        return image
    out = np.empty((image.shape[0], *shape), np.float32)
    for channel, into in zip(image, out, strict=True):
        resample_channel(channel, into, shape, coarse_axis=coarse_axis)
    return out


def resample_labels(labels: npt.NDArray[Labels], shape: Size3) -> npt.NDArray[Labels]:
    """Resample a label map: every label linearly, then the largest share wins.

    Straight label borders stay straight, which nearest neighbor turns into steps. Equal
    shares go to the smaller label.

    Args:
        labels: ``(I, J, K)``, integers from 0.
        shape: Voxels wanted along ``(I, J, K)``.

    Returns:
        Labels of the same type, ``shape``; ``labels`` itself if it has that shape already.

    Raises:
        DataError: If the label map has no three axes or a length is below 1.

    Examples:
        >>> edge = np.array([0, 0, 2, 2]).reshape(4, 1, 1)
        >>> resample_labels(edge, (8, 1, 1)).ravel().tolist()
        [0, 0, 0, 0, 2, 2, 2, 2]
    """
    _expect(labels[None], shape)
    if labels.shape == tuple(shape):
        return labels
    out: npt.NDArray[Labels] = np.empty(shape, labels.dtype)
    best = np.full(shape, -1.0, np.float32)
    for label in _values(labels):
        mask = labels == label
        box, target = _boxes(mask, shape)
        share = mask[box].astype(np.float32)
        for axis in range(3):
            matrix = _linear(labels.shape[axis], shape[axis])[target[axis], box[axis]]
            share = _along(share, matrix, axis)
        wins = share > best[target]
        out[target][wins] = label
        best[target][wins] = share[wins]
    return out


@lru_cache(maxsize=32)
def _linear(before: int, after: int) -> npt.NDArray[np.float32]:
    """The matrix ``(after, before)`` of linear resampling, at most two weights per row."""
    place = places(before, after).clip(0, before - 1)
    below = np.floor(place).astype(np.intp)
    rows = np.arange(after)
    matrix = np.zeros((after, before), np.float32)
    np.add.at(matrix, (rows, below), 1 - (place - below))
    np.add.at(matrix, (rows, (below + 1).clip(max=before - 1)), place - below)
    return matrix


def _along(
    volume: npt.NDArray[np.float32], matrix: npt.NDArray[np.float32], axis: int
) -> npt.NDArray[np.float32]:
    """Multiply ``(I, J, K)`` by ``matrix`` along ``axis``."""
    x = np.ascontiguousarray(volume)
    if axis == 0:
        return (matrix @ x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])
    return matrix @ x if axis == 1 else x @ matrix.T


def _values(labels: npt.NDArray[Labels]) -> list[int]:
    """Labels that occur, ascending."""
    if labels.dtype.itemsize == 1 and labels.dtype.kind == "u":
        return [int(v) for v in np.flatnonzero(np.bincount(labels.ravel(order="K")))]
    return [int(v) for v in np.unique(labels)]


def _boxes(
    mask: npt.NDArray[np.bool_], shape: Size3
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The box of a mask, and the box of new voxels that it reaches."""
    box, target = [], []
    for axis, after in enumerate(shape):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        reach = slice(int(found[0]), int(found[-1]) + 1)
        touched = np.flatnonzero(_linear(mask.shape[axis], after)[:, reach].any(axis=1))
        box.append(reach)
        target.append(slice(int(touched[0]), int(touched[-1]) + 1) if touched.size else slice(0))
    return tuple(box), tuple(target)


def _expect(array: npt.NDArray[Any], shape: Size3) -> None:
    if array.ndim != 4 or min(array.shape) < 1 or len(shape) != 3 or min(shape) < 1:
        raise DataError(
            f"cannot resample an array of shape {array.shape} to {tuple(shape)}; expected "
            "one leading axis, three voxel axes, and lengths of at least 1"
        )
