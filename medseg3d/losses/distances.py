"""Distances of voxels to the regions of a reference, for the losses that weigh by them.

Worked out per case and label, never across a batch, on the processor.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.errors import ConfigError

Array = npt.NDArray[np.float64]
MaskArray = npt.NDArray[np.bool_]


def checked_spacing(loss: str, spacing: Sequence[float] | None) -> tuple[float, ...] | None:
    """The spacing as a tuple; None stands for 1 along every axis.

    Raises:
        ConfigError: If a length is not above 0.
    """
    if spacing is None:
        return None
    if not all(np.isfinite(length) and length > 0 for length in spacing):
        raise ConfigError(
            f"{loss}: spacing must be lengths above 0, one per axis, got {list(spacing)}"
        )
    return tuple(spacing)


def spacing_for(loss: str, spacing: tuple[float, ...] | None, num_axes: int) -> tuple[float, ...]:
    """One length per spatial axis.

    Raises:
        ConfigError: If there are more or fewer.
    """
    if spacing is None:
        return (1.0,) * num_axes
    if len(spacing) != num_axes:
        raise ConfigError(f"{loss}: spacing has {len(spacing)} lengths for {num_axes} spatial axes")
    return spacing


def inner(mask: MaskArray, spacing: Sequence[float]) -> Array:
    """Distance of each voxel of the mask to the nearest outside of it; 0 outside."""
    distances: Array = ndimage.distance_transform_edt(mask, sampling=spacing)
    return distances


def signed(mask: MaskArray, spacing: Sequence[float], *, rim: bool = True) -> Array:
    """Positive outside, negative inside; 0 of an empty or full mask.

    Args:
        mask: ``(*spatial)``.
        spacing: Voxel size along each axis.
        rim: Whether the inner rim is 0, or as far inside as the voxels around it are outside.
    """
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    at_rim = min(spacing) if rim else 0.0
    return inner(~mask, spacing) - np.where(mask, inner(mask, spacing) - at_rim, 0.0)


def to_border(mask: MaskArray, spacing: Sequence[float]) -> Array:
    """Distance to the other side of the border, inside and outside; 0 of an empty or full one."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    return inner(mask, spacing) + inner(~mask, spacing)


def depth_below_deepest(mask: MaskArray, spacing: Sequence[float], *, normalize: bool) -> Array:
    """Inside of a mask 0 in its middle, most at its rim; 0 outside."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    distances = inner(mask, spacing)
    lacking = np.where(mask, distances.max() - distances, 0.0)
    most = lacking.max()
    return lacking / most if normalize and most > 0 else lacking


def two_nearest(
    labels: npt.NDArray[np.integer[Any]], spacing: Sequence[float], *, reach: float = math.inf
) -> tuple[Array, Array]:
    """Distance of each voxel to the nearest and to the second nearest object.

    Objects are the connected components, corners included, of each label above 0.

    Args:
        labels: ``(*spatial)``.
        spacing: Voxel size along each axis.
        reach: Distances beyond it may be too large, which spares most of the time.

    Returns:
        Both distances, infinite where there are fewer objects.
    """
    nearest = np.full(labels.shape, np.inf)
    second = nearest.copy()
    touching = np.ones((3,) * labels.ndim, dtype=np.bool_)
    for label in np.unique(labels[labels > 0]).tolist():
        objects, _ = ndimage.label(labels == label, touching)
        for one, extent in enumerate(ndimage.find_objects(objects), start=1):
            box = _grown(extent, labels.shape, spacing, reach)
            distances = inner(objects[box] != one, spacing)
            second[box] = np.minimum(second[box], np.maximum(nearest[box], distances))
            nearest[box] = np.minimum(nearest[box], distances)
    return nearest, second


def _grown(
    extent: Sequence[slice], shape: Sequence[int], spacing: Sequence[float], reach: float
) -> tuple[slice, ...]:
    """A box and all that is within reach of it."""
    margins = [math.ceil(min(reach / size, max(shape))) for size in spacing]
    return tuple(
        slice(max(0, axis.start - margin), min(length, axis.stop + margin))
        for axis, length, margin in zip(extent, shape, margins, strict=True)
    )


def halves(offsets: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """One of each two opposite offsets, without the origin.

    Examples:
        >>> halves([(-1,), (0,), (1,)])
        [(1,)]
    """
    return [offset for offset in offsets if offset > (0,) * len(offset)]


def overlap_of(length: int, step: int) -> tuple[slice, slice]:
    """Voxels of an axis that have one ``step`` further, and those.

    Examples:
        >>> overlap_of(5, 2), overlap_of(5, -1)
        ((slice(0, 3, None), slice(2, 5, None)), (slice(1, 5, None), slice(0, 4, None)))
    """
    here = slice(max(0, -step), max(0, length - max(0, step)))
    return here, slice(max(0, step), max(0, length + min(0, step)))
