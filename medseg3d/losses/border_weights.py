"""Cross entropy that weighs the gaps between touching objects, as in the first U-Net."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.case_maps import CutMaps, MappedLoss, Maps
from medseg3d.losses.cross_entropy import given_or_auto, weights_for
from medseg3d.losses.distances import checked_spacing, spacing_for, two_nearest
from medseg3d.losses.voxels import in_float32, log_probability, mean_over_known
from medseg3d.types import LabelMap

REACH = 6.0
"""Gaps wider than so many sigmas have no weight; it would be below 2e-8."""


@LOSSES.register(
    "border_weighted", paper="Ronneberger et al., MICCAI 2015, arXiv:1505.04597", by="distance"
)
class BorderWeighted(MappedLoss):
    """Cross entropy times ``w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))``.

    ``d1`` and ``d2`` are the distances to the nearest and the second nearest object, the
    connected components of each structure. The second term goes to the background only, and is
    0 where there are fewer than two objects.

    Args:
        weight: ``w_c``, one per label, background first; ``auto`` for ``frequency_weights`` of
            ``label_counts``; None for 1.
        gap_weight: ``w0``, at least 0.
        sigma: Width of the gaps, in the unit of the spacing, above 0.
        everywhere: Add the second term inside of the objects too, as the formula is printed.
        spacing: Voxel size along each spatial axis; None for 1.
        ignore_index: Label of voxels to leave out.
        label_counts: Voxels of each label in the training cases, background first.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32; the mean over the voxels that count

    Raises:
        ConfigError: If an option is out of its range.

    References:
        Ronneberger et al., MICCAI 2015. https://arxiv.org/abs/1505.04597
    """

    per_label = False

    def __init__(
        self,
        *,
        weight: Sequence[float] | Literal["auto"] | None = None,
        gap_weight: float = 10.0,
        sigma: float = 5.0,
        everywhere: bool = False,
        spacing: Sequence[float] | None = None,
        ignore_index: int | None = None,
        label_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not (gap_weight >= 0.0 and sigma > 0.0):
            raise ConfigError(
                "border_weighted: gap_weight must be at least 0 and sigma above 0, got "
                f"{gap_weight} and {sigma}"
            )
        self.weight = given_or_auto("border_weighted", weight, label_counts)
        self.gap_weight, self.sigma, self.everywhere = gap_weight, sigma, everywhere
        self.spacing = checked_spacing("border_weighted", spacing)
        self.ignore_index = ignore_index

    def map_facts(self) -> Mapping[str, Any]:
        """What the map depends on beside the labels."""
        return {
            "of": type(self).__name__,
            "sigma": self.sigma,
            "ignored": self.ignore_index,
            "spacing": self.spacing,
        }

    def make_maps(self, labels: LabelMap, num_labels: int) -> Maps:
        """How narrow the gap between two objects is, ``(1, *spatial)``, 0 to 1."""
        spacing = spacing_for("border_weighted", self.spacing, labels.ndim)
        labels = np.where((labels < num_labels) & (labels != self.ignore_index), labels, 0)
        nearest, second = two_nearest(labels, spacing, reach=REACH * self.sigma)
        gaps = np.exp(-((nearest + second) ** 2) / (2 * self.sigma**2))
        return gaps[None].astype(np.float32)

    def forward(self, logits: Tensor, target: Tensor, maps: CutMaps | None = None) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``.

        Args:
            logits: Of the labels.
            target: Labels.
            maps: Of the whole case, or else made of the labels.
        """
        losses = -log_probability(logits, target, self.ignore_index)
        weights = self.weights(logits, target, maps)
        return mean_over_known(losses * weights, target, self.ignore_index)

    @torch.no_grad()
    def weights(self, logits: Tensor, target: Tensor, maps: CutMaps | None = None) -> Tensor:
        """Weight of each voxel, ``(B, *spatial)``; see :meth:`forward`."""
        labels = target[:, 0].long()
        if self.ignore_index is not None:
            labels = labels.where(labels != self.ignore_index, torch.zeros_like(labels))
        by_label = weights_for("border_weighted", self.weight, in_float32(logits))
        gaps = self.gap_weight * self.maps_for(logits, target, maps)[:, 0]
        if not self.everywhere:
            gaps = gaps.where(labels == 0, torch.zeros_like(gaps))
        return gaps + (1.0 if by_label is None else by_label[labels])
