"""The plain way from windows to labels: all logits at once, in numpy, float32 or float64."""

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.geometry.resampling import AxisMap
from medseg3d.inference.windows import gaussian_weights, starts

Array = npt.NDArray[Any]
AIR = -30.0


class Network:
    """A window network over any function of a batch."""

    backend = "test"
    precision = "fp32"

    def __init__(
        self, function: Callable[[Array], Array], divisor: tuple[int, int, int] = (1, 1, 1)
    ) -> None:
        self.function = function
        self.divisor = divisor
        self.seen: list[tuple[int, ...]] = []
        self._result: dict[tuple[int, ...], Array] = {}

    def __call__(self, batch: Array) -> Array:
        assert batch.flags.c_contiguous
        assert batch.dtype == np.float32
        self.seen.append(batch.shape)
        logits = np.asarray(self.function(batch), np.float32)
        kept = self._result.setdefault(logits.shape, np.empty_like(logits))
        kept[...] = logits  # overwritten by the next call, as backends may
        return kept


def noisy(num_labels: int) -> Callable[[Array], Array]:
    """Logits that differ from window to window and voxel to voxel, with many near ties."""
    slopes = np.random.default_rng(num_labels).normal(size=(num_labels, 3)).astype(np.float32)

    def function(batch: Array) -> Array:
        x = batch[:, 0]
        here = np.arange(x[0].size, dtype=np.float32).reshape(x[0].shape) % 13 / 13
        mean = x.mean(axis=(1, 2, 3), keepdims=True)
        return np.stack([a * x + b * mean + c * here for a, b, c in slopes], axis=1)

    return function


def zoom_map(working: int, native: int, *, first: int = 0) -> AxisMap:
    """Centers of ``native`` voxels over the box of ``working`` voxels."""
    places = (np.arange(native) + 0.5) * working / native - 0.5
    return AxisMap(first, places.clip(0, working - 1))


def stitched(
    function: Callable[[Array], Array],
    image: Array,
    *,
    window: tuple[int, int, int],
    overlap: float,
    axis: int,
    mirror_axes: tuple[int, ...] = (),
    mirrored_labels: tuple[int, ...] = (),
) -> Array:
    """Mean logits ``(L, i, j, k)``; windows in turn, those along ``axis`` last."""
    shape = image.shape[1:]
    order = [axis, *(n for n in range(3) if n != axis)]
    along = [starts(shape[n], window[n], overlap) for n in order]
    weights = gaussian_weights(window)
    if all(len(places) == 1 for places in along):
        weights = np.ones(window, np.float32)
    reach = [max(0, -min(along[order.index(n)])) for n in range(3)]
    more = [max(n, w) for n, w in zip(shape, window, strict=True)]
    padded = np.zeros((image.shape[0], *more), np.float32)
    inner = tuple(slice(r, r + n) for r, n in zip(reach, shape, strict=True))
    padded[(slice(None), *inner)] = image
    total: Array | None = None
    norm = np.zeros(more, np.float32)
    for place in product(*along):
        first = [place[order.index(n)] + reach[n] for n in range(3)]
        box = tuple(slice(f, f + w) for f, w in zip(first, window, strict=True))
        held = tuple(
            slice(max(b.start, s.start), min(b.stop, s.stop))
            for b, s in zip(box, inner, strict=True)
        )
        visible = padded[(slice(None), *held)].reshape(image.shape[0], -1)
        if (visible == visible[:, :1]).all():
            continue
        for size in range(len(mirror_axes) + 1):
            for flips in combinations(mirror_axes, size):
                dims = tuple(n + 1 for n in flips)
                patch = np.flip(padded[(slice(None), *box)], dims)
                logits = function(np.ascontiguousarray(patch)[None])[0].astype(np.float32)
                logits = np.flip(logits, dims)
                if 0 in flips and mirrored_labels:
                    logits = logits[list(mirrored_labels)]
                if total is None:
                    total = np.zeros((len(logits), *more), np.float32)
                total[(slice(None), *box)] += logits * weights
                norm[box] += weights
    if total is None:
        return np.zeros((1, *shape), np.float32)
    total[1:, norm == 0] = AIR
    norm[norm == 0] = 1
    total *= np.float32(1) / norm
    return total[(slice(None), *inner)]


def interpolated(logits: Array, maps: tuple[AxisMap, ...], axis: int) -> Array:
    """Linear along ``axis``, then along the last other axis, then along the first other one."""
    first, last = (n for n in range(3) if n != axis)
    for n in (axis, last, first):
        place = maps[n].positions
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, logits.shape[n + 1] - 1)
        part = (place - low).astype(logits.dtype)
        part = part.reshape([-1 if m == n + 1 else 1 for m in range(4)])
        below, above = logits.take(low, n + 1), logits.take(high, n + 1)
        logits = below + part * (above - below)
    return logits


def rolling_axis(shape: tuple[int, ...], window: tuple[int, ...], overlap: float = 0.5) -> int:
    """The axis whose share of planes held is the smallest, else the longest one."""

    def share(n: int) -> tuple[float, int]:
        single = len(starts(shape[n], window[n], overlap)) == 1
        return ((shape[n] if single else window[n] + 1) / shape[n], -shape[n])

    return min(range(3), key=share)
