"""Label maps stored as one mask per label along the fourth axis."""

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.types import LabelMap

ROUNDING = 1e-3


def merge_masks(masks: npt.NDArray[Any], *, background_first: bool | None = None) -> LabelMap:
    """One label map from one mask per label.

    Args:
        masks: ``(L, I, J, K)`` of 0 and 1.
        background_first: Whether the first one is the background, else it becomes label 1; by
            default it is if they leave no voxel out.

    Returns:
        Labels ``(I, J, K)``.

    Raises:
        DataError: If there are other values, masks overlap, or one of them is the background and
            voxels are left out nevertheless.

    Examples:
        >>> masks = np.zeros((2, 3, 1, 1))
        >>> masks[0, 1], masks[1, 2] = 1, 1
        >>> merge_masks(masks).ravel().tolist()
        [0, 1, 2]
        >>> merge_masks(np.concatenate([1 - masks.sum(axis=0, keepdims=True), masks])).tolist()
        [[[0]], [[1]], [[2]]]
    """
    labels, left_out = _numbered(masks)
    if background_first is None:
        background_first = not left_out
    if background_first and left_out:
        raise DataError(
            f"{left_out} voxels are in none of the masks, the first of which is the background as "
            "in other cases; correct the masks"
        )
    return labels - labels.dtype.type(1) if background_first else labels


def leave_nothing_out(masks: npt.NDArray[Any]) -> bool:
    """Whether masks ``(L, I, J, K)`` that can be merged cover every voxel."""
    try:
        return not _numbered(masks)[1]
    except DataError:
        return False


def _numbered(masks: npt.NDArray[Any]) -> tuple[LabelMap, int]:
    """The number of each voxel's mask, from 1, and how many voxels are in none."""
    covered = np.zeros(masks.shape[1:], dtype=np.uint16)
    labels = np.zeros(masks.shape[1:], dtype=np.uint8 if len(masks) < 256 else np.uint16)
    for place, mask in enumerate(masks, start=1):
        with np.errstate(invalid="ignore"):
            if not np.all((np.abs(mask) <= ROUNDING) | (np.abs(mask - 1) <= ROUNDING)):
                raise DataError("the volumes hold other values than 0 and 1")
        inside = mask > 0.5
        covered += inside
        labels[inside] = place
    if covered.max(initial=0) > 1:
        count = int((covered > 1).sum())
        raise DataError(f"the masks overlap in {count} voxels, which one label map cannot hold")
    return labels, int((covered == 0).sum())
