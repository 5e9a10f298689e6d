"""Exact distances in mm from the voxels of one set to the nearest ones of another.

Surfaces that are compared lie close together nearly everywhere. Each voxel therefore looks
around in the order of distance, where the first that it meets is the nearest. Only for those
that meet none among the next thousand places a tree is grown or, if they are many, a distance
transform taken.
"""

from math import gamma, pi
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from medseg3d.geometry.machine_code import compiled
from medseg3d.types import Mask

Distances: TypeAlias = npt.NDArray[np.float64]
"""Distances in mm, or areas in mm2, one per piece of a surface."""

Places: TypeAlias = npt.NDArray[np.int64]

PLACES_TO_LOOK_AT = 1000
"""Looking at so many costs about as much as one query of a tree."""

ROUNDING = 1e-6
"""Relative excess at which a distance still equals another: headers store float32."""

SLAB_VOXELS = 1 << 23
"""About so many voxels are transformed at once."""

VOXELS_PER_QUERY = 12
"""A distance transform of this many voxels costs about as much as one query of a tree."""


def nearest_distances(
    first: Mask, second: Mask, spacing: tuple[float, ...]
) -> tuple[Distances, Distances]:
    """Distances from the voxels of each mask to the nearest one of the other.

    Args:
        first: ``(I, J, K)`` bool.
        second: Same shape.
        spacing: Voxel size in mm along each axis.

    Returns:
        From the first and from the second, in the order of their voxels (the last axis
        fastest); ``inf`` where the other mask is empty.

    Examples:
        >>> a, b = np.zeros((2, 1, 1, 6), dtype=bool)
        >>> a[..., 1] = b[..., [1, 4]] = True
        >>> [distances.tolist() for distances in nearest_distances(a, b, (1.0, 1.0, 2.0))]
        [[0.0], [0.0, 6.0]]
    """
    size = np.asarray(spacing, dtype=np.float64)
    around, lengths = _surroundings(size, first.shape)
    reach = around.max(axis=0, initial=0)
    first, second = _widened(first, reach), _widened(second, reach)
    steps = around @ np.array(first.strides)
    ours, theirs = np.flatnonzero(first), np.flatnonzero(second)
    distances = np.full(len(ours), np.inf), np.full(len(theirs), np.inf)
    if not (len(ours) and len(theirs)):
        return distances
    both = ((ours, theirs, second), (theirs, ours, first))
    for found, (source, target, mask) in zip(distances, both, strict=True):
        _look_around(source, mask.reshape(-1), steps, lengths, found)
        lost = np.flatnonzero(np.isinf(found))
        if len(lost):
            found[lost] = _far_distances(source[lost], target, mask, size)
    return distances


def near(mask: Mask, spacing: tuple[float, ...], distance: float) -> Mask:
    """All voxels within so many mm of a voxel of the mask, its own included.

    Found slab by slab, since a distance transform takes sixty times the memory of a mask.

    Args:
        mask: ``(I, J, K)`` bool.
        spacing: Voxel size in mm along each axis.
        distance: In mm, from voxel center to voxel center.

    Examples:
        >>> line = np.zeros((1, 7), dtype=bool)
        >>> line[0, 1] = True
        >>> near(line, (1.0, 0.7), 1.4).astype(int).tolist()
        [[1, 1, 1, 1, 0, 0, 0]]
    """
    reach = distance * (1.0 + ROUNDING)
    halo = int(reach / spacing[0])
    found = np.zeros_like(mask)
    thick = max(halo, SLAB_VOXELS // max(1, mask[:1].size), 1)
    for start in range(0, len(mask), thick):
        above = max(0, start - halo)
        slab = mask[above : start + thick + halo]
        if slab.any():
            far = ndimage.distance_transform_edt(~slab, sampling=spacing)
            found[start : start + thick] = far[start - above :][:thick] <= reach
    return found


def _surroundings(spacing: Distances, shape: tuple[int, ...]) -> tuple[Places, Distances]:
    """All places within some distance of a voxel, nearest first, and how far they are."""
    axes = len(shape)
    unit_ball = pi ** (axes / 2) / gamma(axes / 2 + 1)
    radius = (PLACES_TO_LOOK_AT * float(spacing.prod()) / unit_ball) ** (1 / axes)
    reach = np.minimum(radius // spacing, np.maximum(shape, 1) - np.int64(1)).astype(np.int64)
    around = np.indices((2 * reach + 1).tolist()).reshape(axes, -1).T - reach
    lengths = np.linalg.norm(around * spacing, axis=1)
    order = np.argsort(lengths, kind="stable")
    order = order[: np.count_nonzero(lengths <= radius)]
    return around[order], lengths[order]


def _widened(mask: Mask, reach: Places) -> Mask:
    """The mask with so much room around it that nobody who looks around gets beyond its end."""
    wide = np.zeros(tuple((2 * reach + np.array(mask.shape)).tolist()), dtype=np.bool_)
    wide[tuple(map(slice, reach, reach + mask.shape))] = mask
    return wide


@compiled
def _look_around(source: Any, target: Any, steps: Any, lengths: Any, distances: Any) -> None:
    """Set the distance from each voxel that meets one of the target.

    Args:
        source: Places of the voxels in the flattened array.
        target: The other mask, flattened.
        steps: From a voxel to the places around it, nearest first.
        lengths: How far they are.
        distances: One per voxel; kept where nothing is met.
    """
    for voxel in range(len(source)):
        for place in range(len(steps)):
            if target[source[voxel] + steps[place]]:
                distances[voxel] = lengths[place]
                break


def _far_distances(source: Places, target: Places, mask: Mask, spacing: Distances) -> Distances:
    """Distance in mm from each place in ``source`` to the nearest one in ``target``."""
    start = np.stack(np.unravel_index(source, mask.shape), axis=1)
    if len(source) * VOXELS_PER_QUERY > mask.size:
        nearest = ndimage.distance_transform_edt(
            ~mask, sampling=spacing, return_distances=False, return_indices=True
        )[:, *start.T].T
    else:
        stop = np.stack(np.unravel_index(target, mask.shape), axis=1)
        tree = cKDTree(stop * spacing, leafsize=32, compact_nodes=False, balanced_tree=False)
        nearest = stop[tree.query(start * spacing)[1]]
    return np.asarray(np.linalg.norm((nearest - start) * spacing, axis=1))
