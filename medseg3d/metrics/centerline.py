"""Overlap of each mask's center line with the other mask, for vessels and other tubes."""

import numpy as np
from scipy import ndimage

from medseg3d.metrics.boxes import cut_out
from medseg3d.metrics.masks import MaskPair, metric
from medseg3d.types import Mask


@metric(
    "cldice",
    unit="1",
    better="higher",
    definition=(
        "harmonic mean of the share of the predicted center line (morphological skeleton) inside "
        "the reference and of that of the reference inside the prediction; 0 if exactly one mask "
        "is empty"
    ),
    source="Shit et al., CVPR 2021. https://doi.org/10.48550/arXiv.2003.07311",
)
def cldice(masks: MaskPair) -> float:
    """Dice of center lines (clDice): whether a tree of tubes was followed, whatever their width.

    The center lines are those of :func:`skeleton`, the paper's morphological skeleton, not those
    of a thinning to connected lines of one voxel: values do not depend on the order or direction
    of the axes, but are not those of evaluations by thinning (on drawn trees of vessels 0.02
    apart on average, 0.07 at most). Compare only values found in one way. In an image of one
    slice the lines are those of its plane.

    Args:
        masks: Predicted and reference mask, ``(I, J, K)``.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    References:
        Shit et al., CVPR 2021. https://doi.org/10.48550/arXiv.2003.07311

    Examples:
        >>> thick = np.zeros((9, 9, 30), dtype=bool)
        >>> thick[2:7, 2:7] = True
        >>> thin = np.zeros_like(thick)
        >>> thin[4, 4] = True
        >>> cldice(thin, thick)
        1.0
    """
    prediction, reference = cut_out(masks.without_flat_axes())
    if not (prediction.any() and reference.any()):
        return 0.0 if prediction.size else float("nan")
    predicted_line, expected_line = skeleton(prediction), skeleton(reference)
    precision = np.count_nonzero(predicted_line & reference) / np.count_nonzero(predicted_line)
    sensitivity = np.count_nonzero(expected_line & prediction) / np.count_nonzero(expected_line)
    both = float(precision + sensitivity)
    return 2.0 * float(precision * sensitivity) / both if both else 0.0


def skeleton(mask: Mask) -> Mask:
    """Center of a mask: what is lost when it is opened again after each step of erosion.

    Erosion takes the voxels with a face neighbor outside, dilation adds all 26 neighbors. The
    voxels so found are those whose city-block distance to the outside no neighbor exceeds, which
    is how they are computed: in one pass whatever the width. Beyond the border is outside.

    Args:
        mask: ``(I, J, K)`` bool.

    Returns:
        Same shape; without voxels only for an empty mask.

    References:
        Algorithm 1 of Shit et al., CVPR 2021, until nothing is left.
        https://doi.org/10.48550/arXiv.2003.07311

    Examples:
        >>> plate = np.ones((3, 5, 5), dtype=bool)
        >>> np.argwhere(skeleton(plate)).min(axis=0), np.argwhere(skeleton(plate)).max(axis=0)
        (array([1, 1, 1]), array([1, 3, 3]))
    """
    depths = ndimage.distance_transform_cdt(np.pad(mask, 1), metric="taxicab")
    is_highest = depths == ndimage.maximum_filter(depths, size=3)
    center: Mask = mask & is_highest[(slice(1, -1),) * mask.ndim]
    return center
