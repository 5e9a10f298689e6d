"""The loops that touch every voxel of every label, in machine code.

Planes of a slab lie in a ring ``(D, L + 1, A, B)``: plane ``p`` of the axis along which the
slab rolls at ``p % D``, then the labels and, last, the sums of the weights. No arithmetic is
reordered (no "fast math"), so that a voxel's value depends on nothing but what was added to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any, cast

import numpy as np

TILE = 16
"""Planes that are turned at once where a window's planes are not contiguous: a cache line."""

AIR = -30.0
"""Logit of all labels but the background where no window was computed; e^-30 is 1e-13."""


def compiled(signature: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A function in machine code for just these types.

    Made at the first call and kept on disk where some folder allows it; it lets other
    threads run.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        made: list[Callable[..., None]] = []
        turn = Lock()

        def make() -> Callable[..., None]:
            import numba

            options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
            try:
                machine_code = numba.njit(signature, cache=True, **options)(function)
            except Exception:  # no folder can be written, the disk is full, the file is damaged
                machine_code = numba.njit(signature, **options)(function)
            return cast(Callable[..., None], machine_code)

        @wraps(function)
        def call(*arguments: Any) -> None:
            if not made:
                with turn:
                    if not made:
                        made.append(make())
            made[0](*arguments)

        return call

    return decorate


@compiled(
    "void(f4[::1],i8,i8[::1],i8[::1],f4[:,:,::1],i8[::1],f4[:,:,:,::1],i8[::1],i8[::1],i8,i8)"
)
def accumulate(
    logits: Any,
    origin: Any,
    steps: Any,
    channels: Any,
    weights: Any,
    corner: Any,
    ring: Any,
    place: Any,
    size: Any,
    begin: Any,
    end: Any,
) -> None:
    """Add a window's logits times its weights, and the weights, to a ring.

    Args:
        logits: All of the window's, in any order.
        origin: Where the first one to add lies.
        steps: From there to the next label, plane, row and column, in elements.
        channels: Which logit belongs to each label of the ring.
        weights: ``(d, a, b)`` of the window.
        corner: First of them to use, per axis.
        ring: ``(D, L + 1, A, B)``.
        place: Plane, row and column of the first voxel; the plane counts on beyond ``D``.
        size: Planes and columns to add.
        begin: First row to add.
        end: One more than the last row to add.
    """
    depth, num_labels = ring.shape[0], ring.shape[1] - 1
    planes, columns = size[0], size[1]
    contiguous = steps[3] == 1
    turned = np.empty((TILE, columns), np.float32)
    for label in range(num_labels + 1):
        turning = label < num_labels and not contiguous
        for row in range(begin, end):
            first = origin + row * steps[2]
            if label < num_labels:
                first += channels[label] * steps[0]
            for start in range(0, planes, TILE):
                depth_of_tile = min(TILE, planes - start)
                corner_of_tile = first + start * steps[1]
                fast = columns // 4 * 4 if turning and steps[1] == 1 else 0
                for b in range(0, fast, 4):  # four at once become one store
                    there = corner_of_tile + b * steps[3]
                    line_0 = logits[there : there + depth_of_tile]
                    there += steps[3]
                    line_1 = logits[there : there + depth_of_tile]
                    there += steps[3]
                    line_2 = logits[there : there + depth_of_tile]
                    there += steps[3]
                    line_3 = logits[there : there + depth_of_tile]
                    for d in range(depth_of_tile):
                        values = turned[d]
                        values[b] = line_0[d]
                        values[b + 1] = line_1[d]
                        values[b + 2] = line_2[d]
                        values[b + 3] = line_3[d]
                if turning:
                    for b in range(fast, columns):
                        there = corner_of_tile + b * steps[3]
                        for d in range(depth_of_tile):
                            turned[d, b] = logits[there + d * steps[1]]
                for d in range(depth_of_tile):
                    plane = start + d
                    total = ring[
                        (place[0] + plane) % depth,
                        label,
                        place[1] + row,
                        place[2] : place[2] + columns,
                    ]
                    weight = weights[
                        corner[0] + plane, corner[1] + row, corner[2] : corner[2] + columns
                    ]
                    if label == num_labels:
                        for b in range(columns):
                            total[b] += weight[b]
                        continue
                    there = corner_of_tile + d * steps[1]
                    values = logits[there : there + columns] if contiguous else turned[d]
                    for b in range(columns):
                        total[b] += values[b] * weight[b]


@compiled("void(f4[:,:,:,::1],i8,i8)")
def settle(ring: Any, begin: Any, end: Any) -> None:
    """Turn the sums of weights of finished planes into factors that make means of the sums.

    Voxels that no window was computed for become background.

    Args:
        ring: ``(D, L + 1, A, B)``.
        begin: First plane.
        end: One more than the last plane.
    """
    depth, num_labels, rows, columns = ring.shape
    num_labels -= 1
    one = np.float32(1)
    for plane in range(begin, end):
        place = plane % depth
        for a in range(rows):
            weight = ring[place, num_labels, a]
            for b in range(columns):
                if weight[b] == 0:
                    weight[b] = one
                    for label in range(1, num_labels):
                        ring[place, label, a, b] = AIR
                else:
                    weight[b] = one / weight[b]


@compiled(
    "void(f4[:,:,:,::1],i8,i8,f4,i8[::1],f4[::1],i8[::1],f4[::1],b1,u2[::1],u2[:,::1],f4[:,:,::1])"
)
def restore(
    ring: Any,
    low: Any,
    high: Any,
    part: Any,
    rows: Any,
    row_parts: Any,
    columns: Any,
    column_parts: Any,
    same_columns: Any,
    values: Any,
    labels: Any,
    logits: Any,
) -> None:
    """Interpolate one plane of a finer or coarser grid and take the largest at every voxel.

    Along the planes first, then along the rows' columns, then between the rows.

    Args:
        ring: ``(D, L + 1, A, B)``, settled.
        low: Place in the ring of the plane before.
        high: Place in the ring of the plane after, or the same.
        part: How far from the one to the other, 0 to 1.
        rows: For each new row, ascending, the one before.
        row_parts: How far to the row that follows.
        columns: As ``rows``.
        column_parts: As ``row_parts``.
        same_columns: Whether the new columns are those of the ring.
        values: What to write for each label.
        labels: Where to write it, ``(I, J)``; of equals the first wins.
        logits: Where to write the logits too ``(L, I, J)``, or no more than ``(1, 1, J)``.
    """
    num_labels = ring.shape[1] - 1
    width, new_width = ring.shape[3], labels.shape[1]
    held = np.full(2, -1, np.int64)
    lines = np.empty((2, num_labels, new_width), np.float32)
    line = np.zeros(width + 1, np.float32)
    best = np.empty(new_width, np.float32)
    winner = np.empty(new_width, np.int32)
    keep = 1 if logits.shape[0] == num_labels and logits.shape[1] == labels.shape[0] else 0
    for new in range(labels.shape[0]):
        above = row_parts[new]
        first = rows[new]
        last = first + 1 if above > 0 else first
        for row in range(first, last + 1):
            if held[row & 1] == row:
                continue
            held[row & 1] = row
            factor, next_factor = ring[low, num_labels, row], ring[high, num_labels, row]
            for label in range(num_labels):
                plane, next_plane = ring[low, label, row], ring[high, label, row]
                wide = lines[row & 1, label]
                target = wide if same_columns else line
                for b in range(width):
                    mean = plane[b] * factor[b]
                    target[b] = mean + part * (next_plane[b] * next_factor[b] - mean)
                if not same_columns:
                    for b in range(new_width):
                        left = line[columns[b]]
                        wide[b] = left + column_parts[b] * (line[columns[b] + 1] - left)
        before, after = lines[first & 1], lines[last & 1]
        for label in range(num_labels):
            value = logits[keep * label, keep * new]
            here, there = before[label], after[label]
            for b in range(new_width):
                value[b] = here[b] + above * (there[b] - here[b])
            if label == 0:
                for b in range(new_width):
                    best[b] = value[b]
                    winner[b] = 0
            else:
                for b in range(new_width):
                    wins = value[b] > best[b]
                    best[b] = value[b] if wins else best[b]
                    winner[b] = label if wins else winner[b]
        for b in range(new_width):
            labels[new, b] = values[winner[b]]
