"""Agreement of two masks beyond chance: Matthews correlation and Cohen's kappa.

Both count the background of the whole image, so they depend on the field of view.
"""

from math import sqrt

from medseg3d.metrics.masks import MaskPair, metric


@metric(
    "matthews_correlation",
    unit="1",
    better="higher",
    definition=(
        "correlation of both masks over the voxels of the image; 0 if exactly one mask is empty, "
        "undefined if both are empty or both are full"
    ),
    source="Matthews, Biochim. Biophys. Acta 405(2), 1975. "
    "https://doi.org/10.1016/0005-2795(75)90109-9",
)
def matthews_correlation(masks: MaskPair) -> float:
    """Correlation coefficient of two masks (MCC, phi).

    Args:
        masks: Predicted and reference mask.

    Returns:
        Value in [-1, 1]; 0 if exactly one mask is the same everywhere, ``nan`` if both are empty
        or both are full.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Matthews, Biochim. Biophys. Acta 405(2), 1975.
        https://doi.org/10.1016/0005-2795(75)90109-9

    Examples:
        >>> import numpy as np
        >>> mask = np.array([[[True, True, False, False]]])
        >>> matthews_correlation(mask, mask), matthews_correlation(~mask, mask)
        (1.0, -1.0)
    """
    found = masks.counts
    total = found.total
    if found.true_positives == total or found.true_negatives == total:
        return float("nan")
    spread = (  # whole numbers of any size: nothing overflows
        found.predicted * found.expected * (total - found.predicted) * (total - found.expected)
    )
    agreement = (
        found.true_positives * found.true_negatives - found.false_positives * found.false_negatives
    )
    return agreement / sqrt(spread) if spread else 0.0


@metric(
    "cohen_kappa",
    unit="1",
    better="higher",
    definition=(
        "share of agreeing voxels of the image beyond that expected by chance; 0 if exactly one "
        "mask is empty, undefined if both are empty or both are full"
    ),
    source="Cohen, Educ. Psychol. Meas. 20(1), 1960. https://doi.org/10.1177/001316446002000104",
)
def cohen_kappa(masks: MaskPair) -> float:
    """Cohen's kappa of two masks.

    Args:
        masks: Predicted and reference mask.

    Returns:
        Value in [-1, 1]; 0 if exactly one mask is the same everywhere, ``nan`` if both are empty
        or both are full.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Cohen, Educ. Psychol. Meas. 20(1), 1960. https://doi.org/10.1177/001316446002000104
    """
    found = masks.counts
    total = found.total
    by_chance = found.predicted * found.expected + (total - found.predicted) * (
        total - found.expected
    )
    agreeing = (found.true_positives + found.true_negatives) * total
    possible = total * total - by_chance
    return (agreeing - by_chance) / possible if possible else float("nan")
