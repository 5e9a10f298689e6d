"""Changes of a patch's intensities as steps on a TorchIO subject, and nothing left to chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torchio as tio

Step = Callable[[tio.Subject], tio.Subject]


def on_image(function: Callable[[torch.Tensor], torch.Tensor]) -> Step:
    """A step that changes the intensities of a subject and nothing else."""

    def step(subject: tio.Subject) -> tio.Subject:
        image = subject.get_image("image")
        image.set_data(function(image.data))
        return subject

    return step


def seeded_noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Standard normal noise from a generator of its own.

    TorchIO's noise seeds the global generators, those of the accelerators too, on which the
    network's dropout depends.
    """
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def column(values: Sequence[float]) -> torch.Tensor:
    """One value per channel ``(C, 1, 1, 1)``."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]


def stretched(image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Distances from each channel's mean times a factor, within the former range."""
    axes = (1, 2, 3)
    mean = image.mean(axes, keepdim=True)
    lowest, highest = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    return ((image - mean) * factor + mean).clamp(lowest, highest)


def gamma_correction(
    gamma: Sequence[float], *, inverted: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """TorchIO's gamma on intensities between 0 and 1; keeps each channel's mean and deviation."""
    power = tio.Gamma(list(gamma), copy=False)
    sign = -1 if inverted else 1

    def correct(image: torch.Tensor) -> torch.Tensor:
        axes = (1, 2, 3)
        image = sign * image
        lowest, highest = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
        # A patch of air is constant; any positive range leaves it so.
        corrected = power((image - lowest) / (highest - lowest).clamp_min(1e-6))
        std, mean = torch.std_mean(image, axes, correction=0, keepdim=True)
        std_now, mean_now = torch.std_mean(corrected, axes, correction=0, keepdim=True)
        return sign * ((corrected - mean_now) * (std / std_now.clamp_min(1e-6)) + mean)

    return correct


def through_coarser_grid(voxel_size: tuple[float, float, float]) -> Step:
    """A step to a coarser grid (nearest voxel) and back (linear), for the image only."""

    def step(subject: tio.Subject) -> tio.Subject:
        image = subject.get_image("image")
        # An axis of few voxels would lose all but one.
        size_i, size_j, size_k = (
            min(size, max(1.0, length / 2))
            for size, length in zip(voxel_size, image.spatial_shape, strict=True)
        )
        there = tio.Resample((size_i, size_j, size_k), image_interpolation="nearest", copy=False)
        back = tio.Resample(
            (image.spatial_shape, np.eye(4)), image_interpolation="linear", copy=False
        )
        image.set_data(back(there(image_of(image.data))).data)
        return subject

    return step


def image_of(tensor: torch.Tensor) -> tio.ScalarImage:
    """A TorchIO image of ``(C, I, J, K)`` intensities, its voxels as long as wide."""
    return tio.ScalarImage(tensor=tensor)  # type: ignore[no-untyped-call]
