"""A case read from disk and turned to canonical orientation (RAS+)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.cases import Case
from medseg3d.errors import DataError, about_case
from medseg3d.geometry.grid import Grid
from medseg3d.geometry.orientation import Reorientation
from medseg3d.io import LabelVolume, Volume, read_image, read_labels
from medseg3d.types import LabelMap

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class CanonicalCase:
    """Arrays of one case in RAS+ order.

    Attributes:
        image: ``(C, I, J, K)``, the stored integers where there are such, else float32.
        labels: ``(I, J, K)`` label values as stored, or None for an unlabelled case.
        grid: The RAS+ grid.
        reorientation: Way back to the native order.
    """

    image: npt.NDArray[Any]
    labels: LabelMap | None
    grid: Grid
    reorientation: Reorientation


def load_case(case: Case) -> CanonicalCase:
    """Read image and, if there is one, label map; refuse them in different places.

    Raises:
        DataError: Naming the case, if a file cannot be trusted or the grids differ.
    """
    with about_case(case.id):
        volume = read_image(case.images)
        labels = None
        if case.labels is not None:
            stored = read_labels(case.labels)
            labels = labels_on(stored, volume.grid, of=f"image {case.images[0]}")
        return canonical(volume, labels)


def labels_on(stored: LabelVolume, grid: Grid, *, of: str = "its image") -> LabelMap:
    """The label map in the voxel order of ``grid``.

    A label map whose axes are mirrored or in another order, with an affine that says so, is
    turned to lie as it should; nothing is interpolated.

    Args:
        stored: The label map and where it lies.
        grid: Grid of the image.
        of: What the grid is of, for the message.

    Returns:
        Labels ``(I, J, K)`` of ``grid``.

    Raises:
        DataError: If the voxels of both do not lie in the same places.

    Examples:
        >>> from pathlib import Path
        >>> grid = Grid((2, 1, 1), np.eye(4))
        >>> mirrored = np.diag([-1.0, 1.0, 1.0, 1.0])
        >>> mirrored[0, 3] = 1.0
        >>> labels = np.array([5, 0], np.uint8).reshape(2, 1, 1)
        >>> stored = LabelVolume(labels, Grid((2, 1, 1), mirrored), Path("a.nii"))
        >>> labels_on(stored, grid).ravel().tolist()
        [0, 5]
    """
    stored = stored.filled(grid)
    if grid.same_as(stored.grid):
        return stored.labels
    turn = turn_between(stored.grid, grid)
    if turn is None:
        raise DataError(
            f"label map {stored.path} is not on the grid of {of}: "
            f"{grid.difference(stored.grid)}; export it on the grid of the image, or resample it "
            "(medseg3d check)"
        )
    return turn.apply(stored.labels)


def turn_between(source: Grid, target: Grid) -> Reorientation | None:
    """How to reorder and flip ``source`` to get ``target``, None if that does not do it."""
    steps = np.linalg.solve(target.affine[:3, :3], source.affine[:3, :3])
    nearest = np.rint(steps)
    if not np.array_equal(nearest @ nearest.T, np.eye(3)):  # of integers: axes in another order
        return None
    i, j, k = np.abs(nearest).argmax(axis=1).tolist()
    shape = (source.shape[i], source.shape[j], source.shape[k])
    flips = nearest.sum(axis=1) < 0
    place = np.eye(4)
    place[:3, :3] = nearest.T
    place[:3, 3] = -nearest.T @ np.where(flips, np.subtract(shape, 1), 0)
    if not target.same_as(Grid(shape, source.affine @ place)):
        return None
    return Reorientation(
        source, target, (i, j, k), (bool(flips[0]), bool(flips[1]), bool(flips[2]))
    )


def canonical(volume: Volume, labels: LabelMap | None = None) -> CanonicalCase:
    """Turn a volume, and labels on its grid, to RAS+ order."""
    reorientation = Reorientation.to_canonical(volume.grid)
    image = volume.array if volume.array.dtype.kind in "iu" else volume.image
    return CanonicalCase(
        image=reorientation.apply(image),
        labels=None if labels is None else reorientation.apply(labels),
        grid=reorientation.grid,
        reorientation=reorientation,
    )


def nonzero_box(image: npt.NDArray[Any]) -> Box:
    """Smallest box that holds every voxel in which any channel is not zero.

    An all-zero image keeps its whole extent. Planes are looked at from outside inwards, so most
    of the image is not looked at.

    Examples:
        >>> image = np.zeros((1, 4, 4, 4), dtype=np.float32)
        >>> image[0, 1:3, 2, 0:2] = 5
        >>> nonzero_box(image)
        (slice(1, 3, None), slice(2, 3, None), slice(0, 2, None))
    """
    box = [slice(None)] * 3
    for axis in sorted(range(3), key=lambda axis: -abs(image.strides[1 + axis])):
        planes = np.moveaxis(image[(slice(None), *box)], 1 + axis, 0)
        first = next((n for n, plane in enumerate(planes) if plane.any()), None)
        if first is None:
            return (slice(None), slice(None), slice(None))
        last = next(n for n in range(len(planes), 0, -1) if planes[n - 1].any())
        box[axis] = slice(first, last)
    return box[0], box[1], box[2]
