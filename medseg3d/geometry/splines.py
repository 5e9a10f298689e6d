"""Cubic splines along three axes in small parts, from stored numbers to the resampled image.

A spline depends on all voxels of a row, but on those farther than a dozen by less than float32
tells, so every new voxel is a weighted sum of a few old ones along each axis. Planes are taken in
the order in which they lie in memory; only as many as a few new planes need are held.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.geometry.machine_code import compiled
from medseg3d.types import Size3

TAPS = 28
"""Old voxels in each weighted sum; all others together weigh less than 2e-8."""

COMB = 64
"""Distance at which two old voxels share no new one, by far."""

STEP = 32
"""Planes that are made at a time, or that they are made of."""

COLUMNS = 2048
"""About as many voxels of a plane at a time stay in a processor's own cache."""

SMALL = 1 << 18
"""Voxels below which more than one thread gains nothing."""

Float = npt.NDArray[np.float32]
Scale = Callable[[Float], object]
Each = Callable[[Callable[[int], None], Sequence[int]], object]


@dataclass(frozen=True)
class Band:
    """New voxels along one axis as weighted sums of old ones.

    Attributes:
        first: ``(n,)`` first old voxel of each, ascending.
        weights: ``(n, taps)`` weights of it and those that follow.
    """

    first: npt.NDArray[np.intp]
    weights: Float

    def __len__(self) -> int:
        return len(self.first)

    @property
    def taps(self) -> int:
        """Old voxels in each sum."""
        return int(self.weights.shape[1])

    @property
    def reach(self) -> slice:
        """All old voxels that count."""
        return slice(int(self.first[0]), int(self.first[-1]) + self.taps)

    def held(self, part: slice) -> "Band":
        """Some of the new voxels."""
        return Band(self.first[part], self.weights[part])

    def of(self, rows: Float) -> Float:
        """The new rows ``(n, x)`` of the old ones within reach, ``(m, x)``."""
        if self.taps == 1:
            return np.asarray(rows[self.first - self.first[0]])
        out = np.empty((len(self), rows.shape[1]), np.float32)
        _mix(rows, self.index() - self.first[0], self.weights, 0, out)
        return out

    def index(self) -> npt.NDArray[np.intp]:
        """``(n, taps)`` old voxels in each sum."""
        return np.asarray(self.first[:, None] + np.arange(self.taps))


