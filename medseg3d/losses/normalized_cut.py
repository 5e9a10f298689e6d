"""Soft normalized cut: a segmentation from the image alone, without labels."""

from itertools import product
from math import exp

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError, DataError
from medseg3d.losses import LOSSES
from medseg3d.losses.distances import halves, overlap_of
from medseg3d.losses.voxels import in_float32


@LOSSES.register(
    "soft_normalized_cut", paper="Xia and Kulis, W-Net, arXiv:1711.08506, 2017", target="image"
)
class SoftNormalizedCut(nn.Module):
    """``K - sum over k of (p_k' W p_k) / (p_k' W 1)`` of ``K`` soft segments.

    Two voxels nearer than ``radius`` are alike by
    ``exp(-|I_u - I_v|^2 / sigma_intensity^2) exp(-|u - v|^2 / sigma_distance^2)``, a voxel and
    itself by 1. The range is 0 to ``K - 1``, which even probabilities cost.

    Args:
        sigma_intensity: In the unit of the image; the paper has 10 for 8-bit images.
        sigma_distance: In voxels.
        radius: In voxels; 3 means 92 neighbors in a volume, the paper's 5 means 484.
        smooth: Added below the fractions.

    Shape:
        - logits: ``(B, K, *spatial)``
        - image: ``(B, C, *spatial)``, in place of a target
        - output: scalar, float32

    Raises:
        ConfigError: If an option is out of its range.

    References:
        Xia and Kulis, "W-Net", 2017. https://arxiv.org/abs/1711.08506
        Shi and Malik, IEEE TPAMI 22(8), 2000. https://doi.org/10.1109/34.868688
    """

    def __init__(
        self,
        *,
        sigma_intensity: float = 10.0,
        sigma_distance: float = 4.0,
        radius: int = 3,
        smooth: float = 1e-6,
    ) -> None:
        super().__init__()
        if not (min(sigma_intensity, sigma_distance) > 0 and radius >= 1):
            raise ConfigError(
                "soft_normalized_cut: both sigmas must be above 0 and radius at least 1, got "
                f"{sigma_intensity}, {sigma_distance} and {radius}"
            )
        self.sigma_intensity, self.sigma_distance = sigma_intensity, sigma_distance
        self.radius = radius
        self.smooth = smooth

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Loss of logits ``(B, K, *spatial)`` on an image ``(B, C, *spatial)``.

        Raises:
            DataError: If the image does not fit the logits.
        """
        if image.ndim != logits.ndim or image.shape[2:] != logits.shape[2:]:
            raise DataError(
                f"image has shape {tuple(image.shape)}, logits {tuple(logits.shape)}; expected "
                "the same batch and spatial axes"
            )
        segments = in_float32(logits).softmax(dim=1)
        image = image.to(segments.dtype)
        axes = tuple(range(2, logits.ndim))
        within = segments.square().sum(axes)  # each voxel with itself
        degree = segments.sum(axes)
        for offset in self._offsets(len(axes)):
            here, there = (
                (slice(None), slice(None), *slices)
                for slices in zip(
                    *(
                        overlap_of(n, step)
                        for n, step in zip(logits.shape[2:], offset, strict=True)
                    ),
                    strict=True,
                )
            )
            unlike = (image[here] - image[there]).square().sum(1, keepdim=True)
            near = exp(-sum(step**2 for step in offset) / self.sigma_distance**2)
            weight = near * torch.exp(-unlike / self.sigma_intensity**2)
            within = within + 2 * (weight * segments[here] * segments[there]).sum(axes)
            degree = degree + (weight * (segments[here] + segments[there])).sum(axes)
        shares = within / (degree + self.smooth)
        return (segments.shape[1] - shares.sum(1)).mean()

    def _offsets(self, num_axes: int) -> list[tuple[int, ...]]:
        steps = range(1 - self.radius, self.radius)
        near = [
            offset
            for offset in product(steps, repeat=num_axes)
            if sum(step**2 for step in offset) < self.radius**2
        ]
        return halves(near)
