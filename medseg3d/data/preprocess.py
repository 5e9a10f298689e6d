"""From a case on disk to the array that a network sees, and back to the native grid.

The working grid is RAS+, cropped to the non-zero box and resampled to the plan's spacing.
"""

import hashlib
import json
from dataclasses import dataclass
from math import prod

import numpy as np

from medseg3d.data.canonical import Box, CanonicalCase, nonzero_box
from medseg3d.data.intensities import scaling_of
from medseg3d.data.placement import Placement, place, within
from medseg3d.data.plan import Plan
from medseg3d.errors import DataError
from medseg3d.geometry.grid import coarse_axis
from medseg3d.geometry.resampling import resample_labels
from medseg3d.geometry.splines import resample_channel
from medseg3d.machine import in_words, memory_limit, num_processors
from medseg3d.types import Image, LabelMap, Size3, Spacing

__all__ = ["Placement", "WorkingCase", "preprocess", "preprocessing_key", "working_shape"]

MAX_WORKING_VOXELS = 1 << 31
"""A working grid beyond this is a wrong spacing in the header rather than a scan."""

LARGEST_GAIN, ALWAYS_AFFORDABLE = 64, 1 << 26
"""A working grid of more voxels than the second, and this many times the stored ones, is refused.

64 is four times finer along every axis: nearly all of such voxels would be interpolated, from a
scan of another kind or a wrong spacing. Up to 2^26 voxels (256 MiB) it costs little to go on.
"""

MOST_THREADS = 8

LARGEST_FACTOR = 100
"""Voxels this many times longer or shorter than the plan's are a wrong spacing too."""


@dataclass(frozen=True)
class WorkingCase:
    """One case on the working grid.

    Attributes:
        image: ``(C, i, j, k)`` normalized float32.
        labels: ``(i, j, k)`` uint8 or uint16 logit-channel indices, or None.
        placement: Way back to the native grid.
    """

    image: Image
    labels: LabelMap | None
    placement: Placement


def preprocess(
    case: CanonicalCase, plan: Plan, *, part: Box | None = None, threads: int | None = None
) -> WorkingCase:
    """Crop, resample and normalize one case as the plan says.

    Args:
        case: The case in RAS+ order.
        plan: Spacing and normalization.
        part: Voxels of the case that are of interest; only the working voxels that they touch
            are made. Their values are those of the whole case.
        threads: How many share the work, by default as many as there are processors.

    Raises:
        DataError: If the number of channels is not the plan's, a label value is not in the plan
            or the working grid would be absurdly large.
    """
    if case.image.shape[0] != len(plan.channels):
        raise DataError(
            f"{case.image.shape[0]} channels found where the plan has {len(plan.channels)} "
            f"({', '.join(channel.name for channel in plan.channels)})"
        )
    threads = threads or min(MOST_THREADS, num_processors())
    box = nonzero_box(case.image)
    image = case.image[(slice(None), *box)]
    inside = within(part or box, box, case.grid.shape)
    share = prod(edge.stop - edge.start for edge in inside) / prod(image.shape[1:])
    shape = working_shape(
        image.shape[1:], case.grid.spacing, plan.spacing, num_channels=len(image), share=share
    )
    placement = place(case, box, shape, inside)
    working = np.empty((len(image), *placement.held_shape), np.float32)
    for channel, rule, out in zip(image, plan.channels, working, strict=True):
        resample_channel(
            channel,
            out,
            shape,
            coarse_axis=_separate_axis(case, plan),
            held=placement.held,
            scale=scaling_of(channel, rule, threads=threads),
            threads=threads,
        )
    labels = None
    if case.labels is not None:
        labels = resample_labels(_channel_indices(case.labels[box], plan), shape)[placement.held]
    return WorkingCase(working, labels, placement)


def working_shape(
    shape: tuple[int, ...],
    spacing: Spacing,
    target: Spacing,
    *,
    num_channels: int = 1,
    share: float = 1.0,
) -> Size3:
    """Voxels of the working grid that covers the same millimeters.

    Args:
        shape: Voxels of the grid that it covers.
        spacing: Their size in mm.
        target: Size of the working voxels in mm.
        num_channels: Channels of the working image.
        share: Part of the grid that is to be held in memory.

    Raises:
        DataError: If that is more than any scanner makes, far more than is stored, or more than
            this machine can hold.

    Examples:
        >>> working_shape((10, 20, 30), (1.0, 1.0, 2.0), (2.0, 1.0, 1.0))
        (5, 20, 60)
    """
    edges = [max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True)]
    voxels = edges[0] * edges[1] * edges[2]
    factors = [max(s / t, t / s) for s, t in zip(spacing, target, strict=True)]
    becomes = (
        f"spacing {_mm(spacing)} with {tuple(shape)} voxels would give {tuple(edges)} voxels at "
        f"the plan's {_mm(target)}"
    )
    if voxels > MAX_WORKING_VOXELS or max(factors) > LARGEST_FACTOR:
        raise DataError(f"{becomes}; check the spacing in the header")
    stored = shape[0] * shape[1] * shape[2]
    if voxels > max(ALWAYS_AFFORDABLE, LARGEST_GAIN * stored):
        raise DataError(
            f"{becomes}, {voxels // stored} times as many; check the spacing in the header, or "
            "leave out the case"
        )
    if (needed := 4 * voxels * num_channels * share) > memory_limit():
        raise DataError(
            f"{becomes}, {in_words(needed)} where this machine allows {in_words(memory_limit())}; "
            "check the spacing in the header, or cut the image"
        )
    return edges[0], edges[1], edges[2]


def preprocessing_key(plan: Plan) -> str:
    """Text that is equal for two plans exactly if they preprocess equally."""
    parts = plan.model_dump(mode="json", include={"spacing", "coarse_axis"})
    parts["labels"] = sorted(plan.labels)
    parts["channels"] = [
        rule.model_dump(mode="json", exclude={"name", "masks"})
        if rule.scheme == "ct"
        else rule.scheme + ("+masks" if rule.masks else "")
        for rule in plan.channels
    ]
    if plan.ignore_label is not None:
        parts["ignore_label"] = plan.ignore_label
    parts["format"] = 2
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _separate_axis(case: CanonicalCase, plan: Plan) -> int | None:
    """The axis too coarse, in the case or in the plan, for third-order interpolation along it."""
    axis = coarse_axis(case.grid.spacing)
    return plan.coarse_axis if axis is None else axis


def _channel_indices(labels: LabelMap, plan: Plan) -> LabelMap:
    """Label values as stored -> logit channel indices ``0 .. L-1``, ``L`` for the ignored."""
    values = np.asarray(sorted(plan.labels))
    present = np.unique(labels)
    ignored = [] if plan.ignore_label is None else [plan.ignore_label]
    strange = np.setdiff1d(present, [*values, *ignored])
    if strange.size:
        counts = [f"{value} ({np.count_nonzero(labels == value)} voxels)" for value in strange[:10]]
        raise DataError(
            f"label value {', '.join(counts)} is not among {values.tolist()}; declare it in "
            "dataset.json or correct the label map"
        )
    if np.array_equal(values, np.arange(values.size)) and not ignored:
        return labels
    small = np.uint8 if values.size + len(ignored) <= 256 else np.uint16
    indices: LabelMap = np.searchsorted(values, labels).astype(small)
    if ignored:
        indices[labels == plan.ignore_label] = values.size
    return indices


def _mm(spacing: Spacing) -> str:
    return " x ".join(f"{edge:g}" for edge in spacing) + " mm"
