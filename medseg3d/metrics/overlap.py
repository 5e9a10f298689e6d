"""Overlap of two masks: Dice, IoU, precision and recall from one pass of voxel counts."""
# ruff: noqa: ARG001  (every metric takes the spacing, so that callers need no cases)

from dataclasses import dataclass

import numpy as np

from medseg3d.errors import DataError
from medseg3d.metrics import METRICS
from medseg3d.types import Mask, Spacing


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of two masks, and the ratios that follow from them.

    Each ratio is ``nan`` if both masks are empty and 0 if exactly one is: a missed
    structure never leaves an average.

    Examples:
        >>> Overlap(true_positives=6, false_positives=2, false_negatives=2).dice
        0.75
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def dice(self) -> float:
        """``2 TP / (2 TP + FP + FN)``."""
        twice = 2 * self.true_positives
        return self._ratio(twice, twice + self.false_positives + self.false_negatives)

    @property
    def iou(self) -> float:
        """``TP / (TP + FP + FN)``."""
        return self._ratio(self.true_positives, self._union)

    @property
    def precision(self) -> float:
        """``TP / (TP + FP)``."""
        return self._ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """``TP / (TP + FN)``."""
        return self._ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def _union(self) -> int:
        return self.true_positives + self.false_positives + self.false_negatives

    def _ratio(self, part: int, whole: int) -> float:
        if self._union == 0:
            return float("nan")
        return part / whole if whole else 0.0


def overlap(prediction: Mask, reference: Mask) -> Overlap:
    """Count the voxels of two masks.

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.

    Raises:
        DataError: If the masks are not boolean or differ in shape.
    """
    check_masks(prediction, reference)
    shared = int(np.count_nonzero(prediction & reference))
    return Overlap(
        true_positives=shared,
        false_positives=int(np.count_nonzero(prediction)) - shared,
        false_negatives=int(np.count_nonzero(reference)) - shared,
    )


def check_masks(prediction: Mask, reference: Mask) -> None:
    """Refuse masks that cannot be compared voxel by voxel.

    Raises:
        DataError: If the masks are not boolean or differ in shape.
    """
    for mask in (prediction, reference):
        if mask.dtype != np.bool_:
            raise DataError(
                f"a mask must be boolean, found {mask.dtype}; compare the label map with one "
                "label first, for example labels == 1"
            )
    if prediction.shape != reference.shape:
        raise DataError(
            f"masks differ in shape: prediction {prediction.shape}, reference {reference.shape}; "
            "bring both to one grid first"
        )


@METRICS.register(
    "dice",
    unit="1",
    better="higher",
    definition="2 TP / (2 TP + FP + FN) over voxels; 0 if exactly one mask is empty",
)
def dice(prediction: Mask, reference: Mask, spacing: Spacing | None = None) -> float:
    """Dice coefficient: twice the shared voxels over the sum of both sizes.

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Not used; every metric takes it.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Dice, Ecology 26(3), 1945. https://doi.org/10.2307/1932409

    Examples:
        >>> dice(np.array([[[True, True, False]]]), np.array([[[False, True, True]]]))
        0.5
    """
    return overlap(prediction, reference).dice


@METRICS.register(
    "iou",
    unit="1",
    better="higher",
    definition="TP / (TP + FP + FN) over voxels; 0 if exactly one mask is empty",
)
def iou(prediction: Mask, reference: Mask, spacing: Spacing | None = None) -> float:
    """Intersection over union (Jaccard index).

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Not used; every metric takes it.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Jaccard, New Phytologist 11(2), 1912.
        https://doi.org/10.1111/j.1469-8137.1912.tb05611.x
    """
    return overlap(prediction, reference).iou


@METRICS.register(
    "precision",
    unit="1",
    better="higher",
    definition="TP / (TP + FP) over voxels; 0 if exactly one mask is empty",
)
def precision(prediction: Mask, reference: Mask, spacing: Spacing | None = None) -> float:
    """Share of the predicted voxels that are in the reference (positive predictive value).

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Not used; every metric takes it.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.
    """
    return overlap(prediction, reference).precision


@METRICS.register(
    "recall",
    unit="1",
    better="higher",
    definition="TP / (TP + FN) over voxels; 0 if exactly one mask is empty",
)
def recall(prediction: Mask, reference: Mask, spacing: Spacing | None = None) -> float:
    """Share of the reference voxels that were predicted (sensitivity).

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Not used; every metric takes it.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.
    """
    return overlap(prediction, reference).recall
