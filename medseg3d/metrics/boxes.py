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
    either = masks.prediction | masks.reference
    axes = range(either.ndim)
    used = [np.flatnonzero(either.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    box = tuple(slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0, 0) for at in used)
    return masks.prediction[box], masks.reference[box]
