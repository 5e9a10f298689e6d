"""Connected parts of masks and label maps."""

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from medseg3d.types import LabelMap, Mask

Numbers: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Number of the part that each voxel belongs to, from 1; 0 for none."""


def connected_parts(
    labels: LabelMap | Mask, connectivity: Literal[6, 18, 26] = 26
) -> tuple[Numbers, int]:
    """Number the connected parts of a mask, or of each label of a label map.

    An edge of an odd number of voxels gets one more of background, since cc3d (up to 4.1 at
    least) keeps places for one part per 2 x 2 x 2 voxels, and fails if there are more.

    Args:
        labels: ``(I, J, K)``; 0 belongs to no part.
        connectivity: Neighbors of a voxel: over faces (6), also edges (18), also corners (26).

    Returns:
        The number of each voxel's part, ``(I, J, K)``, and how many parts there are.

    Examples:
        >>> corners = np.zeros((3, 3, 3), dtype=bool)
        >>> corners[::2, ::2, ::2] = True
        >>> connected_parts(corners)[1]
        8
    """
    import cc3d

    even = np.zeros([edge + edge % 2 for edge in labels.shape], dtype=labels.dtype)
    i, j, k = labels.shape
    even[:i, :j, :k] = labels
    numbers, count = cc3d.connected_components(even, connectivity=connectivity, return_N=True)
    return numbers[:i, :j, :k], count
