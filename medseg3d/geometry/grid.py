"""Where the voxels of a volume lie in the patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import numpy.typing as npt
from nibabel.orientations import inv_ornt_aff, io_orientation

from medseg3d.errors import DataError
from medseg3d.types import Affine, Size3, Spacing

ANISOTROPY = 3.0
"""An axis is strongly anisotropic when its spacing is more than this times the finest, and flat
when the largest extent is more than this times its own."""


def coarse_axis(spacing: Sequence[float] | npt.NDArray[np.float64]) -> int | None:
    """The strongly anisotropic axis, if there is one.

    Examples:
        >>> coarse_axis((0.7, 0.7, 5.0))
        2
        >>> coarse_axis((1.0, 1.0, 2.5)) is None
        True
    """
    axis = int(np.argmax(spacing))
    return axis if float(spacing[axis]) > ANISOTROPY * float(np.min(spacing)) else None


def flat_axis(shape: Size3, spacing: Spacing) -> int | None:
    """The axis along which a volume is so flat that turned out of its plane it would be lost.

    Examples:
        >>> flat_axis((256, 256, 16), (1.0, 1.0, 3.0))
        2
        >>> flat_axis((160, 160, 80), (1.0, 1.0, 1.0)) is None
        True
    """
    extent = np.multiply(shape, spacing)
    axis = int(np.argmin(extent))
    return axis if ANISOTROPY * float(extent[axis]) < float(extent.max()) else None


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and affine of a volume; two volumes compare only on one grid.

    Two grids are equal if every number is; :meth:`same_as` allows for rounding.

    Args:
        shape: Voxels along ``(I, J, K)``, each at least 1.
        affine: ``(4, 4)``, voxel index to world mm in RAS+; copied and made read-only.

    Raises:
        DataError: If the affine is not finite or maps the volume onto a plane.

    Examples:
        >>> Grid((10, 10, 5), np.diag([-1.0, -1.0, 2.0, 1.0]))
        Grid(10 x 10 x 5 voxels of 1 x 1 x 2 mm, LPS)
    """

    shape: Size3
    affine: Affine

    def __post_init__(self) -> None:
        shape = tuple(int(length) for length in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(f"shape {shape} is not that of a 3D volume; expected three sizes >= 1")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise DataError(f"affine has shape {affine.shape}, expected (4, 4)")
        if not np.isfinite(affine).all():
            raise DataError(
                f"affine has values that are not finite: {affine[:3].tolist()}; repair the header"
            )
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            lengths = np.linalg.norm(affine[:3, :3], axis=0)
            axes = affine[:3, :3] / lengths
        if not np.isfinite(axes).all() or np.linalg.matrix_rank(axes) < 3:
            raise DataError(
                f"affine is singular: {affine[:3].tolist()}; it gives voxels no volume, "
                "repair the header"
            )
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, *self.affine.ravel().tolist()))

    def __reduce__(self) -> tuple[type["Grid"], tuple[Size3, Affine]]:
        return Grid, (self.shape, self.affine)  # through __init__, which locks the affine

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"Grid({size} voxels of {_in_mm(self.spacing)}, {self.orientation})"

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm along ``(I, J, K)``."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return i, j, k

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each axis, such as ``"RAS"``."""
        ends = ("LR", "PA", "IS")
        return "".join(ends[int(axis)][int(step > 0)] for axis, step in self.steps())

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def shear(self) -> float:
        """Largest cosine between two axes: 0 for a right-angled grid, towards 1 when sheared."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(np.abs(axes.T @ axes - np.eye(3)).max())

    def steps(self) -> npt.NDArray[np.float64]:
        """Nearest world axis (0, 1, 2) and sense (1, -1) of each voxel axis, ``(3, 2)``."""
        return np.asarray(io_orientation(self.affine))  # type: ignore[no-untyped-call]

    def canonical(self) -> "Grid":
        """The same voxels with their axes reordered and flipped to be closest to RAS+."""
        steps = self.steps()
        shape = tuple(self.shape[axis] for axis in np.argsort(steps[:, 0]))
        back = inv_ornt_aff(steps, self.shape)  # type: ignore[no-untyped-call]
        return Grid((shape[0], shape[1], shape[2]), self.affine @ back)

    def corners(self) -> Affine:
        """World position in mm of the eight outermost voxel centers, ``(8, 3)``."""
        indices = np.array(list(product(*((0, length - 1) for length in self.shape))))
        return np.asarray(indices @ self.affine[:3, :3].T + self.affine[:3, 3])

    def corner_displacement(self, other: "Grid") -> float:
        """How far the corners of ``other`` lie from those of this grid.

        Returns:
            Largest distance over the eight corners, in voxels of this grid;
            ``inf`` if the shapes differ.
        """
        if self.shape != other.shape:
            return float("inf")
        apart = np.linalg.solve(self.affine[:3, :3], (other.corners() - self.corners()).T)
        return float(np.linalg.norm(apart, axis=0).max())

    def same_as(self, other: "Grid", tolerance: float = 1e-3) -> bool:
        """Whether both grids agree to ``tolerance`` voxels at every corner."""
        return self.corner_displacement(other) <= tolerance

    def difference(self, other: "Grid") -> str:
        """Say in words how ``other`` differs from this grid.

        Examples:
            >>> grid = Grid((4, 5, 6), np.eye(4))
            >>> grid.difference(Grid((6, 5, 4), np.eye(4)))
            'shapes (4, 5, 6) and (6, 5, 4) differ, but fit with the axes in the order (2, 1, 0)'
            >>> grid.difference(Grid((4, 5, 6), np.diag([1.0, 1.0, 2.0, 1.0])))
            'spacings 1 x 1 x 1 mm and 1 x 1 x 2 mm differ'
        """
        if self.orientation != other.orientation and self.canonical().same_as(other.canonical()):
            return (
                f"both cover the same space, but one is stored as {self.orientation} "
                f"and the other as {other.orientation}"
            )
        if self.shape != other.shape:
            sentence = f"shapes {self.shape} and {other.shape} differ"
            for order in permutations(range(3)):
                if tuple(other.shape[axis] for axis in order) == self.shape:
                    return f"{sentence}, but fit with the axes in the order {order}"
            return sentence
        if not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return f"spacings {_in_mm(self.spacing)} and {_in_mm(other.spacing)} differ"
        shift_mm = np.linalg.norm(other.corners() - self.corners(), axis=1).max()
        shift = f"up to {shift_mm:.4g} mm ({self.corner_displacement(other):.4g} voxels)"
        if self.orientation != other.orientation:
            return (
                f"orientations {self.orientation} and {other.orientation} differ, "
                f"corners lie {shift} apart"
            )
        return f"corners lie {shift} apart"


def _in_mm(spacing: Spacing) -> str:
    return " x ".join(f"{length:.6g}" for length in spacing) + " mm"
