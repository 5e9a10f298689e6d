"""The plan: what was measured on the training cases and what was chosen from it.

The rules follow nnU-Net's published heuristics (Isensee et al., Nat. Methods 18, 2021,
https://doi.org/10.1038/s41592-020-01008-z) where they suit a machine without a large GPU.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medseg3d.config import Options, read_yaml, to_yaml, validated
from medseg3d.data.fingerprint import CaseFingerprint
from medseg3d.errors import DataError
from medseg3d.geometry.grid import coarse_axis
from medseg3d.io import atomic
from medseg3d.types import Size3, Spacing

SMALLEST_FEATURE_MAP = 4
"""No stage has fewer voxels along an axis than this."""

BYTES_PER_VOXEL = 2000
"""Training memory per patch voxel of a 32-channel network in half precision, measured."""

CPU_VOXELS_PER_STEP = 262_144
"""On a CPU, time and not memory limits a step: about 1.3 s on two cores."""

LARGEST_BATCH_SHARE = 0.05
"""A batch holds at most this part of the training voxels, so that batches differ."""

MAX_STAGES = 6


class Normalization(Options):
    """How one channel's intensities become network input."""

    name: str = Field(description="Channel name.")
    scheme: Literal["ct", "zscore"] = Field(
        description="ct: clip, then the set's mean and sd; zscore: each case's own, non-zero part."
    )
    lower: float = Field(description="0.5th percentile of foreground intensities.")
    upper: float = Field(description="99.5th percentile of foreground intensities.")
    mean: float = Field(description="Mean of the clipped foreground intensities of the set.")
    sd: float = Field(gt=0, description="Standard deviation of the same.")


