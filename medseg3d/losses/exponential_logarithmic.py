"""Exponential logarithmic loss: Dice and cross entropy for structures of unlike sizes."""

from typing import Any

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.pooling import sums_over_processes
from medseg3d.losses.region import Dice, Regions
from medseg3d.losses.voxels import known_voxels, log_probability, mean_over_known, power


class LogarithmicDice(Dice):
    """``(-log Dice) ** gamma`` of each label, then averaged."""

    def __init__(self, gamma: float, **options: Any) -> None:
        super().__init__(**options)
        self.gamma = gamma

    def per_label(self, regions: Regions) -> Tensor:
        """``(-log Dice) ** gamma`` of each label."""
        costs = super().per_label(regions).clamp(0, 1 - 1e-7)
        return power(-torch.log1p(-costs), self.gamma)


@LOSSES.register("exponential_logarithmic", paper="Wong et al., MICCAI 2018, arXiv:1809.00076")
class ExponentialLogarithmic(nn.Module):
    """Weighted sum of ``(-log Dice) ** gamma`` and of cross entropies to the power ``gamma``.

    Each voxel's cross entropy weighs the root of ``N / N_label``, counted in the batch, that of all
    processes where several train.

    Args:
        gamma: Exponent of both parts, above 0.
        dice_weight: Weight of the Dice part.
        cross_entropy_weight: Weight of the other part.
        include_background: Average label 0 into the Dice part too.
        batch: Pool the batch in the Dice part.
        smooth: Smoothing of the Dice part.
        ignore_index: Label of voxels to leave out of both parts.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If ``gamma`` is not above 0.

    References:
        Wong et al., MICCAI 2018. https://arxiv.org/abs/1809.00076
    """

    def __init__(
        self,
        *,
        gamma: float = 0.3,
        dice_weight: float = 0.8,
        cross_entropy_weight: float = 0.2,
        include_background: bool = False,
        batch: bool = False,
        smooth: float = 1e-5,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not gamma > 0.0:
            raise ConfigError(f"exponential_logarithmic: gamma must be above 0, got {gamma}")
        self.gamma = gamma
        self.dice_weight, self.cross_entropy_weight = dice_weight, cross_entropy_weight
        self.ignore_index = ignore_index
        self.over_processes = False  # see losses.pooling
        self.dice = LogarithmicDice(
            gamma,
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ignore_index=ignore_index,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        entropy = power(-log_probability(logits, target, self.ignore_index), self.gamma)
        weighted = entropy * self._weights(logits, target)
        dice: Tensor = self.dice(logits, target)
        voxels = mean_over_known(weighted, target, self.ignore_index)
        return self.dice_weight * dice + self.cross_entropy_weight * voxels

    def _weights(self, logits: Tensor, target: Tensor) -> Tensor:
        labels = target[:, 0].long()
        known = known_voxels(labels, self.ignore_index)
        counted = labels if known is None else labels[known]
        counts = torch.bincount(counted.flatten(), minlength=logits.shape[1])
        if self.over_processes:
            (counts,) = sums_over_processes([counts])
        roots = (counts.sum() / counts.clamp_min(1)).sqrt()
        weights = roots[labels if known is None else labels.where(known, labels * 0)]
        return weights.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
