"""Patch and stages of a network, from the size of the cases and the shape of their voxels."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import SupportsInt

import numpy as np

from medseg3d.types import Size3, Spacing

SMALLEST_FEATURE_MAP = 4
"""No stage has fewer voxels along an axis than this."""

MAX_STAGES = 6


def fit_patch(median_shape: Size3, spacing: Spacing, voxels: int) -> Size3:
    """Largest patch of at most ``voxels`` voxels: a cube in mm, cut to the median case.

    Where the cube is cut, the other axes grow in its stead.

    Examples:
        >>> fit_patch((36, 50, 35), (1.0, 1.0, 1.0), 131_072)
        (36, 50, 35)
        >>> fit_patch((500, 500, 400), (1.0, 1.0, 1.0), 64**3)
        (64, 64, 64)
        >>> fit_patch((500, 500, 20), (1.0, 1.0, 5.0), 64**3)
        (114, 114, 20)
    """
    if prod(median_shape) <= voxels:
        return median_shape
    shape = np.asarray(median_shape, dtype=np.float64)
    edges = 1 / np.asarray(spacing)
    free = np.ones(3, dtype=bool)
    for _ in range(3):
        room = voxels / prod(shape[~free])
        scale = (room / prod(edges[free])) ** (1 / free.sum())
        patch = np.where(free, edges * scale, shape)
        cut = free & (patch >= shape)
        if not cut.any():
            break
        free &= ~cut
    return size3(max(1, int(edge + 1e-6)) for edge in np.minimum(patch, shape))


def topology(patch: Size3, spacing: Spacing) -> tuple[tuple[Size3, ...], tuple[Size3, ...]]:
    """Strides and kernels that halve fine axes first until the voxels are nearly cubes.

    Returns:
        Strides entering each stage but the first, and one kernel per stage.

    Examples:
        >>> topology((40, 56, 40), (1.0, 1.0, 1.0))[0]
        ((2, 2, 2), (2, 2, 2), (2, 2, 2))
        >>> strides, kernels = topology((128, 128, 16), (1.0, 1.0, 5.0))
        >>> strides
        ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1))
        >>> kernels[:3]
        ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    """
    edges = np.asarray(patch, dtype=np.float64)
    size = np.asarray(spacing, dtype=np.float64)
    strides: list[Size3] = []
    kernels: list[Size3] = [_kernel(size)]
    while len(kernels) < MAX_STAGES:
        possible = edges >= 2 * SMALLEST_FEATURE_MAP
        if not possible.any():
            break
        halved = possible & (size < 2 * size[possible].min())
        stride = np.where(halved, 2, 1)
        edges, size = np.ceil(edges / stride), size * stride
        strides.append(size3(stride))
        kernels.append(_kernel(size))
    return tuple(strides), tuple(kernels)


def _kernel(spacing: np.ndarray) -> Size3:
    return size3(3 if edge <= 2 * spacing.min() else 1 for edge in spacing)


def divisor_of(strides: Sequence[Size3]) -> Size3:
    """What every edge of a patch must be a multiple of.

    Examples:
        >>> divisor_of([(2, 2, 1), (2, 2, 2)]), divisor_of([])
        ((4, 4, 2), (1, 1, 1))
    """
    return size3(prod(stride[axis] for stride in strides) for axis in range(3))


def divisible(patch: Size3, strides: Sequence[Size3]) -> Size3:
    """The patch, made larger where the strides do not divide it.

    Examples:
        >>> divisible((35, 52, 35), [(2, 2, 1), (2, 2, 2)])
        (36, 52, 36)
    """
    divisor = divisor_of(strides)
    return size3(-(-edge // d) * d for edge, d in zip(patch, divisor, strict=True))


def size3(values: Iterable[SupportsInt]) -> Size3:
    """Three plain integers."""
    first, second, third = map(int, values)
    return first, second, third