@lru_cache(maxsize=32)
def cubic(before: int, after: int) -> Band:
    """Cubic spline resampling, equal to scipy's to float32 rounding."""
    if before == after:
        return Band(np.arange(after), np.ones((after, 1), np.float32))
    if before == 1:
        return Band(np.zeros(after, np.intp), np.ones((after, 1), np.float32))
    combs = np.equal.outer(np.arange(before) % COMB, np.arange(min(before, COMB)))
    spread = ndimage.zoom(
        combs.astype(np.float64), (after / before, 1), order=3, mode="nearest", grid_mode=True
    )
    taps = min(before, TAPS)
    middle = np.floor(places(before, after)).astype(np.intp)
    first = (middle - taps // 2 + 1).clip(0, before - taps)
    index = first[:, None] + np.arange(taps)
    weights = np.take_along_axis(spread, index % COMB, axis=1)
    return Band(first, weights.astype(np.float32))


def nearest(before: int, after: int) -> Band:
    """The old voxel nearest to each new one."""
    first = np.floor(places(before, after) + 0.5).astype(np.intp).clip(0, before - 1)
    return Band(first, np.ones((after, 1), np.float32))


def places(before: int, after: int) -> npt.NDArray[np.float64]:
    """Where the new voxel centers lie, in old voxels."""
    return np.asarray(before / after * (np.arange(after) + 0.5) - 0.5)


def resample_channel(
    channel: npt.NDArray[Any],
    out: Float,
    shape: Size3,
    *,
    coarse_axis: int | None = None,
    held: tuple[slice, slice, slice] = (slice(None),) * 3,
    scale: Scale | None = None,
    threads: int = 1,
) -> None:
    """Resample one channel, or a part of it, clipped to the range that it had.

    Args:
        channel: ``(I, J, K)`` numbers, fastest if read in the order in which they lie in memory.
        out: Where the result goes; ``shape``, or the shape of ``held``.
        shape: Voxels wanted along ``(I, J, K)``.
        coarse_axis: Axis along which the nearest slice is taken; slices do not mix.
        held: New voxels that are wanted; they are those of the whole.
        scale: Changes float32 intensities in place before they are resampled; it must keep
            their order.
        threads: How many share the work.
    """
    order = sorted(range(3), key=lambda axis: -abs(channel.strides[axis]))
    bands = []
    for axis in order:
        kind = nearest if axis == coarse_axis else cubic
        bands.append(kind(channel.shape[axis], shape[axis]).held(held[axis]))
    coarse = None if coarse_axis is None else order.index(coarse_axis)
    planes = channel.transpose(order)
    with _sharing(threads if channel.size >= SMALL else 1) as each:
        limits = None
        if any(band.taps > 1 for band in bands):
            limits = _limits(planes, coarse, bands, scale, each)
        _resample(planes, out.transpose(order), bands, scale, limits, each)


def _resample(
    source: npt.NDArray[Any],
    target: Float,
    bands: Sequence[Band],
    scale: Scale | None,
    limits: Float | None,
    each: Each,
) -> None:
    """Resample planes along the last two axes, and those along the first."""
    slow, mid, fast = bands
    planes = source[:, mid.reach, fast.reach]
    index, steps = slow.index(), _steps(slow)
    span = max(int(np.ptp(index[step])) + 1 for step in steps)
    ring = np.empty((span, len(fast) * len(mid)), np.float32)
    rows = max(1, COLUMNS // len(mid))

    def load(number: int) -> None:
        plane = planes[number].astype(np.float32, order="C")
        if scale is not None:
            scale(plane)
        ring[number % span] = fast.of(_turned(mid.of(plane))).reshape(-1)

    def finish(step: slice, row: int) -> None:
        some = slice(row, min(row + rows, len(fast)))
        made = np.empty((step.stop - step.start, (some.stop - row) * len(mid)), np.float32)
        _mix(ring, index[step] % span, slow.weights[step], row * len(mid), made)
        new = made.reshape(len(made), -1, len(mid)).transpose(0, 2, 1)
        if limits is not None:
            low, high = np.broadcast_to(limits, (2, *target.shape))[:, step, :, some]
            np.clip(new, low, high, out=new)
        target[step, :, some] = new

    done = -1
    for step in steps:
        wanted = np.unique(index[step])
        each(load, wanted[wanted > done].tolist())
        done = int(wanted[-1])
        each(partial(finish, step), range(0, len(fast), rows))


def _steps(slow: Band) -> list[slice]:
    """New planes that are made together."""
    count = STEP * len(slow) // (slow.reach.stop - slow.reach.start)
    count = max(1, min(STEP, count))
    return [slice(n, min(n + count, len(slow))) for n in range(0, len(slow), count)]


def _limits(
    planes: npt.NDArray[Any],
    coarse: int | None,
    bands: Sequence[Band],
    scale: Scale | None,
    each: Each,
) -> Float:
    """Least and greatest old intensity ``(2, ...)``, or those of each slice of the coarse axis.

    There are as many as new voxels along that axis, and one along the others.
    """
    across = tuple(axis - 1 for axis in (1, 2) if axis != coarse)
    ends = np.empty((2, len(planes), planes.shape[coarse] if coarse else 1), np.float32)

    def measure(number: int) -> None:
        plane = planes[number]
        ends[0, number] = plane.min(axis=across)
        ends[1, number] = plane.max(axis=across)

    each(measure, range(len(planes)))
    if coarse != 0:
        ends = np.stack([ends[:1].min(axis=1), ends[1:].max(axis=1)])
    limits = ends.reshape(2, -1)
    if scale is not None:
        scale(limits)
    if coarse is None:
        return limits.reshape(2, 1, 1, 1)
    widths = [1, 1, 1]
    widths[coarse] = len(bands[coarse])
    return limits[:, bands[coarse].first].reshape(2, *widths)


@contextmanager
def _sharing(threads: int) -> Iterator[Each]:
    """A loop whose rounds run side by side in some threads."""
    if threads == 1:
        yield lambda function, numbers: list(map(function, numbers))
        return
    with ThreadPoolExecutor(threads) as pool:
        yield lambda function, numbers: list(pool.map(function, numbers))


@compiled
def _mix(rows: Any, index: Any, weights: Any, first: int, out: Any) -> None:
    count, taps = weights.shape
    width = out.shape[1]
    fours = taps - taps % 4  # four rows at a time, since writing costs more than adding
    for n in range(count):
        new = out[n]
        new[:] = 0
        for tap in range(0, fours, 4):
            a, b = rows[index[n, tap]][first:], rows[index[n, tap + 1]][first:]
            c, d = rows[index[n, tap + 2]][first:], rows[index[n, tap + 3]][first:]
            of_a, of_b = weights[n, tap], weights[n, tap + 1]
            of_c, of_d = weights[n, tap + 2], weights[n, tap + 3]
            for x in range(width):
                new[x] += of_a * a[x] + of_b * b[x] + of_c * c[x] + of_d * d[x]
        for tap in range(fours, taps):
            a, of_a = rows[index[n, tap]][first:], weights[n, tap]
            for x in range(width):
                new[x] += of_a * a[x]


def _turned(plane: Float) -> Float:
    """``(a, b)`` as ``(b, a)``, in the order in which it is read."""
    out = np.empty(plane.shape[::-1], np.float32)
    _turn(plane, out)
    return out


@compiled
def _turn(plane: Any, out: Any) -> None:
    height, width = plane.shape
    for top in range(0, height, 16):  # squares that fit the lines of a cache
        for left in range(0, width, 16):
            for b in range(left, min(left + 16, width)):
                for a in range(top, min(top + 16, height)):
                    out[b, a] = plane[a, b]
