"""Volumes of masks in millilitres."""

from math import prod

import numpy as np

from medseg3d.geometry.grid import Grid
from medseg3d.metrics import METRICS
from medseg3d.metrics.overlap import check_masks
from medseg3d.types import Mask, Spacing


def volume(mask: Mask, grid: Grid) -> float:
    """Volume of a mask in mL: its voxel count times ``|det|`` of the grid's affine.

    The determinant, unlike the product of the spacing, also holds on sheared grids.

    Args:
        mask: Voxels of one label, ``(I, J, K)`` bool.
        grid: The grid that the mask lies on.
    """
    return int(np.count_nonzero(mask)) * grid.voxel_volume_ml


@METRICS.register(
    "volume_difference",
    unit="mL",
    better="zero",
    definition="predicted minus reference volume; positive where too much was predicted",
)
def volume_difference(prediction: Mask, reference: Mask, spacing: Spacing) -> float:
    """Signed difference of both volumes, prediction minus reference.

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Voxel size in mm along each array axis, of a grid without shear.

    Returns:
        Difference in mL, defined for empty masks too.

    Raises:
        DataError: If the masks are not boolean or differ in shape.

    Examples:
        >>> full = np.ones((10, 10, 10), dtype=bool)
        >>> volume_difference(full, ~full, (1.0, 1.0, 2.0))
        2.0
    """
    check_masks(prediction, reference)
    excess = int(np.count_nonzero(prediction)) - int(np.count_nonzero(reference))
    return excess * prod(spacing) / 1000.0
