"""Volumes of masks in millilitres, and how far two of them are apart."""

import numpy as np

from medseg3d.geometry.grid import Grid
from medseg3d.metrics.masks import MaskPair, metric
from medseg3d.types import Mask

TAHA = "Taha and Hanbury, BMC Med. Imaging 15, 2015. https://doi.org/10.1186/s12880-015-0068-x"
HEIMANN = (
    "Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009. https://doi.org/10.1109/TMI.2009.2013851"
)


def volume(mask: Mask, grid: Grid) -> float:
    """Volume of a mask in mL: its voxel count times ``|det|`` of the grid's affine.

    The determinant, unlike the product of the spacing, also holds on sheared grids.

    Args:
        mask: Voxels of one label, ``(I, J, K)`` bool.
        grid: The grid that the mask lies on.
    """
    return int(np.count_nonzero(mask)) * grid.voxel_volume_ml


@metric(
    "volume_similarity",
    unit="1",
    better="higher",
    definition=(
        "1 - |predicted - reference| / (predicted + reference) volume, whatever the place; 0 if "
        "exactly one mask is empty"
    ),
    source=TAHA,
)
def volume_similarity(masks: MaskPair) -> float:
    """How alike both volumes are, wherever they lie.

    Args:
        masks: Predicted and reference mask.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Taha and Hanbury, BMC Med. Imaging 15, 2015. https://doi.org/10.1186/s12880-015-0068-x
    """
    both = masks.counts.predicted + masks.counts.expected
    return 1.0 - abs(_excess(masks)) / both if both else float("nan")


@metric(
    "volume_difference",
    unit="mL",
    better="zero",
    definition=(
        "predicted minus reference volume, positive where too much was predicted; 0 if both masks "
        "are empty"
    ),
    source=HEIMANN,
)
def volume_difference(masks: MaskPair) -> float:
    """Signed difference of both volumes, prediction minus reference.

    Args:
        masks: Predicted and reference mask, with their spacing.

    Returns:
        Difference in mL, defined for empty masks too.

    Raises:
        DataError: If the masks are not boolean, differ in shape, or have no spacing.

    References:
        Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009.
        https://doi.org/10.1109/TMI.2009.2013851

    Examples:
        >>> full = np.ones((10, 10, 10), dtype=bool)
        >>> volume_difference(full, ~full, (1.0, 1.0, 2.0))
        2.0
    """
    return _excess(masks) * masks.voxel_ml


@metric(
    "absolute_volume_difference",
    unit="mL",
    better="lower",
    definition="size of predicted minus reference volume; 0 if both masks are empty",
    source=HEIMANN,
)
def absolute_volume_difference(masks: MaskPair) -> float:
    """Size of :func:`volume_difference`, so that too much and too little do not cancel in a mean.

    Args:
        masks: Predicted and reference mask, with their spacing.

    Returns:
        Difference in mL, at least 0, defined for empty masks too.

    Raises:
        DataError: If the masks are not boolean, differ in shape, or have no spacing.

    References:
        Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009.
        https://doi.org/10.1109/TMI.2009.2013851
    """
    return abs(volume_difference.of(masks))


@metric(
    "relative_volume_difference",
    unit="%",
    better="zero",
    definition=(
        "100 (predicted - reference) / reference volume; -100 if the structure was missed, "
        "undefined if the reference is empty"
    ),
    source=HEIMANN,
)
def relative_volume_difference(masks: MaskPair) -> float:
    """Signed difference of both volumes in percent of the reference.

    Args:
        masks: Predicted and reference mask.

    Returns:
        Difference in percent; -100 for an empty prediction, ``nan`` if the reference is empty.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009.
        https://doi.org/10.1109/TMI.2009.2013851
    """
    expected = masks.counts.expected
    return 100.0 * _excess(masks) / expected if expected else float("nan")


@metric(
    "absolute_relative_volume_difference",
    unit="%",
    better="lower",
    definition=(
        "100 |predicted - reference| / reference volume; 100 if the structure was missed, "
        "undefined if the reference is empty"
    ),
    source=HEIMANN,
)
def absolute_relative_volume_difference(masks: MaskPair) -> float:
    """Size of :func:`relative_volume_difference` (RAVD).

    Args:
        masks: Predicted and reference mask.

    Returns:
        Difference in percent, at least 0; ``nan`` if the reference is empty.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009.
        https://doi.org/10.1109/TMI.2009.2013851
    """
    return abs(relative_volume_difference.of(masks))


def _excess(masks: MaskPair) -> int:
    """Voxels of the prediction beyond those of the reference."""
    return masks.counts.predicted - masks.counts.expected
