"""The logits of windows, added up in a slab that rolls through the volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from medseg3d.data.threads import in_threads
from medseg3d.inference.course import FLOAT, Course, Strip
from medseg3d.inference.kernels import accumulate, settle
from medseg3d.types import Size3

T = TypeVar("T")

PARTS = 4
"""A window's rows go to each thread in so many parts, so that no thread waits long for another."""


def slab_bytes(
    num_labels: int,
    shape: Size3,
    window: Size3,
    overlap: float,
    *,
    divisor: Size3 = (1, 1, 1),
    slice_axis: int | None = None,
) -> int:
    """Memory of the slab for a working image of ``shape``, if nothing limits it."""
    course = Course.through(shape, window, overlap, divisor=divisor, slice_axis=slice_axis)
    return course.bytes_of(course.strips(num_labels, None), num_labels)


def least_slab_bytes(
    num_labels: int,
    shape: Size3,
    window: Size3,
    overlap: float,
    *,
    divisor: Size3 = (1, 1, 1),
    slice_axis: int | None = None,
) -> int:
    """Memory of the slab at the least: of a strip about as wide as a window."""
    course = Course.through(shape, window, overlap, divisor=divisor, slice_axis=slice_axis)
    return course.bytes_of(course.strips(num_labels, 0), num_labels)


class Slab:
    """Sums of weighted logits on the planes that windows still reach.

    Args:
        course: Where the windows lie.
        strip: What part of the planes to hold.
        num_labels: Logits per voxel.
        weights: ``(i, j, k)`` of a window.
        threads: How many add at once.

    Attributes:
        course: Where the windows lie.
        strip: What part of the planes it holds.
        ring: ``(D, L + 1, A, B)``, see :mod:`medseg3d.inference.kernels`.
    """

    def __init__(
        self,
        course: Course,
        strip: Strip,
        num_labels: int,
        weights: npt.NDArray[np.float32],
        *,
        threads: int,
    ) -> None:
        self.course, self.strip = course, strip
        self._threads = threads
        self._weights = np.ascontiguousarray(weights.transpose(course.axes))
        self._limits = [(0, n) for n in course.shape]
        self._limits[strip.axis] = (strip.first, strip.stop)
        rows, columns = (high - low for low, high in (self._limits[n] for n in course.axes[1:]))
        self.ring = np.empty((course.depth, num_labels + 1, rows, columns), np.float32)
        self._begun = self._settled = 0

    @property
    def num_labels(self) -> int:
        """Logits per voxel."""
        return self.ring.shape[1] - 1

    def add(
        self,
        logits: npt.NDArray[np.float32],
        start: Size3,
        *,
        flips: tuple[int, ...] = (),
        channels: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Add what the network says of one window.

        Args:
            logits: ``(L, i, j, k)``, C-contiguous.
            start: First voxel of the window.
            flips: Axes along which the network saw the window mirrored.
            channels: Logit that belongs to each label, by default the one of its number.
        """
        origin, steps, corner, place, size = 0, [logits.strides[0] // FLOAT], [], [], []
        for axis in self.course.axes:
            first, edge = start[axis], self.course.window[axis]
            low, high = self._limits[axis]
            begin, end = max(low, first), min(high, first + edge)
            stride = logits.strides[axis + 1] // FLOAT
            corner.append(begin - first)
            size.append(end - begin)
            place.append(begin - low)
            flipped = axis in flips
            origin += stride * (edge - 1 - corner[-1] if flipped else corner[-1])
            steps.append(-stride if flipped else stride)
        self._begin(place[0] + size[0])
        if channels is None:
            channels = np.arange(self.num_labels)
        flat, numbers = logits.reshape(-1), [_integers(n) for n in (steps, corner, place, size)]

        def add_rows(rows: tuple[int, int]) -> None:
            steps, corner, place, size = numbers
            accumulate(
                flat, origin, steps, channels, self._weights, corner, self.ring, place,
                size[[0, 2]], *rows,
            )  # fmt: skip

        parts = min(PARTS * self._threads, size[1])
        edges = [size[1] * part // parts for part in range(parts + 1)]
        share(add_rows, list(pairwise(edges)), threads=self._threads)

    def settle(self, end: int) -> None:
        """Finish the planes before ``end``, to which no window will be added any more."""
        self._begin(end)

        def settle_plane(plane: int) -> None:
            settle(self.ring, plane, plane + 1)

        share(settle_plane, range(self._settled, end), threads=self._threads)
        self._settled = end

    def _begin(self, end: int) -> None:
        """Clear planes up to ``end`` that were not held so far."""

        def clear(plane: int) -> None:
            self.ring[plane % len(self.ring)] = 0

        share(clear, range(self._begun, end), threads=self._threads)
        self._begun = max(self._begun, end)


def share(function: Callable[[T], None], items: Sequence[T], *, threads: int) -> None:
    """Call ``function`` for every item, in some threads at once if there are several items."""
    if threads == 1 or len(items) < 2:
        for item in items:
            function(item)
    else:
        for _ in in_threads(function, items, threads=threads):
            pass


def _integers(numbers: list[int]) -> npt.NDArray[np.int64]:
    return np.asarray(numbers, dtype=np.int64)
