"""The plan: what was measured on the training cases and what was chosen from it.

The rules follow nnU-Net's published heuristics (Isensee et al., Nat. Methods 18, 2021,
https://doi.org/10.1038/s41592-020-01008-z) where they suit a machine without a large GPU.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from medseg3d.config import Options, read_yaml, to_yaml, validated
from medseg3d.data.fingerprint import AIR_HU, CaseFingerprint
from medseg3d.data.regions import numbered, refuse_regions
from medseg3d.data.sides import SAGITTAL, doubts, left_and_right
from medseg3d.data.sizes import Resources, choose_sizes, target_spacing
from medseg3d.data.slices import Slices, with_edge
from medseg3d.data.stages import size3
from medseg3d.errors import DataError
from medseg3d.geometry.grid import coarse_axis
from medseg3d.io import atomic
from medseg3d.types import Size3, Spacing

log = logging.getLogger("medseg3d")

Edges: TypeAlias = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Voxels: TypeAlias = tuple[PositiveInt, PositiveInt, PositiveInt]
"""A spacing and a shape as they may be written into a plan."""

PADDING_HU = -1024.0
"""No tissue is below; scanners fill what they do not see with less."""


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
    masks: bool = Field(
        False,
        description="Whether zeros count too in a zscore where all else is equal, as in masks.",
    )


class Plan(Options):
    """Measured facts and choices of a run; saved as YAML that may be edited and passed back."""

    version: Literal[1] = Field(1, description="Format of this file.")
    num_cases: int = Field(gt=0, description="Training cases that were measured.")
    labels: dict[int, str] = Field(
        description="Label values as stored, background first, and names."
    )
    ignore_label: int | None = Field(
        None,
        gt=0,
        description="Label value of voxels that nobody annotated; neither learned nor scored.",
    )
    ignore_is_free: bool = Field(
        False,
        description="Whether ignore_label stands for label maps that lack, and is in none.",
    )
    regions: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="Unions of labels by name, which are trained and scored in their stead.",
    )
    classes: tuple[str, ...] = Field(
        (), description="Classes of whole cases, which the network learns to tell apart."
    )
    channels: tuple[Normalization, ...] = Field(
        min_length=1, description="Channels in order, with their intensity normalization."
    )
    spacing: Edges = Field(description="Spacing of the working grid in mm, axes in RAS order.")
    coarse_axis: int | None = Field(
        description="Axis that is resampled on its own because it is so coarse, if any."
    )
    slice_axis: Literal[0, 1, 2] | None = Field(
        None,
        description="Axis across the slices that a network of two dimensions sees; none for a "
        "network of volumes.",
    )
    median_shape: Voxels = Field(description="Median shape of the cases on the working grid.")
    patch_size: Voxels = Field(description="Training patch and inference window in voxels.")
    batch_size: int = Field(gt=0, description="Patches per training step.")
    strides: tuple[Voxels, ...] = Field(
        description="Downsampling per axis entering each stage but the first."
    )
    kernels: tuple[Voxels, ...] = Field(description="Convolution kernel per axis in each stage.")
    width: int = Field(gt=0, description="Channels of the finest stage; doubled at each stage.")
    max_width: int = Field(gt=0, description="Upper limit of the channels.")
    mirror_axes: tuple[Literal[0, 1, 2], ...] = Field(
        (),
        description="Axes (0 left-right, 1 back-front, 2 foot-head) that patches are flipped "
        "along in training, and copies in predict --mirror.",
    )
    swapped_labels: dict[int, int] = Field(
        default_factory=dict,
        description="Left and right labels that change places when axis 0 is flipped.",
    )
    trained_spacing: tuple[Spacing, Spacing] | None = Field(
        None, description="Smallest and largest spacing of the training cases per axis in mm."
    )
    trained_extent: Spacing | None = Field(
        None, description="Smallest extent of the training cases per axis in mm, empty border cut."
    )
    trained_lows: tuple[tuple[float, float], ...] = Field(
        (),
        description="Per channel, between which intensities the training cases begin "
        "(0.5th percentiles).",
    )
    trained_highs: tuple[tuple[float, float], ...] = Field(
        (),
        description="Per channel, between which intensities the training cases end "
        "(99.5th percentiles).",
    )

    @field_validator("labels")
    @classmethod
    def _in_the_order_of_channels(cls, labels: dict[int, str]) -> dict[int, str]:
        return dict(sorted(labels.items()))

    @model_validator(mode="after")
    def _distinct_labels_and_pairs(self) -> "Plan":
        names = list(self.labels.values())
        if self.ignore_label in self.labels:
            raise ValueError(f"ignore_label {self.ignore_label} is among the labels")
        refuse_regions(self.regions, self.labels)
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"labels gives the name {twice[0]!r} to two values")
        if len(set(self.mirror_axes)) < len(self.mirror_axes):
            raise ValueError(f"mirror_axes {self.mirror_axes} has an axis twice")
        for value, partner in self.swapped_labels.items():
            wrong = [label for label in (value, partner) if label == 0 or label not in self.labels]
            if wrong:
                raise ValueError(f"swapped_labels has {wrong[0]}, which is no label of this plan")
            if self._partners()[value] != partner or self._partners()[partner] != value:
                raise ValueError(f"swapped_labels has {value} or {partner} in more than one pair")
        return self

    def _partners(self) -> dict[int, int]:
        """Pairs in both directions, whichever were written."""
        return {b: a for a, b in self.swapped_labels.items()} | self.swapped_labels

    @property
    def single_slices(self) -> int | None:
        """The axis across slices that are seen without their neighbors, if they are."""
        axis = self.slice_axis
        return axis if axis is not None and self.patch_size[axis] == 1 else None

    @property
    def window(self) -> Size3:
        """What is predicted at once: a patch; or so many slices as are half of a training step."""
        if (axis := self.single_slices) is None:
            return self.patch_size
        return with_edge(self.patch_size, axis, max(1, self.batch_size // 2))

    @property
    def foreground(self) -> dict[int, str]:
        """The labels without the background."""
        return {value: name for value, name in self.labels.items() if value != 0}

    @property
    def num_labels(self) -> int:
        """Logit channels ``L``, background included."""
        return len(self.labels)

    @property
    def ignore_index(self) -> int | None:
        """Channel index that stands for voxels that nobody annotated; it follows the labels'."""
        return None if self.ignore_label is None else self.num_labels

    @property
    def region_indices(self) -> tuple[tuple[int, ...], ...]:
        """Channel indices of the labels of each region."""
        values = sorted(self.labels)
        return tuple(tuple(map(values.index, region)) for region in self.regions.values())

    @property
    def region_numbers(self) -> dict[int, str]:
        """The regions by numbers that no label has, for tables."""
        return numbered(self.regions, self.labels)

    @property
    def scored(self) -> dict[int, str]:
        """What counts in a mean of scores: the regions if there are any, else the foreground."""
        return self.region_numbers or self.foreground

    def with_regions(self, regions: dict[str, tuple[int, ...]]) -> "Plan":
        """The plan with these regions, or unchanged if there are none.

        Raises:
            ConfigError: If they have labels that the plan does not, or do not tell them apart.
        """
        if not regions:
            return self
        return validated(Plan, self.model_dump() | {"regions": regions}, source="regions")

    def ignoring(self, value: int | None) -> "Plan":
        """The plan with this ``ignore_label``, or unchanged without.

        Raises:
            ConfigError: If it is a label of the plan.
        """
        if value is None:
            return self
        return validated(Plan, self.model_dump() | {"ignore_label": value}, source="ignore_label")

    def with_classes(self, names: tuple[str, ...]) -> "Plan":
        """The plan with these classes of whole cases."""
        if names == self.classes:
            return self
        return validated(Plan, self.model_dump() | {"classes": names}, source="classes")

    @property
    def mirrored_labels(self) -> tuple[int, ...]:
        """Logit channel that each logit channel becomes when the sagittal axis is flipped."""
        values = sorted(self.labels)
        partners = self._partners()
        return tuple(values.index(partners.get(value, value)) for value in values)

    def mirrored_along(self, axes: tuple[int, ...]) -> "Plan":
        """The plan with these ``mirror_axes``, or unchanged if there are none.

        Slices are flipped in their plane only. Pairs that it does not know are those of its names.

        Raises:
            ConfigError: If an axis does not exist.
        """
        axes = tuple(axis for axis in axes if axis != self.slice_axis)
        if not axes:
            return self
        pairs = self.swapped_labels or left_and_right(self.labels)
        facts = self.model_dump() | {"mirror_axes": axes, "swapped_labels": pairs}
        return validated(Plan, facts, source="augmentation")

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
    resources: Resources,
    spacing: Spacing | None = None,
    patch_size: Size3 | None = None,
    batch_size: int | None = None,
    width: int | None = None,
    mirror: bool = False,
    mirror_axes: tuple[int, ...] = (),
    slab: int | None = None,
) -> Plan:
    """Choose spacing, normalization, patch, batch, topology and mirroring from measured cases.

    Args:
        fingerprints: What was measured, one per training case.
        label_names: Label values and names, background (0) included.
        channel_names: One name per image channel.
        resources: What there is to train with.
        spacing: Fixed target spacing in mm instead of the measured one.
        patch_size: Fixed patch in voxels.
        batch_size: Fixed patches per step.
        width: Fixed channels of the finest stage.
        mirror: Whether to mirror along all axes that are safe.
        mirror_axes: Fixed axes to mirror along instead.
        slab: Slices across the largest spacing, or as single ones the cases themselves, that a
            network of two dimensions sees at once; None for a network of volumes.

    Raises:
        DataError: If no case has foreground.
        ConfigError: If the fixed patch does not have the slices that the network sees.
    """
    target, coarse = target_spacing([f.spacing for f in fingerprints])
    if spacing is not None:
        target, coarse = spacing, coarse_axis(spacing)
    median = _median_shape(fingerprints, target)
    slices = None if slab is None else Slices.across(median, target, slab)
    if slices and patch_size:
        slices.expect(patch_size)
    sizes = choose_sizes(
        median,
        target,
        num_cases=len(fingerprints),
        resources=resources,
        slices=slices,
        patch=patch_size,
        batch=batch_size,
        width=width,
    )
    channels = normalizations(fingerprints, channel_names)
    spacings = np.asarray([f.spacing for f in fingerprints])
    plan = Plan(
        num_cases=len(fingerprints),
        labels=label_names,
        channels=channels,
        spacing=target,
        coarse_axis=coarse,
        slice_axis=slices.axis if slices else None,
        median_shape=median,
        patch_size=sizes.patch,
        batch_size=sizes.batch,
        strides=sizes.strides,
        kernels=sizes.kernels,
        width=sizes.width,
        max_width=320,
        swapped_labels=left_and_right(label_names),
        trained_spacing=(_in_mm(spacings.min(axis=0)), _in_mm(spacings.max(axis=0))),
        trained_extent=_in_mm((np.asarray([f.shape for f in fingerprints]) * spacings).min(axis=0)),
        trained_lows=_between(fingerprints, channels, 0),
        trained_highs=_between(fingerprints, channels, 1),
    )
    return plan.mirrored_along(_mirror_axes(label_names, fingerprints, mirror, mirror_axes))


