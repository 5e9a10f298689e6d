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
from medseg3d.inference.slab import least_slab_bytes, slab_bytes
from medseg3d.io import read_grid
from medseg3d.machine import in_words, memory_in_reach
from medseg3d.types import Size3

PROGRAM = 500 << 20
"""Bytes of the libraries and a small network."""

WINDOW_BYTES = 16
"""Bytes per voxel of a window and channel of the finest stage while it is predicted, measured."""

FLOAT = 4
PACKED_LABELS = 0.005
PACKED_PROBABILITIES = 0.05
"""What packing leaves of label maps and probabilities at the least, measured."""

PACKED = (".gz", ".mgz", ".mha", ".nrrd")


@dataclass(frozen=True)
class Needs:
    """What predicting one case takes, in bytes.

    Attributes:
        reading: Memory until the part to look at is known, at the least.
        computing: Memory from then on, without the slab of half-finished logits.
        slab: Memory of that slab, if there is enough.
        least_slab: The least that it can be cut down to.
        labels: Size of the label map, not packed.
        planes: Size of the probabilities and the uncertainty that are asked for, not packed.
    """

    reading: int
    computing: int
    slab: int
    least_slab: int
    labels: int
    planes: int

    @property
    def memory(self) -> int:
        """Memory in all, if there is enough for the whole slab."""
        return max(self.reading, self.computing + self.slab)

    @property
    def least(self) -> int:
        """Memory in all at the least."""
        return max(self.reading, self.computing + self.least_slab)

    @property
    def beside(self) -> int:
        """Memory of reading this case while another one is computed."""
        return self.memory - PROGRAM

    def disk(self, file: Path, *, of_labels: bool) -> int:
        """Bytes that a file takes at least, beside which planes are collected."""
        if file.suffix.lower() == ".dcm":
            return 0  # holds only slices that are not empty, one bit per voxel
        if not of_labels:
            return int(self.planes * (1 + PACKED_PROBABILITIES))
        return int(self.labels * PACKED_LABELS) if file.suffix.lower() in PACKED else self.labels


def needs_of(case: Case, plan: Plan, *, model: Path, overlap: float, planes: int) -> Needs:
    """Read the headers of a case, and refuse it if it does not fit the model.

    Args:
        case: The case; no voxel is read.
        plan: Plan of the model.
        model: File of the model, to name it.
        overlap: Fraction of a window shared with its neighbor.
        planes: Numbers per voxel that are written beside the labels.

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
    grid = grids[0][0]
    canonical = grid.canonical()
    shape = working_shape(canonical.shape, canonical.spacing, plan.spacing)
    return estimate(grid, plan, working=shape, overlap=overlap, planes=planes)


def estimate(grid: Grid, plan: Plan, *, working: Size3, overlap: float, planes: int = 0) -> Needs:
    """What predicting an image on ``grid`` takes.

    Args:
        grid: Grid of the image.
        plan: Plan of the model.
        working: Voxels of the working grid, or of the part of it that is looked at.
        overlap: Fraction of a window shared with its neighbor.
        planes: Numbers per voxel that are written beside the labels.
    """
    voxels, channels = prod(grid.shape), len(plan.channels)
    image, prepared = FLOAT * channels * voxels, FLOAT * channels * prod(working)
    labels = np.min_scalar_type(max(plan.labels)).itemsize * voxels
    network = WINDOW_BYTES * plan.width * prod(plan.patch_size)
    slab = (plan.num_labels, working, plan.patch_size)
    return Needs(
        reading=PROGRAM + image,
        computing=PROGRAM + max(image + 2 * prepared, prepared + labels + network),
        slab=slab_bytes(*slab, overlap),
        least_slab=least_slab_bytes(*slab, overlap),
        labels=labels,
        planes=2 * planes * voxels,
    )


def expect_memory(needed: int, limit: int | None = None, *, told: int = 0) -> int:
    """Refuse a case that this process cannot hold.

    Args:
        needed: Bytes in all.
        limit: Bytes that the user allows.
        told: Bytes to tell of, if that is more: what it takes in all unless parts are cropped.

    Returns:
        Bytes that it may hold in all.

    Raises:
        DataError: With the bytes needed and allowed.
    """
    reach = memory_in_reach()
    allowed = reach if limit is None else min(reach, limit)
    if needed > allowed:
        own = limit is not None and limit < reach
        why = "--max-memory allows" if own else "this process may use at present"
        remedy = "allow more" if own else "use a larger machine"
        raise DataError(
            f"predicting it takes about {in_words(max(needed, told))} of memory where {why} "
            f"{in_words(allowed)}; crop the image or give --roi, or {remedy}"
        )
    return allowed
