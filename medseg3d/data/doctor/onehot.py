"""Label maps stored as one mask per label along the fourth axis."""

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.types import LabelMap

ROUNDING = 1e-3


def merge_masks(masks: npt.NDArray[Any]) -> LabelMap:
    """One label map from one mask per label.

    Args:
        masks: ``(L, I, J, K)`` of 0 and 1. If they cover every voxel, the first one is the
            background; else the first one becomes label 1.

    Returns:
        Labels ``(I, J, K)``.

    Raises:
        DataError: If there are other values, or masks overlap.

    Examples:
        >>> masks = np.zeros((2, 3, 1, 1))
        >>> masks[0, 1], masks[1, 2] = 1, 1
        >>> merge_masks(masks).ravel().tolist()
        [0, 1, 2]
        >>> merge_masks(np.concatenate([1 - masks.sum(axis=0, keepdims=True), masks])).tolist()
        [[[0]], [[1]], [[2]]]
    """
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
    return labels - labels.dtype.type(1) if covered.all() else labels
