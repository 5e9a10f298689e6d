"""Axis convention and the names of the values that travel between the parts.

Letters used in every docstring: ``B`` batch, ``C`` image channels, ``L`` labels
(background included), ``I J K`` voxel axes in the column order of the affine.
Images are ``(C, I, J, K)``, label maps and masks ``(I, J, K)``. Spacing is in mm
per voxel axis, affines map a voxel index to world millimetres in RAS+.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Size3: TypeAlias = tuple[int, int, int]
"""Three integers, one per voxel axis ``(I, J, K)``."""

Spacing: TypeAlias = tuple[float, float, float]
"""Voxel size in mm along ``(I, J, K)``."""

Affine: TypeAlias = npt.NDArray[np.float64]
"""``(4, 4)`` matrix from voxel index to world mm, RAS+."""

Image: TypeAlias = npt.NDArray[np.float32]
"""Intensities ``(C, I, J, K)``."""

LabelMap: TypeAlias = npt.NDArray[np.integer[Any]]
"""Integer labels ``(I, J, K)``; 0 is background."""

Mask: TypeAlias = npt.NDArray[np.bool_]
"""Voxels of one label, ``(I, J, K)``."""
