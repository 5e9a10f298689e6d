"""The slice of a case to look at first, for each label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg3d.review.blocks import planes_of, values_of
from medseg3d.types import LabelMap, Mask, Size3, Spacing

ANY_LABEL = 0
"""Stands for all labels together."""

Profile = tuple[npt.NDArray[np.int64], ...]
"""Voxels in each slice, for each of the three axes."""


@dataclass(frozen=True)
class Slice:
    """A slice and a voxel in it.

    Attributes:
        axis: Axis across the slice.
        voxel: A voxel that is wrong, near the middle of those that are; where none is, one of
            the label.
        error_voxels: Wrong voxels in the slice.
    """

    axis: int
    voxel: Size3
    error_voxels: int


def worst_slices(
    prediction: LabelMap, reference: LabelMap | None, spacing: Spacing
) -> dict[int, Slice]:
    """The slice along any axis with the largest wrong area, for each label.

    Where a label has no error, or without a reference, this is the slice with the largest area
    of the label.

    Args:
        prediction: ``(I, J, K)``.
        reference: Same shape, or None.
        spacing: Voxel size in mm along each axis.

    Returns:
        A slice for each label in either map, and for ``ANY_LABEL``.

    Examples:
        >>> prediction, reference = np.zeros((2, 9, 9, 9), np.uint8)
        >>> prediction[2:5, 2:5, 2:5] = reference[2:5, 2:5, 2:6] = 1
        >>> worst_slices(prediction, reference, (1.0, 1.0, 1.0))[1]
        Slice(axis=2, voxel=(3, 3, 5), error_voxels=9)
    """
    nothing: LabelMap = np.broadcast_to(np.uint8(0), prediction.shape)
    expected = prediction if reference is None else reference
    wrong = voxels_per_slice(prediction, expected)
    found = {
        label: _largest(label, profile, prediction, expected, spacing, is_wrong=True)
        for label, profile in wrong.items()
    }
    if lacking := {ANY_LABEL, *values_of(expected)} - found.keys():
        for label, profile in voxels_per_slice(expected, nothing).items():
            if label in lacking:
                found[label] = _largest(label, profile, expected, nothing, spacing, is_wrong=False)
    i, j, k = (length // 2 for length in prediction.shape)
    found.setdefault(ANY_LABEL, Slice(2, (i, j, k), 0))
    return dict(sorted(found.items()))


def voxels_per_slice(ours: LabelMap, theirs: LabelMap) -> dict[int, Profile]:
    """Voxels of each label in which two label maps differ, slice by slice along each axis."""
    order = np.argsort(np.abs(ours.strides))[::-1]
    lengths = [ours.shape[axis] for axis in order]
    counts: dict[int, list[npt.NDArray[np.int64]]] = {}
    planes = zip(planes_of(ours), theirs.transpose(order), strict=True)
    for number, (mine, other) in enumerate(planes):
        rows, columns = np.nonzero(mine != other)
        values = mine[rows, columns], other[rows, columns]
        labels = set(np.unique(values).tolist()) - {0}
        for label in {ANY_LABEL, *labels} if rows.size else set():
            hit = _concerns(label, *values)
            profile = counts.setdefault(label, [np.zeros(n, np.int64) for n in lengths])
            profile[0][number] += np.count_nonzero(hit)
            profile[1] += np.bincount(rows[hit], minlength=lengths[1])
            profile[2] += np.bincount(columns[hit], minlength=lengths[2])
    back = np.argsort(order)
    return {label: tuple(profile[place] for place in back) for label, profile in counts.items()}


def _concerns(label: int, ours: LabelMap, theirs: LabelMap) -> Mask:
    """Which of the voxels that differ are of a label in either map."""
    if label == ANY_LABEL:
        return np.ones(ours.shape, np.bool_)
    return np.asarray((ours == label) | (theirs == label))


def _largest(
    label: int,
    profile: Profile,
    ours: LabelMap,
    theirs: LabelMap,
    spacing: Spacing,
    *,
    is_wrong: bool,
) -> Slice:
    """The slice with the largest area in mm2; of equal ones the axial, then the coronal."""
    areas = [counts.max() / length for counts, length in zip(profile, spacing, strict=True)]
    axis = max(range(3), key=lambda axis: (round(areas[axis], 6), axis))
    index = int(profile[axis].argmax())
    mine, other = (np.asarray(each.take(index, axis=axis)) for each in (ours, theirs))
    places = np.argwhere((mine != other) & _concerns(label, mine, other))
    across = [length for n, length in enumerate(spacing) if n != axis]
    at: list[int] = _middle(places, across).tolist()
    at.insert(axis, index)
    i, j, k = at
    return Slice(axis, (i, j, k), len(places) if is_wrong else 0)


def _middle(places: npt.NDArray[np.intp], spacing: Sequence[float]) -> npt.NDArray[np.intp]:
    """The place that is nearest to the median of all."""
    away = (places - np.median(places, axis=0)) * spacing
    nearest: npt.NDArray[np.intp] = places[int((away**2).sum(axis=1).argmin())]
    return nearest
