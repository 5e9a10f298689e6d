"""What comes out of a file: voxels, grid, and what an output needs from its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.types import Image, LabelMap

CROP_TOLERANCE = 0.02
"""Voxels by which a cropped label map may be off the grid that it is filled up to."""


@dataclass(frozen=True)
class Header:
    """How the source stored its geometry; opaque outside ``io``.

    Only geometry is kept, so that no free text of the source can reach an output.

    Args:
        format: Name of the file format.
        nifti: NIfTI header block with the source's geometry, empty for other formats.
        sources: Files of a DICOM series in the order of its slices, empty for other formats.
        frames: Frames that are its slices, where these files hold several each.
        is_cropped: Whether the file may leave out surroundings that are all background.
    """

    format: str = ""
    nifti: bytes = field(default=b"", repr=False)
    sources: tuple[Path, ...] = field(default=(), repr=False)
    frames: tuple[tuple[Path, int], ...] = field(default=(), repr=False)
    is_cropped: bool = False


@dataclass(frozen=True, eq=False)
class Volume:
    """An image as stored.

    Args:
        array: Intensities ``(C, I, J, K)`` in native byte order; the stored integers
            where the file scales nothing, else float32.
        grid: Shape and affine of one channel.
        path: File of the first channel.
        header: Source geometry for outputs made like this one.
        notes: Oddities that were dealt with, one sentence each.
    """

    array: npt.NDArray[Any]
    grid: Grid
    path: Path
    header: Header = field(default=Header(), repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def from_array(cls, array: npt.NDArray[Any], grid: Grid) -> "Volume":
        """Wrap intensities ``(C, I, J, K)`` that come from no file.

        Raises:
            DataError: If the last three axes do not have the shape of the grid.
        """
        if array.ndim != 4 or array.shape[1:] != grid.shape:
            raise DataError(
                f"array of shape {array.shape} does not fit the grid of shape {grid.shape}; "
                "expected (C, I, J, K)"
            )
        return cls(array, grid, Path("array"))

    @property
    def image(self) -> Image:
        """Intensities as float32 ``(C, I, J, K)``, without a copy where they are already."""
        return self.array.astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """A label map as stored.

    Args:
        labels: Integer labels ``(I, J, K)`` in the smallest unsigned type that holds them.
        grid: Shape and affine.
        path: The file.
        header: Source geometry for outputs made like this one.
        notes: Oddities that were dealt with, one sentence each.
        names: What the file calls each label, if it does.
    """

    labels: LabelMap
    grid: Grid
    path: Path
    header: Header = field(default=Header(), repr=False)
    notes: tuple[str, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict, repr=False)

    @property
    def is_cropped(self) -> bool:
        """Whether a larger grid may be filled up with background, as DICOM and Slicer mean it."""
        return self.header.is_cropped

    def filled(self, grid: Grid) -> "LabelVolume":
        """The same labels on a larger grid of the same voxels, with background elsewhere.

        Only a cropped label map is filled up; any other, and one whose voxels are not among
        those of ``grid``, is returned as it is.
        """
        if not self.is_cropped or grid.same_as(self.grid):
            return self
        steps = np.linalg.solve(grid.affine, self.grid.affine)
        turns, first = np.rint(steps[:3, :3]), np.rint(steps[:3, 3])
        is_turn = np.array_equal(np.abs(turns) @ np.ones(3), np.ones(3))
        if not is_turn or not np.array_equal(turns @ turns.T, np.eye(3)):
            return self
        last = turns @ (np.array(self.grid.shape) - 1) + first
        low, high = np.minimum(first, last).astype(int), np.maximum(first, last).astype(int)
        order = np.abs(turns).argmax(axis=1)
        sense = [slice(None, None, int(turns[axis, order[axis]])) for axis in range(3)]
        rounded = np.eye(4)
        rounded[:3, :3], rounded[:3, 3] = turns, first
        if not Grid(self.grid.shape, grid.affine @ rounded).same_as(self.grid, CROP_TOLERANCE):
            return self
        if (low < 0).any() or (high >= grid.shape).any():
            return self
        labels = np.zeros(grid.shape, self.labels.dtype)
        labels[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = (
            self.labels.transpose(order)[tuple(sense)]
        )
        return replace(self, labels=labels, grid=grid)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the header of a file says.

    Args:
        grid: Shape and affine.
        channels: Values per voxel.
        header: Source geometry.
        notes: Oddities that were dealt with, one sentence each.
        names: What it calls each label, in formats that tell.
    """

    grid: Grid
    channels: int
    header: Header
    notes: tuple[str, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class Stored:
    """What a reader returns: the inspection and the voxels ``(C, I, J, K)``."""

    inspection: Inspection
    array: npt.NDArray[Any]