class Plan(Options):
    """Measured facts and choices of a run; saved as YAML that may be edited and passed back."""

    version: Literal[1] = Field(1, description="Format of this file.")
    num_cases: int = Field(gt=0, description="Training cases that were measured.")
    labels: dict[int, str] = Field(
        description="Label values as stored, background first, and names."
    )
    channels: tuple[Normalization, ...] = Field(
        min_length=1, description="Channels in order, with their intensity normalization."
    )
    spacing: Spacing = Field(description="Spacing of the working grid in mm, axes in RAS order.")
    coarse_axis: int | None = Field(
        description="Axis that is resampled on its own because it is so coarse, if any."
    )
    median_shape: Size3 = Field(description="Median shape of the cases on the working grid.")
    patch_size: Size3 = Field(description="Training patch and inference window in voxels.")
    batch_size: int = Field(gt=0, description="Patches per training step.")
    strides: tuple[Size3, ...] = Field(
        description="Downsampling per axis entering each stage but the first."
    )
    kernels: tuple[Size3, ...] = Field(description="Convolution kernel per axis in each stage.")
    width: int = Field(gt=0, description="Channels of the finest stage; doubled at each stage.")
    max_width: int = Field(gt=0, description="Upper limit of the channels.")

    @property
    def num_labels(self) -> int:
        """Logit channels ``L``, background included."""
        return len(self.labels)

    def save(self, path: Path) -> None:
        """Write as commented YAML."""
        with atomic(path) as partial:
            text = to_yaml(self, title="medseg3d plan; edit and pass back with --set plan=")
            partial.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan, perhaps edited by hand.

        Raises:
            ConfigError: If the file cannot be read or a value does not fit.
        """
        return validated(cls, read_yaml(path), source=str(path))


def make_plan(
    fingerprints: Sequence[CaseFingerprint],
    *,
    label_names: dict[int, str],
    channel_names: Sequence[str],
    on_gpu: bool,
    memory_gb: float,
    spacing: Spacing | None = None,
    patch_size: Size3 | None = None,
    batch_size: int | None = None,
    width: int | None = None,
) -> Plan:
    """Choose spacing, normalization, patch, batch and topology from measured cases.

    Args:
        fingerprints: What was measured, one per training case.
        label_names: Label values and names, background (0) included.
        channel_names: One name per image channel.
        on_gpu: Whether memory (GPU) or time (CPU) limits a step.
        memory_gb: Memory that training may take.
        spacing: Fixed target spacing in mm instead of the measured one.
        patch_size: Fixed patch in voxels.
        batch_size: Fixed patches per step.
        width: Fixed channels of the finest stage.

    Raises:
        DataError: If no case has foreground.
    """
    target, coarse = target_spacing([f.spacing for f in fingerprints])
    if spacing is not None:
        target, coarse = spacing, coarse_axis(spacing)
    median = _median_shape(fingerprints, target)
    width = width or 32
    voxels = int(memory_gb * 1e9 / BYTES_PER_VOXEL * 32 / width)
    if not on_gpu:
        voxels = min(voxels, CPU_VOXELS_PER_STEP * 32 // width)
    patch = patch_size or fit_patch(median, target, voxels // (batch_size or 2))
    strides, kernels = topology(patch, target)
    divisor = [prod(axis) for axis in zip(*strides, strict=True)] if strides else [1, 1, 1]
    patch = _size3(-(-edge // d) * d for edge, d in zip(patch, divisor, strict=True))
    if batch_size is None:
        cases_per_batch = LARGEST_BATCH_SHARE * len(fingerprints) * prod(median) / prod(patch)
        batch_size = max(2, min(voxels // prod(patch), int(cases_per_batch)))
    return Plan(
        num_cases=len(fingerprints),
        labels=label_names,
        channels=normalizations(fingerprints, channel_names),
        spacing=target,
        coarse_axis=coarse,
        median_shape=median,
        patch_size=patch,
        batch_size=batch_size,
        strides=strides,
        kernels=kernels,
        width=width,
        max_width=320,
    )


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


def _median_shape(fingerprints: Sequence[CaseFingerprint], target: Spacing) -> Size3:
    shapes = [
        [round(n * s / t) for n, s, t in zip(f.shape, f.spacing, target, strict=True)]
        for f in fingerprints
    ]
    return _size3(max(1, round(float(edge))) for edge in np.median(shapes, axis=0))


def fit_patch(median_shape: Size3, spacing: Spacing, voxels: int) -> Size3:
    """Largest patch of at most ``voxels`` voxels: a cube in mm, cut to the median case.

    Where the cube is cut, the other axes grow in its stead.

    Examples:
        >>> fit_patch((36, 50, 35), (1.0, 1.0, 1.0), 131_072)
        (36, 50, 35)
        >>> fit_patch((500, 500, 400), (1.0, 1.0, 1.0), 64**3)
        (64, 64, 64)
        >>> fit_patch((500, 500, 20), (1.0, 1.0, 5.0), 64**3)
        (114, 114, 20)
    """
    if prod(median_shape) <= voxels:
        return median_shape
    shape = np.asarray(median_shape, dtype=np.float64)
    edges = 1 / np.asarray(spacing)
    free = np.ones(3, dtype=bool)
    for _ in range(3):
        room = voxels / prod(shape[~free])
        scale = (room / prod(edges[free])) ** (1 / free.sum())
        patch = np.where(free, edges * scale, shape)
        cut = free & (patch >= shape)
        if not cut.any():
            break
        free &= ~cut
    return _size3(max(1, int(edge + 1e-6)) for edge in np.minimum(patch, shape))


def topology(patch: Size3, spacing: Spacing) -> tuple[tuple[Size3, ...], tuple[Size3, ...]]:
    """Strides and kernels that halve fine axes first until the voxels are nearly cubes.

    Returns:
        Strides entering each stage but the first, and one kernel per stage.

    Examples:
        >>> topology((40, 56, 40), (1.0, 1.0, 1.0))[0]
        ((2, 2, 2), (2, 2, 2), (2, 2, 2))
        >>> strides, kernels = topology((128, 128, 16), (1.0, 1.0, 5.0))
        >>> strides
        ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1))
        >>> kernels[:3]
        ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    """
    edges = np.asarray(patch, dtype=np.float64)
    size = np.asarray(spacing, dtype=np.float64)
    strides: list[Size3] = []
    kernels: list[Size3] = [_kernel(size)]
    while len(kernels) < MAX_STAGES:
        possible = edges >= 2 * SMALLEST_FEATURE_MAP
        if not possible.any():
            break
        halved = possible & (size < 2 * size[possible].min())
        stride = np.where(halved, 2, 1)
        edges, size = np.ceil(edges / stride), size * stride
        strides.append(_size3(stride))
        kernels.append(_kernel(size))
    return tuple(strides), tuple(kernels)


def _kernel(spacing: np.ndarray) -> Size3:
    return _size3(3 if edge <= 2 * spacing.min() else 1 for edge in spacing)


def normalizations(
    fingerprints: Sequence[CaseFingerprint], channel_names: Sequence[str]
) -> tuple[Normalization, ...]:
    """One rule per channel: CT when the dataset or the Hounsfield range says so.

    Raises:
        DataError: If no case has foreground voxels.
    """
    rules = []
    for channel, name in enumerate(channel_names):
        sample = np.concatenate([f.foreground[channel] for f in fingerprints]).astype(np.float64)
        if sample.size == 0:
            raise DataError(
                "no training case has a labelled voxel, so there is nothing to learn; "
                "check that the label maps are the right files"
            )
        declared = name.strip().lower()
        looks_like_ct = sum(f.looks_like_ct[channel] for f in fingerprints) > len(fingerprints) / 2
        is_ct = declared == "ct" or (looks_like_ct and "mr" not in declared)
        lower, upper = np.percentile(sample, [0.5, 99.5])
        clipped = sample.clip(lower, upper)
        rules.append(
            Normalization(
                name=name,
                scheme="ct" if is_ct else "zscore",
                lower=round(float(lower), 4),
                upper=round(float(upper), 4),
                mean=round(float(clipped.mean()), 4),
                sd=round(max(float(clipped.std()), 1e-4), 4),
            )
        )
    return tuple(rules)


def _size3(values: object) -> Size3:
    first, second, third = (int(value) for value in values)  # type: ignore[attr-defined]
    return first, second, third
