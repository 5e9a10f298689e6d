"""Small connected parts of labels, and whether they outlive a change of spacing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medseg3d.geometry.resampling import resample_labels
from medseg3d.types import LabelMap, Size3

SMALL = 100
"""Voxels of a part that is looked at; a larger one does not vanish as a whole."""

MOST_NUMBERED = 1 << 16
"""Up to this label value, one box per number is affordable."""

MOST_PARTS = 50
"""Parts kept per case and label, the smallest."""


@dataclass(frozen=True)
class Part:
    """A small connected part of one label.

    Attributes:
        label: Its value.
        voxels: How many voxels it has.
        start: First index of its surroundings along each axis.
        inside: Whether each voxel of its surroundings belongs to it.
        labels: Labels of its surroundings, one voxel more than its box on each side.
    """

    label: int
    voxels: int
    start: Size3
    inside: np.ndarray
    labels: LabelMap


def small_parts(labels: LabelMap, values: Iterable[int]) -> tuple[Part, ...]:
    """The small connected parts of each label, neighbors over corners included.

    Args:
        labels: ``(I, J, K)``.
        values: All labels that occur.
    """
    parts: list[Part] = []
    known = sorted(value for value in values if value > 0)
    for value, box in zip(known, _boxes(labels, known), strict=True):
        if box is None:
            continue
        numbered, count = ndimage.label(labels[box] == value, np.ones((3, 3, 3)))
        sizes = np.zeros(count + 1, dtype=np.int64)
        for plane in numbered:  # bincount makes 64 bits of every voxel that it is given
            sizes += np.bincount(plane.ravel(), minlength=count + 1)
        sizes[0] = 0
        small = [number for number in np.flatnonzero(sizes) if sizes[number] <= SMALL]
        small = sorted(small, key=lambda number: int(sizes[number]))[:MOST_PARTS]
        if not small:
            continue
        places = ndimage.find_objects(numbered)
        for number in small:
            inner = tuple(
                slice(start.start + part.start, start.start + part.stop)
                for start, part in zip(box, places[number - 1], strict=True)
            )
            around = tuple(
                slice(max(0, part.start - 1), min(length, part.stop + 1))
                for part, length in zip(inner, labels.shape, strict=True)
            )
            inside = np.zeros([part.stop - part.start for part in around], dtype=np.bool_)
            at = tuple(
                slice(i.start - a.start, i.stop - a.start)
                for i, a in zip(inner, around, strict=True)
            )
            inside[at] = numbered[places[number - 1]] == number
            start = (around[0].start, around[1].start, around[2].start)
            parts.append(Part(value, int(sizes[number]), start, inside, labels[around].copy()))
    return tuple(parts)


def erased(parts: Sequence[Part], shape: Size3, new_shape: Size3) -> list[Part]:
    """Those parts of which resampling the label map leaves no voxel.

    Args:
        parts: Parts of one label map, with indices in it.
        shape: Voxels of the label map.
        new_shape: Voxels after resampling.
    """
    if not parts or shape == new_shape:
        return []
    surroundings = np.zeros(shape, dtype=np.result_type(*(part.labels for part in parts)))
    for part in parts:
        surroundings[_place(part)] = part.labels
    resampled = resample_labels(surroundings, new_shape)
    return [part for part in parts if not _survives(part, resampled, shape, new_shape)]


def _survives(part: Part, resampled: LabelMap, shape: Size3, new_shape: Size3) -> bool:
    """Whether any new voxel within one old voxel of the part has its label."""
    reach = []
    occupied = np.argwhere(part.inside) + part.start
    for axis, (before, after) in enumerate(zip(shape, new_shape, strict=True)):
        centers = (np.arange(after) + 0.5) * before / after - 0.5
        low, high = occupied[:, axis].min() - 1, occupied[:, axis].max() + 1
        near = np.flatnonzero((centers > low) & (centers < high))
        if near.size == 0:
            return False
        reach.append(slice(int(near[0]), int(near[-1]) + 1))
    return bool((resampled[tuple(reach)] == part.label).any())


def _place(part: Part) -> tuple[slice, ...]:
    return tuple(
        slice(start, start + length)
        for start, length in zip(part.start, part.labels.shape, strict=True)
    )


def _boxes(labels: LabelMap, values: Sequence[int]) -> list[tuple[slice, ...] | None]:
    """The box of each label; ``values`` ascend."""
    if values and values[-1] > MOST_NUMBERED:
        labels = np.searchsorted([0, *values], labels)
        return list(ndimage.find_objects(labels, len(values)))
    boxes = ndimage.find_objects(labels)
    return [boxes[value - 1] if value <= len(boxes) else None for value in values]