def _mirror_axes(
    names: dict[int, str],
    fingerprints: Sequence[CaseFingerprint],
    mirror: bool,
    chosen: tuple[int, ...],
) -> tuple[int, ...]:
    """The axes that were chosen or, if they are to be, all that are safe; says what comes of it."""
    axes = (0, 1, 2) if mirror else chosen
    if SAGITTAL in axes and (reasons := doubts(names, [f.sides for f in fingerprints])):
        shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" * (len(reasons) > 3))
        if mirror:
            axes = (1, 2)
            log.info("patches are not mirrored left to right, because sides differ: %s", shown)
        else:
            log.warning("patches are mirrored left to right although sides differ: %s", shown)
    pairs = [f"{names[a]} and {names[b]}" for a, b in left_and_right(names).items()]
    if SAGITTAL in axes and pairs:
        log.info("mirrored left to right, %s change places", ", ".join(pairs))
    return axes


def _between(
    fingerprints: Sequence[CaseFingerprint], channels: Sequence[Normalization], end: Literal[0, 1]
) -> tuple[tuple[float, float], ...]:
    """Per channel, smallest and largest of one end of the cases' intensities."""
    if any(len(f.extents) != len(channels) for f in fingerprints):
        return ()
    found = []
    for number, rule in enumerate(channels):
        ends = [f.extents[number][end] for f in fingerprints]
        if rule.scheme == "ct":
            ends = [max(value, PADDING_HU) for value in ends]
        found.append((float(f"{min(ends):.6g}"), float(f"{max(ends):.6g}")))
    return tuple(found)


def _in_mm(edges: npt.NDArray[np.float64]) -> Spacing:
    i, j, k = (round(float(edge), 4) for edge in edges)
    return i, j, k


def _median_shape(fingerprints: Sequence[CaseFingerprint], target: Spacing) -> Size3:
    shapes = [
        [round(n * s / t) for n, s, t in zip(f.shape, f.spacing, target, strict=True)]
        for f in fingerprints
    ]
    return size3(max(1, round(float(edge))) for edge in np.median(shapes, axis=0))


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
        if not is_ct and "mr" not in declared and _begin_at_air(fingerprints, channel):
            log.warning(
                "intensities of %s begin at %d or less, as those of CT, but are not all whole "
                "numbers, so each image is scaled by its own; name the channel CT if it is CT",
                *(name, AIR_HU),
            )
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
                masks=not is_ct,
            )
        )
    return tuple(rules)


def _begin_at_air(fingerprints: Sequence[CaseFingerprint], channel: int) -> bool:
    """Whether most cases have so low intensities in a part of their voxels that counts."""
    lows = [f.extents[channel][0] for f in fingerprints if f.extents]
    return sum(low <= AIR_HU for low in lows) > len(fingerprints) / 2
