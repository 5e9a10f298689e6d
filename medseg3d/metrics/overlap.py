"""Overlap of two masks: ratios of voxel counts.

Each ratio is ``nan`` if both masks are empty and 0 if exactly one is: a missed structure never
leaves an average. The exception is the specificity, which is about the background.
"""

from math import isfinite

from medseg3d.errors import ConfigError
from medseg3d.metrics.masks import Counts, MaskPair, metric

RATIOS = "Taha and Hanbury, BMC Med. Imaging 15, 2015. https://doi.org/10.1186/s12880-015-0068-x"
"""Where the ratios without a paper of their own are collected."""


@metric(
    "dice",
    unit="1",
    better="higher",
    definition="2 TP / (2 TP + FP + FN) over voxels; 0 if exactly one mask is empty",
    source="Dice, Ecology 26(3), 1945. https://doi.org/10.2307/1932409",
)
def dice(masks: MaskPair) -> float:
    """Dice coefficient: twice the shared voxels over the sum of both sizes.

    Args:
        masks: Predicted and reference mask.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Dice, Ecology 26(3), 1945. https://doi.org/10.2307/1932409

    Examples:
        >>> import numpy as np
        >>> dice(np.array([[[True, True, False]]]), np.array([[[False, True, True]]]))
        0.5
    """
    counts = masks.counts
    return _ratio(counts, 2 * counts.true_positives, counts.predicted + counts.expected)


@metric(
    "iou",
    unit="1",
    better="higher",
    definition="TP / (TP + FP + FN) over voxels; 0 if exactly one mask is empty",
    source=(
        "Jaccard, New Phytologist 11(2), 1912. https://doi.org/10.1111/j.1469-8137.1912.tb05611.x"
    ),
)
def iou(masks: MaskPair) -> float:
    """Intersection over union (Jaccard index).

    Args:
        masks: Predicted and reference mask.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Jaccard, New Phytologist 11(2), 1912.
        https://doi.org/10.1111/j.1469-8137.1912.tb05611.x
    """
    return _ratio(masks.counts, masks.counts.true_positives, masks.counts.union)


@metric(
    "precision",
    unit="1",
    better="higher",
    definition="TP / (TP + FP) over voxels; 0 if exactly one mask is empty",
    source=RATIOS,
)
def precision(masks: MaskPair) -> float:
    """Share of the predicted voxels that are in the reference (positive predictive value).

    Args:
        masks: Predicted and reference mask.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Taha and Hanbury, BMC Med. Imaging 15, 2015. https://doi.org/10.1186/s12880-015-0068-x
    """
    return _ratio(masks.counts, masks.counts.true_positives, masks.counts.predicted)


@metric(
    "recall",
    unit="1",
    better="higher",
    definition="TP / (TP + FN) over voxels; 0 if exactly one mask is empty",
    source=RATIOS,
)
def recall(masks: MaskPair) -> float:
    """Share of the reference voxels that were predicted (sensitivity).

    Args:
        masks: Predicted and reference mask.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Taha and Hanbury, BMC Med. Imaging 15, 2015. https://doi.org/10.1186/s12880-015-0068-x
    """
    return _ratio(masks.counts, masks.counts.true_positives, masks.counts.expected)


@metric(
    "f_beta",
    unit="1",
    better="higher",
    definition=(
        "(1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP) over voxels; 0 if exactly one mask "
        "is empty"
    ),
    source="van Rijsbergen, Information Retrieval, 2nd edition, Butterworths, 1979",
    column="f_beta_{beta:g}",
)
def f_beta(masks: MaskPair, *, beta: float = 1.0) -> float:
    """Mean of precision and recall that weighs recall ``beta`` times as much; Dice for 1.

    Args:
        masks: Predicted and reference mask.
        beta: Above 1 a voxel left out costs more than one too many, below 1 less.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.
        ConfigError: If ``beta`` is not above 0.

    References:
        van Rijsbergen, Information Retrieval, 2nd edition, Butterworths, 1979.
    """
    if not (isfinite(beta) and beta > 0):
        raise ConfigError(f"beta must be a number above 0, got {beta}")
    counts, weight = masks.counts, beta * beta
    hits = (1 + weight) * counts.true_positives
    return _ratio(counts, hits, hits + weight * counts.false_negatives + counts.false_positives)


@metric(
    "specificity",
    unit="1",
    better="higher",
    definition=(
        "TN / (TN + FP) over the voxels of the image, so that it grows with the field of view; "
        "1 if the structure was missed, undefined if both masks are empty or nothing is background"
    ),
    source=RATIOS,
)
def specificity(masks: MaskPair) -> float:
    """Share of the background that was left background (true negative rate).

    It tells little about a small structure in a large image.

    Args:
        masks: Predicted and reference mask.

    Returns:
        Value in [0, 1]; 1 for an empty prediction, ``nan`` if both masks are empty or the
        reference fills the image.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Taha and Hanbury, BMC Med. Imaging 15, 2015. https://doi.org/10.1186/s12880-015-0068-x
    """
    counts = masks.counts
    background = counts.true_negatives + counts.false_positives
    if counts.union == 0 or (background == 0 and counts.predicted):
        return float("nan")
    return counts.true_negatives / background if background else 1.0


def _ratio(counts: Counts, part: float, whole: float) -> float:
    if counts.union == 0:
        return float("nan")
    return part / whole if whole else 0.0
