"""Cleaning label maps: the largest part, parts under a volume, holes.

Parts of a label are connected over faces, edges and corners (26 neighbors), and what is around
them over faces (6 neighbors): a hole is what no way over faces leads out of, to the border of the
image or to what is outside of the label; in an image of one slice the way lies in its plane. A
removed voxel becomes background. Parts of all labels are removed before any hole is filled, and a
hole is filled only where it is background then: no other structure is overwritten, and a removed
speck within a structure whose holes are filled becomes that structure. Of nested structures the
inner one is filled first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import numpy as np

from medseg3d.config import Cleaning
from medseg3d.geometry.parts import Numbers, connected_parts
from medseg3d.types import LabelMap, Size3

Box: TypeAlias = tuple[slice, ...]
PARTS: Literal[26] = 26
SURROUNDINGS: Literal[6] = 6

ROUNDING = 1e-6
"""Relative lack at which a part still has a volume: headers store float32."""

MOST_PLACES = 65_535
"""Largest label up to which a place is kept for every label below it."""

CHUNK = 1 << 20
"""Voxels that are counted at once: each takes 8 bytes then."""


@dataclass(frozen=True)
class Change:
    """What cleaning did to one label.

    Attributes:
        removed: Voxels taken away.
        filled: Voxels of holes that were given to it.
    """

    removed: int = 0
    filled: int = 0


def clean(
    labels: LabelMap,
    rules: Mapping[int, Cleaning],
    *,
    voxel_mm3: float,
    image_shape: Size3 | None = None,
) -> dict[int, Change]:
    """Clean a label map in place.

    Beside the label map this takes about 5 bytes for each voxel of the box around all labels of
    which parts are removed, and then of the box around one label whose holes are filled.

    Args:
        labels: ``(I, J, K)``.
        rules: What to do to each label; other labels stay as they are.
        voxel_mm3: Volume of a voxel in mm3.
        image_shape: Shape of the image that the label map is a part of; default its own.

    Returns:
        What was done to each label with a rule.

    Examples:
        >>> labels = np.array([[[2, 0, 0, 2, 2]]])
        >>> clean(labels, {2: Cleaning(min_volume_mm3=3)}, voxel_mm3=1.5)
        {2: Change(removed=1, filled=0)}
        >>> labels.tolist()
        [[[0, 0, 0, 2, 2]]]
    """
    order = np.argsort(np.abs(labels.strides))[::-1]
    turned = labels.transpose(order)  # planes lie together
    removing = {value: rule for value, rule in rules.items() if rule.removes}
    boxes = boxes_of(turned, list(removing))
    removed = _remove(turned[around(boxes.values())], removing, voxel_mm3) if boxes else {}
    boxes = boxes_of(turned, [value for value, rule in rules.items() if rule.fill_holes])
    shape = image_shape or labels.shape
    open_axes = _open_axes([shape[axis] for axis in order])
    filled = {
        value: _fill(turned[box], value, open_axes)
        for value, box in sorted(boxes.items(), key=_inner_first)
    }
    return {value: Change(removed.get(value, 0), filled.get(value, 0)) for value in rules}


def boxes_of(labels: LabelMap, values: Sequence[int]) -> dict[int, Box]:
    """The smallest box around each label that is there.

    Args:
        labels: ``(I, J, K)``.
        values: Labels to look for, none below 1.
    """
    if not values:
        return {}
    from scipy import ndimage

    highest = max(values)
    if highest <= MOST_PLACES:
        found = ndimage.find_objects(labels, max_label=highest)
        boxes = {value: found[value - 1] for value in values}
    else:
        masks = ((value, (labels == value).view(np.uint8)) for value in values)
        boxes = {value: next(iter(ndimage.find_objects(mask)), None) for value, mask in masks}
    return {value: box for value, box in boxes.items() if box is not None}


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box around one or more."""
    return tuple(
        slice(min(edge.start for edge in edges), max(edge.stop for edge in edges))
        for edges in zip(*boxes, strict=True)
    )


def _inner_first(item: tuple[int, Box]) -> tuple[int, int]:
    """The box of what lies in a hole is smaller than that of what is around it."""
    value, box = item
    return prod(edge.stop - edge.start for edge in box), value


def _remove(part: LabelMap, rules: Mapping[int, Cleaning], voxel_mm3: float) -> dict[int, int]:
    """Take away the parts of labels that do not stay; how many voxels these were."""
    numbers, count = connected_parts(part, PARTS)
    sizes, values = np.zeros(count + 1, dtype=np.int64), np.zeros(count + 1, dtype=part.dtype)
    planes = -(-max(CHUNK, count) // part[0].size)
    for first in range(0, len(part), planes):
        several = slice(first, first + planes)
        sizes += np.bincount(numbers[several].ravel(), minlength=count + 1)
        values[numbers[several]] = part[several]
    goes, removed = np.zeros(count + 1, dtype=np.bool_), {}
    for value, rule in rules.items():
        of = np.flatnonzero(values == value)
        too_small = sizes[of] * voxel_mm3 < rule.min_volume_mm3 * (1 - ROUNDING)
        if rule.keep_largest:  # equally large ones all stay, whatever the order of the axes
            too_small |= sizes[of] < sizes[of].max(initial=0)
        goes[of] = too_small
        removed[value] = int(sizes[of][too_small].sum())
    if goes.any():
        for plane, numbered in zip(part, numbers, strict=True):
            plane[goes[numbered]] = 0
    return removed


def _open_axes(shape: Sequence[int]) -> list[int]:
    """Axes that lead out of a hole: in an image of one slice, those of its plane."""
    long = [axis for axis, length in enumerate(shape) if length > 1]
    return long if len(long) == 2 else [0, 1, 2]


def _fill(part: LabelMap, value: int, open_axes: Sequence[int]) -> int:
    """Fill the holes of a label where they are background; how many voxels these were."""
    numbers, count = connected_parts(part != value, SURROUNDINGS)
    is_hole = np.ones(count + 1, dtype=np.bool_)
    is_hole[0] = False
    for face in _faces(numbers, open_axes):
        is_hole[face] = False
    if not is_hole.any():
        return 0
    filled = 0
    for plane, numbered in zip(part, numbers, strict=True):
        found = is_hole[numbered] & (plane == 0)
        plane[found] = value
        filled += int(np.count_nonzero(found))
    return filled


def _faces(numbers: Numbers, axes: Sequence[int]) -> Iterator[Numbers]:
    for axis in axes:
        yield np.moveaxis(numbers, axis, 0)[[0, -1]]
