"""Sparse annotation: voxels that nobody annotated, marked by a value of their own."""

import numpy as np

from medseg3d.types import Image, LabelMap


def only_annotated(
    prediction: LabelMap, reference: LabelMap, ignored: int | None
) -> tuple[LabelMap, LabelMap]:
    """Both label maps with background wherever the reference has the value ``ignored``.

    Args:
        prediction: Labels of any shape.
        reference: Labels of the same shape.
        ignored: The value; None changes nothing.

    Examples:
        >>> only_annotated(np.array([1, 2, 2]), np.array([9, 2, 9]), 9)
        (array([0, 2, 0]), array([0, 2, 0]))
    """
    if ignored is None or not (unknown := reference == ignored).any():
        return prediction, reference
    return np.where(unknown, 0, prediction), np.where(unknown, 0, reference)


def nowhere_annotated(image: Image, ignored: int) -> LabelMap:
    """The labels of an image ``(C, I, J, K)`` without a label map: ``ignored`` everywhere.

    Examples:
        >>> nowhere_annotated(np.zeros((2, 1, 1, 3)), 4).tolist()
        [[[4, 4, 4]]]
    """
    return np.full(image.shape[1:], ignored, dtype=np.uint8 if ignored < 256 else np.uint16)
