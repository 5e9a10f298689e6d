"""How much memory and disk a case takes, told from the header of its image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np

from medseg3d.api.predicting.region import part_shape
from medseg3d.api.predicting.targets import Target, is_dicom
from medseg3d.config import PredictConfig
from medseg3d.data.cases import Case
from medseg3d.data.plan import Plan
from medseg3d.data.preprocess import working_shape
from medseg3d.data.stages import size3
from medseg3d.errors import DataError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.inference.course import Course
from medseg3d.inference.slab import least_slab_bytes, slab_bytes
from medseg3d.inference.windows import fit_window
from medseg3d.io import read_grid
from medseg3d.machine import disk_shortage, in_words, memory_in_reach, num_processors
from medseg3d.types import Size3

PROGRAM = 500 << 20
"""Bytes of the libraries and a small network."""

FLOAT, SHORT = 4, 2
PACKED_LABELS = 0.005
PACKED_PROBABILITIES = 0.05
"""What packing leaves of label maps and probabilities at the least, measured."""

PACKED = (".gz", ".mgz", ".mha", ".nrrd")
RESERVE = 1 << 20
"""Bytes of disk beside the outputs: tables, folders."""


@dataclass(frozen=True)
class Footprint:
    """What models take in memory while they predict, in bytes.

    Attributes:
        per_channel: Per voxel of a window and channel of the finest stage.
        per_label: Per voxel of a window and label: logits, and of several models copies.
        cleaning: Per voxel of the image, if labels are cleaned; 0 if not.
        divisor: Of the network, by which windows grow; that of the plan until it is loaded.
    """

    per_channel: int
    per_label: int = FLOAT
    cleaning: int = 0
    divisor: Size3 | None = None


@dataclass(frozen=True)
class Needs:
    """What predicting one case takes, in bytes.

    Attributes:
        reading: Memory until the part to look at is known, at the least.
        computing: Memory from then on, without the slab of half-finished logits.
        slab: Memory of that slab, if there is enough.
        least_slab: The least that it can be cut down to.
        labels: Size of the label map, not packed.
        probabilities: Size of the probabilities, if they are asked for, not packed.
        uncertainty: Likewise of the uncertainty.
    """

    reading: int
    computing: int
    slab: int
    least_slab: int
    labels: int
    probabilities: int
    uncertainty: int

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

    @property
    def collected(self) -> int:
        """Disk that is taken beside the outputs until they are written."""
        return self.probabilities + self.uncertainty

    def disk(self, target: Target) -> Iterator[tuple[Path, int]]:
        """Folder and bytes, at least, of every output."""
        packed = target.labels.suffix.lower() in PACKED
        labels = int(self.labels * PACKED_LABELS) if packed else self.labels
        if is_dicom(target.labels):
            labels = 0  # holds only slices that are not empty, one bit per voxel
        yield target.labels.parent, labels
        if target.probabilities is not None:
            yield target.probabilities.parent, int(self.probabilities * PACKED_PROBABILITIES)
        if target.uncertainty is not None:
            yield target.uncertainty.parent, int(self.uncertainty * PACKED_PROBABILITIES)
        for sample in target.samples:
            yield sample.parent, int(self.labels * PACKED_LABELS)


def disk_of(jobs: Sequence[tuple[Needs, Target]]) -> Iterator[tuple[Path, int]]:
    """Folder and bytes, at least, of all outputs of some cases, and of what is collected.

    That is the most of two cases in turn, since one is written while the next is computed.
    """
    for needs, target in jobs:
        yield from needs.disk(target)
    collected = [needs.collected for needs, _ in jobs]
    most = max([*map(sum, pairwise(collected)), *collected], default=0)
    for _, target in jobs[:1]:
        yield target.labels.parent, most


def expect_disk(sizes: Iterable[tuple[Path, int]]) -> None:
    """Refuse work whose outputs do not fit on their disks.

    Args:
        sizes: Bytes at least needed, by folder.

    Raises:
        RunError: With the bytes needed and free.
    """
    if short := disk_shortage(sizes, reserve=RESERVE):
        raise RunError(
            f"{short.folders[0]} has {short.free} free and the outputs need about {short.needed}; "
            "free some space or choose another -o"
        )


def needs_of(
    case: Case, plan: Plan, config: PredictConfig, *, model: Path, footprint: Footprint
) -> Needs:
    """Read the headers of a case, and refuse it if it does not fit the model.

    Args:
        case: The case; no voxel is read.
        plan: Plan of the model.
        config: What is asked for.
        model: File of the model, to name it.
        footprint: Of the models.

    Raises:
        ConfigError: If ``--roi`` does not fit the image.
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
    part = part_shape(config, grid, plan)
    touched = zip(shape, part, canonical.shape, strict=True)
    i, j, k = (min(after, -(-after * n // before) + 1) for after, n, before in touched)
    working = (i, j, k)
    return estimate(grid, plan, config, working=working, part=part, footprint=footprint)


def estimate(
    grid: Grid,
    plan: Plan,
    config: PredictConfig,
    *,
    working: Size3,
    part: Size3,
    footprint: Footprint,
) -> Needs:
    """What predicting an image on ``grid`` takes.

    Args:
        grid: Grid of the image.
        plan: Plan of the model.
        config: What is asked for.
        working: Voxels of the working grid, or of the part of it that is looked at.
        part: Voxels of the image that are looked at, along the RAS+ axes.
        footprint: Of the models.
    """
    voxels, channels = prod(grid.shape), len(plan.channels)
    image, prepared = FLOAT * channels * voxels, FLOAT * channels * prod(working)
    labels = np.min_scalar_type(max(plan.labels)).itemsize * voxels
    held = labels * (1 + config.samples) + (SHORT * voxels if config.samples else 0)
    planned = size3(prod(axis) for axis in zip((1, 1, 1), *plan.strides, strict=True))
    divisor = footprint.divisor or planned
    window = fit_window(working, plan.window, divisor, plan.single_slices)
    per_voxel = footprint.per_channel * plan.width + footprint.per_label * plan.num_labels
    network = per_voxel * prod(window) + _planes_at_work(plan, config, working, part)
    network += footprint.cleaning * prod(part)  # what the network took may be kept till then
    slab = (plan.num_labels, working, plan.window, config.overlap)
    axis = plan.single_slices
    # outside of the part only background is filled in; of a mask nobody knows the part yet
    taken = 0 if config.roi_mask is not None else prod(part)
    probabilities = SHORT * (voxels + (plan.num_labels - 1) * taken)
    return Needs(
        reading=PROGRAM + image,
        computing=PROGRAM + max(image + 2 * prepared, prepared + held + network),
        slab=slab_bytes(*slab, slice_axis=axis),
        least_slab=least_slab_bytes(*slab, slice_axis=axis),
        labels=labels,
        probabilities=probabilities if config.probabilities else 0,
        uncertainty=SHORT * taken if config.uncertainty else 0,
    )


def _planes_at_work(plan: Plan, config: PredictConfig, working: Size3, part: Size3) -> int:
    """Memory of native planes of logits, one per thread, and of what is made of them."""
    if not (config.probabilities or config.uncertainty):
        return 0
    course = Course.through(working, plan.window, config.overlap, slice_axis=plan.single_slices)
    _, a, b = course.axes
    made = 2 * SHORT * (plan.num_labels if config.probabilities else 1)  # also in whole rows
    threads = config.threads or num_processors()
    return threads * part[a] * part[b] * (FLOAT * plan.num_labels + made)


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
        why = (
            "--max-memory or a worker's share allows" if own else "this process may use at present"
        )
        remedy = "allow more or use fewer workers" if own else "use a larger machine"
        raise DataError(
            f"predicting it takes about {in_words(max(needed, told))} of memory where {why} "
            f"{in_words(allowed)}; crop the image or give --roi, or {remedy}"
        )
    return allowed
