"""Spacing, patch, batch, stages and width of a plan: what cases, memory and time allow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from medseg3d.data.slices import LARGEST_CPU_BATCH, Slices, with_edge
from medseg3d.data.stages import (
    SMALLEST_FEATURE_MAP,
    divisible,
    divisor_of,
    fit_patch,
    topology,
)
from medseg3d.geometry.grid import coarse_axis
from medseg3d.types import Size3, Spacing

BYTES_PER_VOXEL = 2000
"""Training memory per patch voxel of a 32-channel network in half precision, measured."""

CPU_VOXELS_PER_STEP = 262_144
"""On a CPU, time and not memory limits a step: about 1.3 s on two cores."""

CPU_VOXELS_PER_MINUTE = 8_000_000
"""Voxels of patches that one processor learns from in a minute, with 32 channels and bf16."""

WIDE, NARROW = 32, 16
"""Channels of the finest stage where time does not limit training, and where it does."""

PATCHES_FOR_WIDE = 20_000
"""So many patches must a run on a CPU see before 32 channels are better than 16, which make two
to four times the steps of the same time; see pipelines/recipe.md."""

LARGEST_BATCH_SHARE = 0.05
"""A batch holds at most this part of the training voxels, so that batches differ."""


@dataclass(frozen=True)
class Sizes:
    """What a network sees in one step, and its shape.

    Attributes:
        patch: Voxels along ``(I, J, K)``.
        batch: Patches per step.
        strides: Downsampling per axis entering each stage but the first.
        kernels: Convolution kernel per axis in each stage.
        width: Channels of the finest stage.
    """

    patch: Size3
    batch: int
    strides: tuple[Size3, ...]
    kernels: tuple[Size3, ...]
    width: int


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What there is to train with.

    Attributes:
        on_gpu: Whether memory (GPU) or time (CPU) limits a step.
        memory_gb: Memory that training may take.
        processor_minutes: Minutes of training times processors, if they limit the steps and the
            network can be made narrow.
    """

    on_gpu: bool
    memory_gb: float
    processor_minutes: float | None = None

    def voxels_in_memory(self, width: int) -> int:
        """Voxels of all patches of a step that memory has room for."""
        return int(self.memory_gb * 1e9 / BYTES_PER_VOXEL * WIDE / width)

    def voxels_per_step(self, width: int) -> int:
        """About as many voxels as all patches of a step are to have."""
        voxels = self.voxels_in_memory(width)
        return voxels if self.on_gpu else min(voxels, CPU_VOXELS_PER_STEP * WIDE // width)

    def too_short_for(self, patch: Size3) -> bool:
        """Whether a wide network would see too few patches.

        Examples:
            >>> hour = Resources(on_gpu=False, memory_gb=8, processor_minutes=60)
            >>> hour.too_short_for((40, 56, 40)), hour.too_short_for((20, 28, 20))
            (True, False)
        """
        if self.on_gpu or self.processor_minutes is None:
            return False
        return self.processor_minutes * CPU_VOXELS_PER_MINUTE < PATCHES_FOR_WIDE * prod(patch)


def choose_sizes(
    median: Size3,
    spacing: Spacing,
    *,
    num_cases: int,
    resources: Resources,
    slices: Slices | None = None,
    patch: Size3 | None = None,
    batch: int | None = None,
    width: int | None = None,
) -> Sizes:
    """Choose what is not given.

    Args:
        median: Median shape of the cases on the working grid.
        spacing: Of the working grid in mm.
        num_cases: Training cases.
        resources: What there is to train with.
        slices: Those that a network of two dimensions sees; None for volumes.
        patch: Fixed voxels; made larger where the strides do not divide it.
        batch: Fixed patches per step.
        width: Fixed channels of the finest stage.
    """
    if width is None:
        facts = partial(choose_sizes, median, spacing, num_cases=num_cases, resources=resources)
        chosen = partial(facts, slices=slices, patch=patch, batch=batch)
        wide = chosen(width=WIDE)
        return chosen(width=NARROW) if resources.too_short_for(wide.patch) else wide
    voxels = resources.voxels_per_step(width)
    least = slices.least_batch if slices else 2
    largest = slices.patch_of(median) if slices else median
    together = max(batch or least, 2)  # one patch takes half of the memory, not a larger patch
    if patch is None:
        patch = _fitted(largest, spacing, voxels // together, slices)
        room = resources.voxels_in_memory(width) // together
        patch = _within(room, patch, spacing, slices)
    strides, kernels = (slices.topology if slices else topology)(patch, spacing)
    patch = divisible(patch, strides)
    if batch is None:
        most = (voxels if resources.on_gpu else min(voxels, CPU_VOXELS_PER_STEP)) // prod(patch)
        if slices and not resources.on_gpu:
            most = min(most, LARGEST_CPU_BATCH // patch[slices.axis])
        differing = int(LARGEST_BATCH_SHARE * num_cases * prod(median) / prod(patch))
        batch = max(least, min(most, differing))
    return Sizes(patch, batch, strides, kernels, width)


def _fitted(largest: Size3, spacing: Spacing, voxels: int, slices: Slices | None) -> Size3:
    """The largest patch of so many voxels, with as many slices as are seen at once."""
    patch = fit_patch(largest, spacing, voxels)
    if slices is None or patch[slices.axis] >= slices.slab:
        return patch
    plane = fit_patch(with_edge(largest, slices.axis, 1), spacing, voxels // slices.slab)
    return with_edge(plane, slices.axis, slices.slab)


def _within(voxels: int, patch: Size3, spacing: Spacing, slices: Slices | None) -> Size3:
    """The patch made divisible by its strides, the largest edge cut until it has room."""
    axes = [axis for axis in range(3) if slices is None or axis != slices.axis]
    while True:
        strides, _ = (slices.topology if slices else topology)(patch, spacing)
        whole = divisible(patch, strides)
        axis = max(axes, key=whole.__getitem__)
        edge = whole[axis] - divisor_of(strides)[axis]
        if prod(whole) <= voxels or edge < SMALLEST_FEATURE_MAP:
            return whole
        patch = with_edge(patch, axis, edge)


def target_spacing(spacings: Sequence[Spacing]) -> tuple[Spacing, int | None]:
    """Median spacing; a strongly anisotropic axis takes its 10th percentile.

    Returns:
        Spacing in mm and the strongly anisotropic axis, if there is one.

    Examples:
        >>> target_spacing([(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (1.0, 1.0, 1.2)])
        ((1.0, 1.0, 1.2), None)
        >>> target_spacing([(1.0, 1.0, 4.0), (1.0, 1.0, 6.0), (1.0, 1.0, 8.0)])
        ((1.0, 1.0, 4.4), 2)
    """
    table = np.asarray(spacings, dtype=np.float64)
    target = np.median(table, axis=0)
    axis = coarse_axis(target)
    if axis is not None:
        lower = np.percentile(table[:, axis], 10)
        target[axis] = max(lower, np.delete(target, axis).max())
    rounded = (round(float(target[0]), 4), round(float(target[1]), 4), round(float(target[2]), 4))
    return rounded, coarse_axis(rounded)
