"""The part of two masks that matters."""

import numpy as np

from medseg3d.metrics.masks import MaskPair
from medseg3d.types import Mask


def cut_out(masks: MaskPair) -> tuple[Mask, Mask]:
    """Prediction and reference in the smallest box that holds both; without voxels if empty.

    Examples:
        >>> prediction, reference = np.zeros((2, 9, 9, 9), dtype=bool)
        >>> prediction[2, 3, 4] = reference[4, 3, 4] = True
        >>> cut_out(MaskPair(prediction, reference))[0].shape
        (3, 1, 1)
    """
    box = box_of(masks)
    return masks.prediction[box], masks.reference[box]


def box_of(masks: MaskPair) -> tuple[slice, ...]:
    """The smallest box that holds both masks; without voxels if they are empty."""
    first, second = masks.prediction, masks.reference
    box: tuple[slice, ...] = ()
    for axis in range(first.ndim):
        others = tuple(a for a in range(first.ndim) if a != axis)
        used = np.flatnonzero(first[box].any(axis=others) | second[box].any(axis=others))
        box += (slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0),)
    return box
