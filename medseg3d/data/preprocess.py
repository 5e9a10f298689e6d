"""From a case on disk to the array that a network sees, and back to the native grid.

The working grid is RAS+, cropped to the non-zero box and resampled to the plan's spacing.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import Box, CanonicalCase, nonzero_box
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import DataError
from medseg3d.geometry.grid import coarse_axis
from medseg3d.geometry.orientation import Reorientation
from medseg3d.geometry.resampling import (
    resample_image,
    resample_labels,
    restore_labels,
    restore_probabilities,
)
from medseg3d.machine import in_words, memory_limit
from medseg3d.types import Image, LabelMap, Size3, Spacing

MAX_WORKING_VOXELS = 1 << 31
"""A working grid beyond this is a wrong spacing in the header rather than a scan."""

LARGEST_GAIN, ALWAYS_AFFORDABLE = 64, 1 << 26
"""A working grid of more voxels than the second, and this many times the stored ones, is refused.

64 is four times finer along every axis: nearly all of such voxels would be interpolated, from a
scan of another kind or a wrong spacing. Up to 2^26 voxels (256 MiB) it costs little to go on.
"""

LARGEST_FACTOR = 100
"""Voxels this many times longer or shorter than the plan's are a wrong spacing too."""

LARGEST = float(np.finfo(np.float16).max)
"""Normalized intensities end here, in the cache and in half precision."""


@dataclass(frozen=True)
class Placement:
    """Where a working grid lies in the native one.

    Attributes:
        canonical_shape: Voxels of the whole case in RAS+ order.
        box: Part of it that was kept.
        reorientation: Way back to the native order.
    """

    canonical_shape: Size3
    box: Box
    reorientation: Reorientation

    def restore_labels(
        self, logits: npt.NDArray[np.float32], label_values: tuple[int, ...]
    ) -> LabelMap:
        """Label map on the native grid: logits are interpolated, then the largest one wins.

        Args:
            logits: ``(L, i, j, k)`` on the working grid.
            label_values: Value to write for each of the ``L`` logit channels.

        Returns:
            ``(I, J, K)`` in the smallest unsigned type that holds the values.
        """
        found = restore_labels(logits, self._box_shape())
        values = np.asarray(label_values)
        whole = np.zeros(self.canonical_shape, dtype=np.min_scalar_type(int(values.max())))
        whole[self.box] = values.astype(whole.dtype)[found]
        return self.reorientation.invert(whole)

    def restore_probabilities(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Softmax probabilities ``(L, I, J, K)`` on the native grid; background outside the box."""
        inside = restore_probabilities(logits, self._box_shape())
        whole = np.zeros((len(inside), *self.canonical_shape), dtype=np.float32)
        whole[0] = 1
        whole[(slice(None), *self.box)] = inside
        return self.reorientation.invert(whole)

    def _box_shape(self) -> Size3:
        edges = [
            part.indices(whole)[1] - part.indices(whole)[0]
            for part, whole in zip(self.box, self.canonical_shape, strict=True)
        ]
        return edges[0], edges[1], edges[2]


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


def preprocess(case: CanonicalCase, plan: Plan) -> WorkingCase:
    """Crop, resample and normalize one case as the plan says.

    Raises:
        DataError: If the number of channels is not the plan's, a label value is not in the plan
            or the working grid would be absurdly large.
    """
    if case.image.shape[0] != len(plan.channels):
        raise DataError(
            f"{case.image.shape[0]} channels found where the plan has {len(plan.channels)} "
            f"({', '.join(channel.name for channel in plan.channels)})"
        )
    box = nonzero_box(case.image)
    image = case.image[(slice(None), *box)]
    shape = working_shape(image.shape[1:], case.grid.spacing, plan.spacing, num_channels=len(image))
    normalized = np.stack(
        [normalize(channel, rule) for channel, rule in zip(image, plan.channels, strict=True)]
    )
    resampled = resample_image(normalized, shape, coarse_axis=_separate_axis(case, plan))
    labels = None
    if case.labels is not None:
        labels = resample_labels(_channel_indices(case.labels[box], plan), shape)
    whole = case.image.shape
    placement = Placement((whole[1], whole[2], whole[3]), box, case.reorientation)
    return WorkingCase(resampled, labels, placement)


def working_shape(
    shape: tuple[int, ...], spacing: Spacing, target: Spacing, *, num_channels: int = 1
) -> Size3:
    """Voxels of the working grid that covers the same millimeters.

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
    if (needed := 4 * voxels * num_channels) > memory_limit():
        raise DataError(
            f"{becomes}, {in_words(needed)} where this machine allows {in_words(memory_limit())}; "
            "check the spacing in the header, or cut the image"
        )
    return edges[0], edges[1], edges[2]


def normalize(channel: npt.NDArray[np.float32], rule: Normalization) -> npt.NDArray[np.float32]:
    """Scale one channel ``(i, j, k)``; a constant image becomes 0.

    Statistics are taken in float64 and z-scores end at what half precision holds, so that no
    intensity overflows.
    """
    if rule.scheme == "ct":
        clipped = channel.clip(rule.lower, rule.upper)
        return np.asarray((clipped - rule.mean) / rule.sd, dtype=np.float32)
    inside = channel[channel != 0]
    lowest, highest = (inside.min(), inside.max()) if inside.size else (0, 0)
    if lowest == highest:
        return np.zeros_like(channel)
    exponent = int(np.frexp(max(-lowest, highest))[1])
    if abs(exponent) > 100:  # differences may leave float32; a z-score knows no unit
        channel, inside = np.ldexp(channel, -exponent), np.ldexp(inside, -exponent)
    mean = float(inside.mean(dtype=np.float64))
    sd = float(inside.std(dtype=np.float64))
    scores = (channel - np.float32(mean)) / np.float32(sd)
    return np.clip(scores, -LARGEST, LARGEST, out=scores)


def preprocessing_key(plan: Plan) -> str:
    """Text that is equal for two plans exactly if they preprocess equally."""
    parts = plan.model_dump(mode="json", include={"spacing", "coarse_axis"})
    parts["labels"] = sorted(plan.labels)
    parts["channels"] = [
        rule.model_dump(mode="json", exclude={"name"}) if rule.scheme == "ct" else rule.scheme
        for rule in plan.channels
    ]
    parts["format"] = 2
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _separate_axis(case: CanonicalCase, plan: Plan) -> int | None:
    """The axis too coarse, in the case or in the plan, for third-order interpolation along it."""
    axis = coarse_axis(case.grid.spacing)
    return plan.coarse_axis if axis is None else axis


def _channel_indices(labels: LabelMap, plan: Plan) -> LabelMap:
    """Label values as stored -> logit channel indices ``0 .. L-1``."""
    values = np.asarray(sorted(plan.labels))
    present = np.unique(labels)
    strange = np.setdiff1d(present, values)
    if strange.size:
        counts = [f"{value} ({np.count_nonzero(labels == value)} voxels)" for value in strange[:10]]
        raise DataError(
            f"label value {', '.join(counts)} is not among {values.tolist()}; declare it in "
            "dataset.json or correct the label map"
        )
    if np.array_equal(values, np.arange(values.size)):
        return labels
    small = np.uint8 if values.size <= 256 else np.uint16
    return np.searchsorted(values, labels).astype(small)


def _mm(spacing: Spacing) -> str:
    return " x ".join(f"{edge:g}" for edge in spacing) + " mm"
