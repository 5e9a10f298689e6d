"""The surface of a mask as a mesh: pieces between the centers of eight voxels, with their area.

Between eight neighboring voxel centers the surface separates those inside the mask from those
outside, by triangles between the middles of the edges (marching cubes). Its area there depends
only on which of the eight are inside. All these triangles count as one piece, at the corner
that the eight voxels share.
"""

from collections.abc import Sequence
from functools import cache
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.metrics.nearest import Distances
from medseg3d.types import Mask, Spacing

CUTS: dict[int, tuple[tuple[int, int, int], ...]] = {
    0b00000001: ((1, 1, 1),),
    0b00000011: ((2, 2, 0), (2, 2, 0)),
    0b00000110: ((1, 1, 1), (1, 1, 1)),
    0b00000111: ((1, 1, 1), (2, 2, 2), (4, 0, 0)),
    0b00001111: ((4, 0, 0), (4, 0, 0)),
    0b00010110: ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    0b00010111: ((1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
    0b00011000: ((1, 1, 1), (1, 1, 1)),
    0b00011001: ((0, 2, 2), (0, 2, 2), (1, 1, 1)),
    0b00011011: ((0, 2, 2), (1, 1, 1), (2, 0, 2), (3, 3, 3)),
    0b00011110: ((1, 1, 1), (1, 1, 1), (2, 2, 2), (4, 0, 0)),
    0b00111100: ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0)),
    0b01101001: ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
}
"""The ways of cutting a cube, up to turns, mirrors and exchanging inside and outside.

Bit ``4 i + 2 j + k`` of a key says whether the voxel at that corner is inside. The values are the
triangles: eight times the area that each shows in the direction of the three axes.
"""

ALL_INSIDE = 255

Codes = npt.NDArray[np.uint8]


def pieces(
    mask: Mask, spacing: Spacing, *, border: bool = True, flat_axes: Sequence[int] = ()
) -> tuple[Mask, Distances]:
    """Where the mesh has pieces, and the area of each.

    Args:
        mask: ``(I, J, K)`` bool.
        spacing: Voxel size in mm along each axis.
        border: Whether the mesh is closed where the mask ends at the border of the volume.
        flat_axes: Axes of one voxel along which the mesh is open in any case: a wall around the
            mask, as high as the voxel.

    Returns:
        Corners between voxels that hold a piece of the mesh, ``(I + 1, J + 1, K + 1)`` or, with
        an open border, only those inside the volume, ``(I - 1, J - 1, K - 1)``, in either case 1
        along a flat axis; and the areas in mm2 in the order of these corners.

    Raises:
        DataError: If the mask has not three axes.

    References:
        Lorensen & Cline, "Marching cubes", SIGGRAPH Computer Graphics 21(4), 1987.
        https://doi.org/10.1145/37402.37422
        Nikolov et al., J. Med. Internet Res. 23(7), 2021. https://doi.org/10.2196/26151

    Examples:
        >>> where, areas = pieces(np.ones((1, 1, 1), dtype=bool), (1.0, 1.0, 1.0))
        >>> where.shape, round(float(areas.sum()), 6)  # an octahedron with edges of sqrt(1 / 2)
        ((2, 2, 2), 1.732051)
    """
    if mask.ndim != 3:
        raise DataError(
            f"a mesh needs a mask with three axes, found {mask.ndim}; choose surface voxels"
        )
    for axis in flat_axes:
        mask = np.repeat(mask, 2, axis=axis)
    around = [int(border and axis not in flat_axes) for axis in range(3)]
    codes = _codes(np.pad(mask, [(width, width) for width in around]))
    where = (codes != 0) & (codes != ALL_INSIDE)
    return where, areas(spacing)[codes[where]]


def areas(spacing: Spacing) -> Distances:
    """Area in mm2 of the surface between eight voxel centers, for each of the 256 cases."""
    i, j, k = spacing
    sides = np.array([j * k, i * k, i * j])
    return np.asarray(np.linalg.norm(_triangles() * sides, axis=-1).sum(axis=-1))


def _codes(mask: Mask) -> Codes:
    """For each eight neighbors the key of their case."""
    codes = mask.astype(np.uint8)
    for axis, weight in ((2, 2), (1, 4), (0, 16)):
        along = np.moveaxis(codes, axis, 0)
        codes = np.moveaxis(along[:-1] + along[1:] * np.uint8(weight), 0, axis)
    return codes


@cache
def _triangles() -> Distances:
    """The triangles of all 256 cases, ``(256, 4, 3)``: the area each shows along each axis."""
    found = np.zeros((256, 4, 3))
    corners = list(product((0, 1), repeat=3))
    for key, cut in CUTS.items():
        inside = [corner for place, corner in enumerate(corners) if key >> place & 1]
        shown = np.array(cut) / 8.0
        for order, mirrored in product(permutations(range(3)), corners):
            moved = [[corner[axis] ^ mirrored[axis] for axis in order] for corner in inside]
            case = sum(1 << (4 * i + 2 * j + k) for i, j, k in moved)
            for same in (case, ALL_INSIDE ^ case):
                found[same, : len(cut)] = shown[:, order]
    return found
