"""Random changes of a training patch: drawn as plain values first, applied second.

Rotation, scaling and a smooth displacement are one pass over the output patch that samples
the source directly, without a grid in memory; image and labels move together. Everything else
is TorchIO's, or arithmetic on whole arrays. Kinds and probabilities follow nnU-Net [1]_, with
milder rotations and scales.

References:
    .. [1] Isensee et al., "nnU-Net: a self-configuring method for deep learning-based
       biomedical image segmentation", Nat. Methods 18, 2021, supplementary note 4.
       https://doi.org/10.1038/s41592-020-01008-z
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchio as tio

from medseg3d.config import AugmentationConfig
from medseg3d.data.intensity_steps import (
    Step,
    column,
    gamma_correction,
    image_of,
    on_image,
    seeded_noise,
    stretched,
    through_coarser_grid,
)
from medseg3d.data.sides import SAGITTAL
from medseg3d.data.stages import size3
from medseg3d.data.warping import Matrix, rotation_matrix, warp
from medseg3d.errors import ConfigError
from medseg3d.geometry.grid import coarse_axis, flat_axis
from medseg3d.types import Image, LabelMap, Size3, Spacing

USUAL = AugmentationConfig()
"""Where nothing else is said; the numbers are those of the options."""

CONTROL_POINTS = 6
"""Control points of the displacement along each axis."""

STRONGEST = 2.0
"""Factor by which changes grow at most in a long training."""

FEW_PATCHES = 5_000
"""Before so many a network knows too little for stronger changes, however few the cases are."""

NOISE = (0.02, 0.25)
"""Standard deviation in units of the normalized intensities."""

BLUR = (0.5, 1.0)
"""Standard deviation in voxels."""

BRIGHTNESS = CONTRAST = (0.75, 1.25)
GAMMA = (0.7, 1.5)
INVERTED_GAMMA = 0.25
COARSENESS = (1.0, 2.0)
"""Voxel size of the coarser grid, in voxels."""

Box = tuple[Size3, Size3]


@dataclass(frozen=True, eq=False, kw_only=True)
class Changes:
    """What happens to one patch; the default is nothing.

    Attributes:
        matrix: ``(3, 3)``, offset from the patch's center in voxels of the output to the
            offset in voxels of the source.
        displacement: ``(3, N, N, N)``, further offset in source voxels at control points
            that span the patch, linear between them.
        flips: Axes ``0, 1, 2`` to reverse.
        noise: Standard deviation and seed of Gaussian noise.
        blur: Standard deviation of a Gaussian blur per axis, in voxels.
        brightness: Factor per channel.
        contrast: Factor per channel on the distance from the mean; the range is kept.
        coarseness: Voxel size per axis of a coarser grid to go through, in voxels.
        gamma: Exponent per channel on intensities between 0 and 1; mean and standard
            deviation are kept.
        inverted: Whether gamma acts on the negative image.
    """

    matrix: Matrix | None = None
    displacement: npt.NDArray[np.float32] | None = None
    flips: tuple[int, ...] = ()
    noise: tuple[float, int] | None = None
    blur: tuple[float, float, float] | None = None
    brightness: tuple[float, ...] | None = None
    contrast: tuple[float, ...] | None = None
    coarseness: tuple[float, float, float] | None = None
    gamma: tuple[float, ...] | None = None
    inverted: bool = False

    @property
    def moves(self) -> bool:
        """Whether the patch is sampled between voxels."""
        return self.matrix is not None or self.displacement is not None

    def source_box(self, start: Sequence[int], size: Size3, shape: Size3) -> Box:
        """The part of the volume that the patch is made from.

        Args:
            start: First voxel of the unchanged patch in the volume; may lie outside.
            size: Patch size.
            shape: Shape of the volume.

        Returns:
            First voxel and size of a box inside the volume if the patch is resampled, which
            takes what lies beyond as empty; otherwise the patch itself.
        """
        if not self.moves:
            return size3(start), size
        half = (np.array(size) - 1) / 2
        reach = half if self.matrix is None else np.abs(self.matrix) @ half
        if self.displacement is not None:
            reach = reach + np.abs(self.displacement).max(axis=(1, 2, 3))
        center = np.array(start) + half
        first = np.clip(np.floor(center - reach).astype(int), 0, np.array(shape) - 1)
        last = np.clip(np.ceil(center + reach).astype(int) + 1, first + 1, shape)
        return size3(first), size3(last - first)

    def carry(
        self,
        maps: Image,
        *,
        size: Size3,
        offset: Sequence[int] | npt.NDArray[Any] = (0, 0, 0),
        mirrored: Sequence[int] = (),
    ) -> Image:
        """Maps that belong to the patch, moved as its voxels are; the values stay.

        Args:
            maps: Source ``(M, I, J, K)``; see :meth:`Augmentation.apply`.
            size: Patch size.
            offset: First voxel of the unchanged patch within the source.
            mirrored: Which map takes the place of each when the sagittal axis is reversed; empty
                if all stay.

        Returns:
            ``(M, *size)``.
        """
        if self.moves:
            no_labels = np.zeros(maps.shape[1:], dtype=np.uint8)
            maps, _ = warp(
                maps, no_labels, self.matrix, self.displacement, size=size, offset=offset
            )
        if SAGITTAL in self.flips and mirrored:
            maps = maps[list(mirrored)]
        return np.flip(maps, tuple(axis + 1 for axis in self.flips)).copy()


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which random changes a training patch may undergo, and how often.

    Factors are drawn evenly on the logarithmic scale, so that halving is as likely as doubling.

    Attributes:
        spacing: Voxel size in mm; rotations are rotations in mm. If one axis is more than three
            times coarser than the finest, or else a patch extends less than a third as far along
            it as along another, patches are rotated, scaled and bent in its plane only.
        slice_axis: Axis across slices that a network of two dimensions sees: patches are rotated,
            scaled, bent, blurred and coarsened in its plane only.
        mirror_axes: Axes that are reversed, each with probability 1/2.
        mirrored_labels: For each label from 0 to ``L - 1``, the one that it becomes when the
            sagittal axis is reversed; empty if all stay.
        rotation_degrees: Largest angle about each axis.
        scale: Size of objects after over before, smallest and largest.
        affine_probability: Share of patches that are rotated and scaled.
        elastic_probability: Share of patches that are smoothly displaced.
        elastic_fraction: Largest displacement, as a share of the patch along each axis.
        intensity_probability: Share of patches for each of noise, blur, brightness, contrast,
            a coarser grid and gamma.
        stronger_after: Number of times that all voxels were seen from which on changes grow; see
            :meth:`after`. 0: they never do.

    Raises:
        ConfigError: If a probability leaves [0, 1], an axis does not exist, the scale is not a
            range of positive numbers, the displacement could fold the patch or labels do not
            change places in pairs.
    """

    spacing: Spacing = (1.0, 1.0, 1.0)
    slice_axis: int | None = None
    mirror_axes: tuple[int, ...] = USUAL.mirror_axes
    mirrored_labels: tuple[int, ...] = ()
    rotation_degrees: float = USUAL.rotation_degrees
    scale: tuple[float, float] = USUAL.scale
    affine_probability: float = USUAL.affine_probability
    elastic_probability: float = USUAL.elastic_probability
    elastic_fraction: float = USUAL.elastic_fraction
    intensity_probability: float = USUAL.intensity_probability
    stronger_after: float = USUAL.stronger_after

    def __post_init__(self) -> None:
        for name in ("affine_probability", "elastic_probability", "intensity_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"augmentation: {name} is {getattr(self, name)}; choose 0 (never) to 1 (always)"
                )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"augmentation: scale is {self.scale}, expected two positive factors, "
                "the smaller first, such as (0.8, 1.25)"
            )
        if sorted(set(self.mirror_axes) & {0, 1, 2}) != sorted(self.mirror_axes):
            raise ConfigError(
                f"augmentation: mirror_axes is {self.mirror_axes}; choose among 0, 1 and 2, "
                "each once"
            )
        labels = self.mirrored_labels
        if labels and not is_mirroring(labels):
            raise ConfigError(
                f"augmentation: mirrored_labels is {labels}; labels from 0 on must change places "
                "in pairs, such as (0, 2, 1)"
            )
        # Neighboring control points may move towards each other by twice the largest.
        limit = 0.5 / (CONTROL_POINTS - 1)
        if not 0 <= self.elastic_fraction < limit:
            raise ConfigError(
                f"augmentation: elastic_fraction is {self.elastic_fraction}; choose 0 to less "
                f"than {limit}, where patches would fold"
            )

    def still_axis(self, size: Size3) -> int | None:
        """The axis that rotations, scaling and displacement of such patches leave alone, if any."""
        if self.slice_axis is not None:
            return self.slice_axis
        axis = coarse_axis(self.spacing)
        return flat_axis(size, self.spacing) if axis is None else axis

    def after(self, patches: int, *, times: float) -> Augmentation:
        """The augmentation once so many patches were seen.

        Angles, the logarithm of the scale and probabilities grow in proportion to
        ``times / stronger_after``, or to ``patches / FEW_PATCHES`` if that is less, from 1 to
        :data:`STRONGEST`, within what they may be.

        Args:
            patches: Of all training cases.
            times: How many times these have shown each voxel.
        """
        if not self.stronger_after:
            return self
        factor = min(times / self.stronger_after, patches / FEW_PATCHES, STRONGEST)
        if factor <= 1:
            return self
        return replace(
            self,
            rotation_degrees=min(self.rotation_degrees * factor, 180.0),
            scale=(self.scale[0] ** factor, self.scale[1] ** factor),
            affine_probability=min(self.affine_probability * factor, 1.0),
            elastic_probability=min(self.elastic_probability * factor, 1.0),
            intensity_probability=min(self.intensity_probability * factor, 1.0),
        )

    def draw(self, generator: np.random.Generator, size: Size3, num_channels: int = 1) -> Changes:
        """Draw the changes of one patch of that size."""

        def happens(probability: float) -> bool:
            return bool(generator.random() < probability)

        def factors(limits: tuple[float, float]) -> tuple[float, ...]:
            return tuple(log_uniform(generator, limits, num_channels).tolist())

        def per_axis(limits: tuple[float, float], none: float) -> tuple[float, float, float]:
            values = generator.uniform(*limits, 3).tolist()
            if self.slice_axis is not None:
                values[self.slice_axis] = none
            first, second, third = values
            return first, second, third

        drawn: dict[str, Any] = {
            "flips": tuple(axis for axis in self.mirror_axes if happens(0.5)),
        }
        if happens(self.affine_probability):
            drawn["matrix"] = self._matrix(generator, size)
        if happens(self.elastic_probability):
            drawn["displacement"] = self._displacement(generator, size)
        often = self.intensity_probability
        if happens(often):
            drawn["noise"] = (float(generator.uniform(*NOISE)), int(generator.integers(2**31)))
        if happens(often):
            drawn["blur"] = per_axis(BLUR, 0.0)
        if happens(often):
            drawn["brightness"] = factors(BRIGHTNESS)
        if happens(often):
            drawn["contrast"] = factors(CONTRAST)
        if happens(often):
            drawn["coarseness"] = per_axis(COARSENESS, 1.0)
        if happens(often):
            drawn["gamma"] = factors(GAMMA)
            drawn["inverted"] = happens(INVERTED_GAMMA)
        return Changes(**drawn)

    def apply(
        self,
        image: Image,
        labels: LabelMap,
        changes: Changes,
        *,
        size: Size3 | None = None,
        offset: Sequence[int] | npt.NDArray[Any] = (0, 0, 0),
    ) -> tuple[Image, LabelMap]:
        """Make the changed patch.

        Args:
            image: Source ``(C, I, J, K)``: the patch itself or, if the changes move voxels,
                any region around it; what lies beyond is 0.
            labels: Labels ``(I, J, K)`` of the same region.
            changes: What :meth:`draw` returned.
            size: Patch size, by default that of the source.
            offset: First voxel of the unchanged patch within the source.

        Returns:
            Image ``(C, *size)`` and labels ``size``.
        """
        if changes.moves:
            image, labels = warp(
                image,
                labels,
                changes.matrix,
                changes.displacement,
                size=size or size3(labels.shape),
                offset=offset,
            )
        if SAGITTAL in changes.flips and self.mirrored_labels:
            labels = np.asarray(self.mirrored_labels).astype(labels.dtype)[labels]
        steps = steps_in_order(changes, labels.shape)
        if not steps:
            return image, labels
        subject = patch_subject(image, labels)
        # TorchIO draws from the global generator even when nothing is left to chance.
        with torch.random.fork_rng(devices=[]):
            for step in steps:
                subject = step(subject)
        moved = subject.get_image("labels").numpy()[0]
        return subject.get_image("image").numpy(), moved.astype(labels.dtype, copy=False)

    def _matrix(self, generator: np.random.Generator, size: Size3) -> Matrix:
        largest = np.deg2rad(self.rotation_degrees)
        angles = generator.uniform(-largest, largest, 3)
        shrink = np.full(3, 1 / log_uniform(generator, self.scale))
        if (still := self.still_axis(size)) is not None:
            angles[np.arange(3) != still] = 0
            shrink[still] = 1
        spacing = np.array(self.spacing)
        matrix: Matrix = rotation_matrix(angles) * spacing / spacing[:, None] * shrink
        return matrix

    def _displacement(self, generator: np.random.Generator, size: Size3) -> npt.NDArray[np.float32]:
        largest = generator.uniform(0, self.elastic_fraction) * np.array(size)
        if (still := self.still_axis(size)) is not None:
            largest[still] = 0
        field = generator.uniform(-1, 1, (3, *(CONTROL_POINTS,) * 3)) * largest[:, None, None, None]
        return np.asarray(field, dtype=np.float32)


