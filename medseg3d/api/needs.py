"""How much memory and disk a case takes, told from the header of its image."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from medseg3d.data.cases import Case
from medseg3d.data.plan import Plan
from medseg3d.data.preprocess import working_shape
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import read_grid
from medseg3d.machine import in_words, memory_in_reach
from medseg3d.types import Size3

PROGRAM = 400 << 20
"""Bytes of the libraries and a small network."""

WINDOW_BYTES = 24
"""Bytes per voxel of a window and channel of the finest stage while it is predicted, measured."""

FLOAT = 4
PACKED_LABELS = 0.005
PACKED_PROBABILITIES = 0.1
"""What packing leaves of label maps and probabilities at the least, measured."""

PACKED = (".gz", ".mgz", ".mha", ".nrrd")


@dataclass(frozen=True)
class Needs:
    """What predicting one case takes, in bytes.

    Attributes:
        reading: Memory for the image alone, at the least.
        memory: Memory in all, if no part of the image is cropped away.
        labels: Size of the label map, not packed.
        probabilities: Size of the probabilities, not packed.
    """

    reading: int
    memory: int
    labels: int
    probabilities: int

    def disk(self, file: Path, *, probabilities: bool) -> int:
        """Bytes that a file takes at least."""
        size = self.probabilities if probabilities else self.labels
        packed = PACKED_PROBABILITIES if probabilities else PACKED_LABELS
        if file.suffix.lower() == ".dcm":
            return 0  # holds only slices that are not empty, one bit per voxel
        return int(size * packed) if file.suffix.lower() in PACKED else size


def needs_of(case: Case, plan: Plan, *, model: Path, probabilities: bool) -> Needs:
    """Read the headers of a case, and refuse it if it does not fit the model.

    Args:
        case: The case; no voxel is read.
        plan: Plan of the model.
        model: File of the model, to name it.
        probabilities: Whether probabilities are asked for too.

    Raises:
        DataError: If a header cannot be trusted, the number of channels is not the plan's or
            the working grid would be absurdly large.
    """
    grids = [read_grid(image) for image in case.images]
    found, expected = sum(channels for _, channels in grids), len(plan.channels)
    if found != expected:
        names = ", ".join(channel.name for channel in plan.channels)
        raise DataError(
            f"{found} channels found where the plan has {expected} ({names}): "
            f"{case.images[0]} does not fit the model {model}"
        )
    return estimate(grids[0][0], plan, probabilities=probabilities)


def estimate(
    grid: Grid, plan: Plan, *, probabilities: bool = False, kept: Size3 | None = None
) -> Needs:
    """What predicting an image on ``grid`` takes.

    The largest of three moments counts: normalizing, predicting and restoring.

    Args:
        grid: Grid of the image.
        plan: Plan of the model.
        probabilities: Whether probabilities are asked for too.
        kept: Voxels, in RAS order, of the part that is not empty, if that is known.
    """
    canonical = grid.canonical()
    kept = kept or canonical.shape
    voxels, inside = prod(grid.shape), prod(kept)
    working = prod(working_shape(kept, canonical.spacing, plan.spacing))
    channels, num_labels = len(plan.channels), plan.num_labels
    image, labels = FLOAT * channels * voxels, np.min_scalar_type(max(plan.labels)).itemsize
    moments = [
        image + FLOAT * ((channels + 3) * inside + channels * working),
        image
        + FLOAT * working * (2 * channels + num_labels + 1)
        + WINDOW_BYTES * plan.width * prod(plan.patch_size),
        FLOAT * num_labels * (working + (inside + voxels) * probabilities) + 3 * labels * voxels,
    ]
    return Needs(
        # at the least: one byte per stored voxel, the image, and where it is not zero
        reading=PROGRAM + image + (2 * channels + 1) * voxels,
        memory=PROGRAM + max(moments),
        labels=labels * voxels,
        probabilities=FLOAT * num_labels * voxels,
    )


def expect_memory(needed: int) -> None:
    """Refuse a case that this process cannot hold.

    Raises:
        DataError: With the bytes needed and allowed.
    """
    limit = memory_in_reach()
    if needed > limit:
        raise DataError(
            f"predicting it takes about {in_words(needed)} of memory and this process may use "
            f"{in_words(limit)} at present; crop the image, or use a larger machine"
        )
