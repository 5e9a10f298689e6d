"""Every label's voxels and box in two label maps, found in one pass over both."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from medseg3d.geometry.machine_code import compiled
from medseg3d.metrics.masks import Counts
from medseg3d.types import LabelMap

Box: TypeAlias = tuple[slice, ...]

NOWHERE: Box = (slice(0, 1),) * 3
"""Box of a label that is in neither map: some voxel, since a box without any is hard to handle."""

BLOCK = 64
"""Voxels of a row that are compared at once: a cache line of bytes."""


@dataclass(frozen=True)
class Extent:
    """How much of a label there is in two label maps, and where.

    Attributes:
        counts: Voxels that agree and that do not.
        box: Smallest box that holds the label in both maps; of one voxel where neither has it.
    """

    counts: Counts
    box: Box


def extents(
    prediction: LabelMap, reference: LabelMap, labels: Sequence[int], *, threads: int = 1
) -> list[Extent]:
    """Counts and box of every label.

    Args:
        prediction: Predicted labels, ``(I, J, K)``.
        reference: Reference labels, same shape. It is fastest if both are contiguous.
        labels: Those that are looked for, each once.
        threads: How many to work in.
    """
    values = np.array(sorted(labels), dtype=np.int64)
    step = -(-prediction.shape[0] // max(1, threads))
    parts = [slice(start, start + step) for start in range(0, prediction.shape[0], step)]

    def count(part: slice) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        found = np.zeros((len(values), 3), np.int64)
        corners = np.empty((len(values), 6), np.int64)
        corners[:, :3], corners[:, 3:] = np.iinfo(np.int64).max, -1
        _count_runs(prediction[part], reference[part], values, found, corners)
        corners[:, [0, 3]] += np.where(corners[:, 3:4] >= 0, part.start, 0)
        return found, corners

    if len(parts) == 1:
        done = [count(parts[0])]
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            done = list(pool.map(count, parts))
    found = np.sum([counts for counts, _ in done], axis=0)
    first = np.min([corners[:, :3] for _, corners in done], axis=0)
    last = np.max([corners[:, 3:] for _, corners in done], axis=0)
    place = {int(value): number for number, value in enumerate(values)}
    return [
        _extent(found[place[label]], first[place[label]], last[place[label]], prediction.size)
        for label in labels
    ]


def _extent(
    found: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
    total: int,
) -> Extent:
    both, predicted, expected = found.tolist()
    counts = Counts(both, predicted - both, expected - both, total - predicted - expected + both)
    if counts.union == 0:
        return Extent(counts, NOWHERE)
    corners = zip(first.tolist(), last.tolist(), strict=True)
    return Extent(counts, tuple(slice(low, high + 1) for low, high in corners))


@compiled
def _place(values: Any, value: Any) -> Any:
    """Where a value stands among sorted ones, or -1."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < len(values) and values[low] == value else -1


@compiled
def _count_runs(prediction: Any, reference: Any, values: Any, found: Any, corners: Any) -> None:
    """Add to the counts and boxes, a run of equal voxels of a row at a time.

    Args:
        prediction: ``(I, J, K)``.
        reference: Same shape.
        values: Labels, sorted.
        found: ``(L, 3)``: voxels of both maps, of the prediction, of the reference.
        corners: ``(L, 6)``: first and last place along each axis.
    """
    rows, columns, length = prediction.shape
    for i in range(rows):
        for j in range(columns):
            predicted, expected = prediction[i, j], reference[i, j]
            stop = 0
            while stop < length:
                start = stop
                ours, theirs = predicted[start], expected[start]
                while stop + BLOCK <= length:
                    differ = False
                    for k in range(stop, stop + BLOCK):
                        differ |= (predicted[k] != ours) | (expected[k] != theirs)
                    if differ:
                        break
                    stop += BLOCK
                while stop < length and predicted[stop] == ours and expected[stop] == theirs:
                    stop += 1
                for side in range(2):
                    value = np.int64(ours) if side == 0 else np.int64(theirs)
                    place = _place(values, value)
                    if place < 0:
                        continue
                    found[place, 1 + side] += stop - start
                    if side == 0 and np.int64(theirs) == value:
                        found[place, 0] += stop - start
                    corner = corners[place]
                    corner[0], corner[3] = min(corner[0], i), max(corner[3], i)
                    corner[1], corner[4] = min(corner[1], j), max(corner[4], j)
                    corner[2], corner[5] = min(corner[2], start), max(corner[5], stop - 1)
