"""How far samples of a segmentation lie from the answers of several experts."""

from collections.abc import Sequence
from itertools import product

from medseg3d.errors import DataError
from medseg3d.metrics.masks import MaskPair
from medseg3d.metrics.overlap import iou
from medseg3d.types import Mask


def generalized_energy_distance(samples: Sequence[Mask], references: Sequence[Mask]) -> float:
    """Squared generalized energy distance between two sets of masks, by 1 - IoU.

    Twice the mean distance between a sample and a reference, less the mean distances within
    either set, a mask and itself included. So it is small if samples are as different as the
    experts, and in the same way.

    Args:
        samples: Masks ``(I, J, K)`` of one label that were drawn, at least one.
        references: Masks of the same shape by experts, at least one.

    Returns:
        Value in [0, 2]; 0 if both sets hold the same masks equally often. Two empty masks
        have the distance 0.

    Raises:
        DataError: If a set is empty, or masks are not boolean or differ in shape.

    References:
        Szekely and Rizzo, J. Stat. Plan. Inference 143(8), 2013.
        https://doi.org/10.1016/j.jspi.2013.03.018
        Kohl et al., NeurIPS 2018. arXiv:1806.05034

    Examples:
        >>> import numpy as np
        >>> left, right = np.array([[[[True, True, False]]], [[[False, True, True]]]])
        >>> round(generalized_energy_distance([left], [right]), 4)
        1.3333
        >>> generalized_energy_distance([left, right], [right, left])
        0.0
    """
    if not samples or not references:
        raise DataError(
            f"{len(samples)} samples and {len(references)} references given; expected at least one "
            "of each"
        )
    across = _mean_distance(samples, references)
    within = _mean_distance(samples, samples) + _mean_distance(references, references)
    return 2 * across - within


def _mean_distance(some: Sequence[Mask], others: Sequence[Mask]) -> float:
    pairs = [MaskPair(*pair) for pair in product(some, others)]
    distances = [1 - iou.of(pair) if pair.counts.union else 0.0 for pair in pairs]
    return sum(distances) / len(distances)
