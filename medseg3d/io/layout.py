"""Which stored axes are space and which are channels, and what no volume may be."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.types import Affine, Size3

LARGEST_SHEAR = 0.02  # cosine between two axes, about 1 degree
SMALLEST_SPACING, LARGEST_SPACING = 1e-4, 1e3
REMEDY_FOR_TYPES = "save it as uint8, int16 or float32"
FARTHEST = 1e6
"""Distance in mm from the origin of the world beyond which no patient lies."""


def spatial(path: Path, dims: tuple[int, ...]) -> tuple[Size3, int]:
    """Split stored dimensions into ``(I, J, K)`` and a number of channels.

    Trailing axes of length one are dropped. The fourth axis holds channels; so does the
    fifth where the fourth has length one, as in NIfTI vector images.

    Raises:
        DataError: For 2D images, single voxels, and more axes than that.
    """
    if not dims or min(dims) < 1:
        raise DataError(f"{path} has dimensions {dims}; each must be at least 1")
    if len(dims) < 3:
        raise DataError(f"{path} is a {len(dims)}D image of shape {dims}; expected a 3D volume")
    kept = list(dims)
    while len(kept) > 3 and kept[-1] == 1:
        kept.pop()
    i, j, k, *rest = kept
    if (i, j, k) == (1, 1, 1):
        raise DataError(f"{path} has one voxel only; expected a 3D volume")
    if len(rest) == 2 and rest[0] == 1:
        rest = rest[1:]
    if len(rest) > 1:
        raise DataError(
            f"{path} has {len(kept)} axes {tuple(kept)}; expected three, or four with channels last"
        )
    return (i, j, k), rest[0] if rest else 1


def grid_of(path: Path, shape: Size3, affine: Affine, unit: str = "") -> Grid:
    """Build the grid and refuse what is no grid of a patient.

    Args:
        path: The file, for the message.
        shape: Voxels along ``(I, J, K)``.
        affine: ``(4, 4)``, voxel index to mm in RAS+.
        unit: What the file gives its lengths in, if not in mm.

    Raises:
        DataError: Naming the file, if the affine is not finite, singular or sheared, or its
            voxels are of no size that a scanner gives.
    """
    try:
        grid = Grid(shape, affine)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    smallest, largest = min(grid.spacing), max(grid.spacing)
    if smallest < SMALLEST_SPACING or largest > LARGEST_SPACING:
        lengths = " x ".join(f"{length:.3g}" for length in grid.spacing)
        raise DataError(
            f"{path} has voxels of {lengths} mm{unit and f', given in {unit}'}; expected "
            f"{SMALLEST_SPACING:g} to "
            f"{LARGEST_SPACING:g} mm, repair the header and its units"
        )
    if (farthest := float(np.abs(grid.corners()).max())) > FARTHEST:
        raise DataError(
            f"{path} lies {farthest:.3g} mm from the origin; expected at most {FARTHEST:g} mm, "
            "repair the header"
        )
    if grid.shear > LARGEST_SHEAR:
        raise DataError(
            f"{path}: the axes of its affine are not at right angles (largest cosine "
            f"{grid.shear:.3g}); resample it to a grid without shear"
        )
    return grid


def channels_first(array: npt.NDArray[Any], shape: Size3, channels: int) -> npt.NDArray[Any]:
    """View stored ``(I, J, K, ...)`` in Fortran order as ``(C, I, J, K)``."""
    return np.moveaxis(array.reshape((*shape, channels), order="F"), -1, 0)


def plain_dtype(path: Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Pass on a real number type.

    Raises:
        DataError: For colors and complex numbers.
    """
    if dtype.fields is not None:
        raise DataError(
            f"{path} holds colors ({len(dtype.fields)} parts), expected one number per voxel; "
            "save it with one gray value or label per voxel"
        )
    if dtype.kind == "c":
        raise DataError(f"{path} holds complex numbers; expected real ones, such as the magnitude")
    return dtype
