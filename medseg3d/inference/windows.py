"""Windows over a volume: where they lie, how they are weighted, what they see."""

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.slices import with_edge
from medseg3d.types import Image, Size3

SIGMA = 1 / 8
"""Standard deviation of the Gaussian weights as a fraction of the window's edge."""

LEAST_WEIGHT = 1e-4
"""Of a window's corners, where the middle has 1."""

LARGEST_WINDOW = 2
"""A window may grow to this many times its voxels if it then holds the whole volume."""

Advance = Callable[[int, int], None]
"""Called with the windows done and the windows in all."""


def starts(length: int, window: int, overlap: float) -> list[int]:
    """First voxels of evenly spread windows that cover ``length`` voxels.

    Neighbors share at least the fraction ``overlap``. One window if it covers all; it then
    reaches beyond both ends alike, and begins below 0.

    Examples:
        >>> starts(10, 4, 0.5)
        [0, 2, 4, 6]
        >>> starts(11, 4, 0.5)
        [0, 2, 4, 5, 7]
        >>> starts(3, 4, 0.5), starts(3, 8, 0.5)
        ([0], [-2])
    """
    room = length - window
    if room <= 0:
        return [-(-room // 2)]
    step = max(1.0, window * (1 - overlap))
    count = ceil(room / step) + 1
    return [round(room * place / (count - 1)) for place in range(count)]


def fit_window(shape: Size3, window: Size3, divisor: Size3, slice_axis: int | None = None) -> Size3:
    """One window around the whole volume if that is little more than a window, else the window.

    A volume slightly larger than the window would take eight windows that overlap almost
    wholly; a convolutional network sees it at once for an eighth of the time.

    It grows by whole divisors: a network that pads its input has learned nothing about where the
    padding was, so there it must stay. A network whose divisor is the whole window may take
    images of this size only, so that the window stays.

    Across slices that are seen one by one, the volume is parted evenly, and only the size of a
    slice matters.

    Examples:
        >>> fit_window((43, 50, 37), (40, 56, 40), (8, 8, 8))
        (48, 56, 40)
        >>> fit_window((43, 50, 37), (40, 56, 40), (16, 16, 16))
        (56, 56, 40)
        >>> fit_window((90, 90, 90), (40, 56, 40), (8, 8, 8))
        (40, 56, 40)
        >>> fit_window((43, 50, 37), (40, 56, 40), (40, 56, 40))
        (40, 56, 40)
        >>> fit_window((43, 50, 37), (40, 56, 16), (8, 8, 1), slice_axis=2)
        (48, 56, 13)
    """
    if slice_axis is not None:
        length = shape[slice_axis]
        depth = ceil(length / ceil(length / window[slice_axis]))
        shape = with_edge(shape, slice_axis, depth)
        window = with_edge(window, slice_axis, depth)
        divisor = with_edge(divisor, slice_axis, depth) if divisor[slice_axis] == 1 else divisor
    if divisor == window:
        return window
    grown = tuple(
        edge + max(0, -(-(n - edge) // d)) * d
        for n, edge, d in zip(shape, window, divisor, strict=True)
    )
    if prod(grown) > LARGEST_WINDOW * prod(window):
        return window
    return grown[0], grown[1], grown[2]


@lru_cache(maxsize=8)
def gaussian_weights(window: Size3, slice_axis: int | None = None) -> npt.NDArray[np.float32]:
    """Weights ``(i, j, k)`` that fall from 1 in the middle to the border, never to 0.

    Slices that are seen one by one weigh the same.

    Examples:
        >>> gaussian_weights((1, 1, 3)).ravel().astype(float).round(4).tolist()
        [0.0286, 1.0, 0.0286]
    """
    axes = []
    for axis, edge in enumerate(window):
        if axis == slice_axis:
            axes.append(np.ones(edge))
            continue
        offsets = np.arange(edge) - (edge - 1) / 2
        heights = np.exp(-0.5 * (offsets / (SIGMA * edge)) ** 2)
        axes.append(heights / heights.max())
    weights = np.einsum("i,j,k->ijk", *axes).astype(np.float32)
    return np.asarray(weights.clip(LEAST_WEIGHT, 1))


def mirrorings(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All subsets of ``axes``, the empty one first.

    Examples:
        >>> mirrorings((0, 2))
        [(), (0,), (2,), (0, 2)]
    """
    return [chosen for size in range(len(axes) + 1) for chosen in combinations(axes, size)]


def mirrored(array: npt.NDArray[Any], axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """View of ``(N, i, j, k)`` in the opposite order along some voxel axes."""
    return array[(slice(None), *(slice(None, None, -1 if n in axes else 1) for n in range(3)))]


def inside(image: Image, start: Size3, window: Size3) -> tuple[slice, ...]:
    """The part of an image ``(C, I, J, K)`` that a window holds, all channels."""
    parts = zip(start, window, image.shape[1:], strict=True)
    return (slice(None), *(slice(max(0, s), min(n, s + w)) for s, w, n in parts))


def is_air(patch: Image) -> bool:
    """Whether every channel of ``(C, i, j, k)`` is constant, so that there is nothing to see.

    Examples:
        >>> is_air(np.full((2, 4, 4, 4), -1.0, np.float32))
        True
    """
    first = patch[:, :1, :1, :1]
    # nearly all windows show something in every seventh voxel already
    return bool((patch[:, ::7, ::7, ::7] == first).all() and (patch == first).all())


def copy_window(image: Image, start: Size3, into: Image) -> None:
    """Copy what a window holds of an image ``(C, I, J, K)``, and 0 beyond the image.

    Args:
        image: All of it.
        start: First voxel of the window, below 0 where it reaches beyond the image.
        into: The window ``(C, i, j, k)``; may be a mirrored view.

    Examples:
        >>> into = np.ones((1, 1, 1, 4), np.float32)
        >>> copy_window(np.array([[[[5, 6]]]], np.float32), (0, 0, -1), into)
        >>> into.ravel().astype(int).tolist()
        [0, 5, 6, 0]
    """
    window = (into.shape[1], into.shape[2], into.shape[3])
    held = inside(image, start, window)
    target = (
        slice(None),
        *(slice(h.start - s, h.stop - s) for h, s in zip(held[1:], start, strict=True)),
    )
    if image[held].shape != into.shape:
        into[...] = 0
    into[target] = image[held]
