"""Turning volumes to RAS+ and back without interpolation."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.types import Size3

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Reorientation:
    """Reorders and flips voxel axes; made by :meth:`to_canonical`.

    Args:
        source: Grid before.
        grid: Grid after.
        order: Source axis that becomes each new axis.
        flips: Whether each new axis runs against its source axis.

    Examples:
        >>> stored_as_lps = Grid((2, 1, 1), np.diag([-1.0, -1.0, 1.0, 1.0]))
        >>> turn = Reorientation.to_canonical(stored_as_lps)
        >>> turn.grid.orientation
        'RAS'
        >>> turn.apply(np.array([[[3]], [[4]]])).ravel().tolist()
        [4, 3]
    """

    source: Grid
    grid: Grid
    order: Size3
    flips: tuple[bool, bool, bool]

    @classmethod
    def to_canonical(cls, grid: Grid) -> "Reorientation":
        """From ``grid`` to the grid of the same voxels closest to RAS+; oblique stays oblique."""
        steps = grid.steps()
        i, j, k = np.argsort(steps[:, 0]).tolist()
        backwards = [bool(steps[axis, 1] < 0) for axis in (i, j, k)]
        return cls(grid, grid.canonical(), (i, j, k), (backwards[0], backwards[1], backwards[2]))

    def apply(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """From the source grid to ``grid``.

        Args:
            array: ``(..., I, J, K)`` on the source grid.

        Returns:
            A view ``(..., I, J, K)``, or the array itself where nothing turns; torch
            takes it only after ``np.ascontiguousarray`` since steps may be negative.

        Raises:
            DataError: If the last three axes do not have the source's shape.
        """
        _expect(array, self.source)
        return self._flip(_transpose(array, self.order))

    def invert(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """From ``grid`` back to the source grid; ``invert(apply(x))`` is ``x``.

        Raises:
            DataError: If the last three axes do not have the shape of ``grid``.
        """
        _expect(array, self.grid)
        i, j, k = np.argsort(self.order).tolist()
        return _transpose(self._flip(array), (i, j, k))

    def _flip(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        i, j, k = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[..., i, j, k]


def _transpose(array: npt.NDArray[Scalar], order: Size3) -> npt.NDArray[Scalar]:
    leading = array.ndim - 3
    axes = (*range(leading), *(leading + axis for axis in order))
    return array.transpose(axes)


def _expect(array: npt.NDArray[Any], grid: Grid) -> None:
    if array.shape[-3:] != grid.shape:
        raise DataError(
            f"array of shape {array.shape} does not fit the grid of shape {grid.shape}; "
            "expected it in the last three axes"
        )