def patch_subject(image: Image, labels: LabelMap, **facts: Any) -> tio.Subject:
    """A TorchIO subject of ``image`` ``(C, I, J, K)``, ``labels`` ``(1, I, J, K)`` and facts."""
    label_map = tio.LabelMap(tensor=labels[None])  # type: ignore[no-untyped-call]
    return tio.Subject(image=image_of(torch.from_numpy(image)), labels=label_map, **facts)


def is_mirroring(labels: Sequence[int]) -> bool:
    """Whether labels from 0 on change places in pairs, background staying.

    Examples:
        >>> is_mirroring((0, 2, 1, 3)), is_mirroring((0, 2, 3, 1)), is_mirroring((1, 0))
        (True, False, False)
    """
    places = range(len(labels))
    return (
        sorted(labels) == [*places]
        and [labels[label] for label in labels] == [*places]
        and labels[0] == 0
    )


def log_uniform(
    generator: np.random.Generator, limits: tuple[float, float], count: int = 1
) -> npt.NDArray[np.float64]:
    """Numbers between two positive limits, even on the logarithmic scale."""
    return np.exp(generator.uniform(math.log(limits[0]), math.log(limits[1]), count))


def steps_in_order(changes: Changes, size: Sequence[int]) -> list[Step]:
    """The changes other than resampling, as steps to take in turn on a patch of that size."""
    steps: list[Step] = []
    if changes.noise is not None:
        std, seed = changes.noise
        steps.append(on_image(lambda image: image + std * seeded_noise(image.shape, seed)))
    if changes.blur is not None:
        steps.append(tio.Blur(changes.blur, copy=False))
    if changes.brightness is not None:
        brightness = column(changes.brightness)
        steps.append(on_image(lambda image: image * brightness))
    if changes.contrast is not None:
        contrast = column(changes.contrast)
        steps.append(on_image(lambda image: stretched(image, contrast)))
    if changes.coarseness is not None:
        steps.append(through_coarser_grid(changes.coarseness))
    if changes.gamma is not None:
        steps.append(on_image(gamma_correction(changes.gamma, inverted=changes.inverted)))
    # Reversing a single voxel leaves a negative stride, which torch refuses.
    flips = tuple(axis for axis in changes.flips if size[axis] > 1)
    if flips:
        steps.append(tio.Flip(flips, copy=False))  # type: ignore[no-untyped-call]
    return steps
