"""Overlap of two masks near their boundaries."""

from math import isfinite

import numpy as np

from medseg3d.errors import ConfigError
from medseg3d.metrics.boxes import cut_out
from medseg3d.metrics.distances import surface_voxels
from medseg3d.metrics.masks import MaskPair, metric
from medseg3d.metrics.nearest import near
from medseg3d.types import Mask, Spacing


@metric(
    "boundary_iou",
    unit="1",
    better="higher",
    definition=(
        "intersection over union of the rims of both masks: their voxels within the width in mm "
        "of a voxel outside, at least the surface voxels, in an image of one slice those of its "
        "plane; 0 if exactly one mask is empty"
    ),
    source="Cheng et al., CVPR 2021. https://doi.org/10.48550/arXiv.2103.16562",
    column="boundary_iou_{width:g}mm",
)
def boundary_iou(masks: MaskPair, *, width: float = 2.0) -> float:
    """Intersection over union of the inner rims of two masks.

    The interior of a large structure, which nearly every prediction gets right, does not count.
    The rim of a mask is as wide as told, from voxel center to voxel center; along an axis whose
    voxels are larger it is one voxel wide. Beyond the volume's border is outside, though not above
    and below an image of one slice.

    Args:
        masks: Predicted and reference mask, with their spacing.
        width: Width of the rim in mm.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean, differ in shape, or have no spacing.
        ConfigError: If the width is not a length above 0.

    References:
        Cheng et al., CVPR 2021. https://doi.org/10.48550/arXiv.2103.16562

    Examples:
        >>> reference = np.ones((5, 5, 5), dtype=bool)
        >>> prediction = reference.copy()
        >>> prediction[2, 2, 2] = False
        >>> boundary_iou(prediction, reference, (1.0, 1.0, 1.0), width=1.0) < 1
        True
    """
    if not (isfinite(width) and width > 0):
        raise ConfigError(f"width must be a length in mm above 0, got {width}")
    masks = masks.without_flat_axes()
    spacing = masks.voxel_size
    predicted, expected = (_rim(mask, spacing, width) for mask in cut_out(masks))
    union = int(np.count_nonzero(predicted | expected))
    return int(np.count_nonzero(predicted & expected)) / union if union else float("nan")


def _rim(mask: Mask, spacing: Spacing, width: float) -> Mask:
    """Voxels of the mask within ``width`` mm of one outside it, and its surface voxels."""
    if not mask.any():
        return mask
    inside = (slice(1, -1),) * mask.ndim
    rim: Mask = mask & (surface_voxels(mask) | near(~np.pad(mask, 1), spacing, width)[inside])
    return rim
