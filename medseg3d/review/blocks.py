"""Fewer voxels for the page: blocks of them become one."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.geometry.grid import Grid
from medseg3d.geometry.machine_code import compiled
from medseg3d.types import LabelMap, Size3, Spacing

MOST_VOXELS = 1 << 23
"""A CT of 512 x 512 x 128 with half the pixels each way; more makes a browser wait."""

THICK = 2.0
"""Slices may be this many times as thick as pixels are wide, as people are used to see them."""


def block_for(shape: Size3, spacing: Spacing, most: int = MOST_VOXELS) -> Size3:
    """How many voxels along each axis become one, so that at most ``most`` are left.

    The finest axis is joined first, and others as fine with it. The one with the thickest
    voxels, or the last of a cube, counts as the one across the slices.

    Examples:
        >>> block_for((512, 512, 78), (0.73, 0.73, 2.0))
        (2, 2, 1)
        >>> block_for((512, 512, 300), (0.73, 0.73, 1.0)), block_for((35, 51, 35), (1, 1, 1))
        ((2, 2, 3), (1, 1, 1))
    """
    across = max(range(3), key=lambda axis: (round(spacing[axis], 3), axis))
    block = [1, 1, 1]
    while prod(blocks_along(shape, block)) > most:
        left = blocks_along(shape, block)
        size = [
            spacing[axis] * block[axis] / (THICK if axis == across else 1)
            if left[axis] > 1
            else np.inf
            for axis in range(3)
        ]
        block = [
            joined + (length <= 1.01 * min(size))
            for joined, length in zip(block, size, strict=True)
        ]
    return block[0], block[1], block[2]


def blocks_along(shape: Sequence[int], block: Sequence[int]) -> Size3:
    """How many blocks there are along each axis; the last ones may be cut."""
    i, j, k = (-(-length // joined) for length, joined in zip(shape, block, strict=True))
    return i, j, k


def grid_of_blocks(grid: Grid, block: Size3) -> Grid:
    """The grid with a voxel in the middle of each block."""
    scale = np.diag([*map(float, block), 1.0])
    scale[:3, 3] = (np.array(block) - 1) / 2
    return Grid(blocks_along(grid.shape, block), grid.affine @ scale)


def mean_of_blocks(image: npt.NDArray[Any], block: Size3) -> npt.NDArray[np.float32]:
    """The mean of each block of ``(I, J, K)``.

    Examples:
        >>> mean_of_blocks(np.arange(5).reshape(5, 1, 1), (2, 1, 1)).ravel().tolist()
        [0.5, 2.5, 4.0]
    """
    means = image
    for axis, joined in enumerate(block):
        if joined == 1:
            continue
        starts = np.arange(0, image.shape[axis], joined)
        sums = np.add.reduceat(means, starts, axis=axis, dtype=np.float32)
        lengths = np.diff([*starts, image.shape[axis]]).astype(np.float32)
        means = sums / np.expand_dims(lengths, [other for other in range(3) if other != axis])
    return means.astype(np.float32, copy=False)


def label_of_blocks(labels: LabelMap, block: Size3) -> LabelMap:
    """The most frequent label of each block of ``(I, J, K)``, the largest of equally frequent.

    A small label is not lost: one that is nowhere the most frequent gets every block that it is
    in. Only of several in the same few blocks, some may have to give way.

    Examples:
        >>> labels = np.array([0, 0, 0, 0, 2, 2, 0, 0, 7], np.uint8).reshape(9, 1, 1)
        >>> label_of_blocks(labels, (3, 1, 1)).ravel().tolist()
        [0, 2, 7]
    """
    if prod(block) == 1:
        return labels
    order = np.argsort(np.abs(labels.strides))[::-1]  # voxels as they lie in memory
    found = np.empty([blocks_along(labels.shape, block)[axis] for axis in order], labels.dtype)
    size = np.array(block)[order]
    _most_frequent(labels.transpose(order), *size, found)
    reduced = found.transpose(np.argsort(order))
    for label in sorted(values_of(labels) - values_of(reduced) - {0}):
        places = np.argwhere(labels == label) // block
        reduced[tuple(places.T)] = label
    return reduced


def values_of(labels: LabelMap) -> set[int]:
    """All values of a label map, background included."""
    return {value for plane in planes_of(labels) for value in np.unique(plane).tolist()}


def planes_of(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The planes of ``(I, J, K)`` as they lie in memory."""
    yield from array.transpose(np.argsort(np.abs(array.strides))[::-1])


@compiled
def _most_frequent(labels: Any, size_i: int, size_j: int, size_k: int, found: Any) -> None:
    for i in range(found.shape[0]):
        i_end = min((i + 1) * size_i, labels.shape[0])
        for j in range(found.shape[1]):
            j_end = min((j + 1) * size_j, labels.shape[1])
            for k in range(found.shape[2]):
                k_end = min((k + 1) * size_k, labels.shape[2])
                part = labels[i * size_i : i_end, j * size_j : j_end, k * size_k : k_end]
                best = part[0, 0, 0]
                is_mixed = False
                for value in part.flat:
                    is_mixed = is_mixed or value != best
                most = 0
                if is_mixed:
                    for value in part.flat:
                        count = 0
                        for other in part.flat:
                            count += other == value
                        if count > most or (count == most and value > best):
                            best, most = value, count
                found[i, j, k] = best
