"""A case read from disk and turned to canonical orientation (RAS+)."""

from dataclasses import dataclass

import numpy as np

from medseg3d.data.cases import Case
from medseg3d.errors import DataError, about_case
from medseg3d.geometry.grid import Grid
from medseg3d.geometry.orientation import Reorientation
from medseg3d.io import Volume, read_image, read_labels
from medseg3d.types import Image, LabelMap

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class CanonicalCase:
    """Arrays of one case in RAS+ order.

    Attributes:
        image: ``(C, I, J, K)`` float32.
        labels: ``(I, J, K)`` label values as stored, or None for an unlabelled case.
        grid: The RAS+ grid.
        reorientation: Way back to the native order.
    """

    image: Image
    labels: LabelMap | None
    grid: Grid
    reorientation: Reorientation


def load_case(case: Case) -> CanonicalCase:
    """Read image and, if there is one, label map; refuse them on different grids.

    Raises:
        DataError: Naming the case, if a file cannot be trusted or the grids differ.
    """
    with about_case(case.id):
        volume = read_image(case.images)
        labels = None
        if case.labels is not None:
            stored = read_labels(case.labels)
            if not stored.grid.same_as(volume.grid):
                raise DataError(
                    f"label map {case.labels.name} is not on the grid of {case.images[0].name}: "
                    f"{volume.grid.difference(stored.grid)}; resample the label map to the image"
                )
            labels = stored.labels
        return canonical(volume, labels)


def canonical(volume: Volume, labels: LabelMap | None = None) -> CanonicalCase:
    """Turn a volume, and labels on its grid, to RAS+ order."""
    reorientation = Reorientation.to_canonical(volume.grid)
    return CanonicalCase(
        image=reorientation.apply(volume.image),
        labels=None if labels is None else reorientation.apply(labels),
        grid=reorientation.grid,
        reorientation=reorientation,
    )


def nonzero_box(image: Image) -> Box:
    """Smallest box that holds every voxel in which any channel is not zero.

    An all-zero image keeps its whole extent.

    Examples:
        >>> image = np.zeros((1, 4, 4, 4), dtype=np.float32)
        >>> image[0, 1:3, 2, 0:2] = 5
        >>> nonzero_box(image)
        (slice(1, 3, None), slice(2, 3, None), slice(0, 2, None))
    """
    occupied = (image != 0).any(axis=0)
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(occupied.any(axis=others))
        if places.size == 0:
            return (slice(None), slice(None), slice(None))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return box[0], box[1], box[2]
