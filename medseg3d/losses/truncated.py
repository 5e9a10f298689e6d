"""Cross entropy that hopeless voxels cannot dominate."""

import math

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.voxels import log_probability, mean_over_known


@LOSSES.register("smooth_truncated", paper="Zhou et al., CIA-Net, IPMI 2019, arXiv:1903.05358")
class SmoothTruncated(nn.Module):
    """Cross entropy, bounded for voxels whose label has a probability below ``gamma``.

    With the probability ``p`` of a voxel's label::

        -log p                                  p > gamma
        -log gamma + (1 - (p / gamma)^2) / 2    else

    Value and slope agree at ``gamma``; at 0 the loss is finite and flat, so that voxels with a
    wrong label, or beyond hope, have little say. A network that begins with them learns slowly.

    Args:
        gamma: In (0, 1).
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32; the mean over the voxels that count

    Raises:
        ConfigError: If ``gamma`` is not in (0, 1).

    References:
        Zhou et al., "CIA-Net", IPMI 2019. https://arxiv.org/abs/1903.05358

    Examples:
        >>> logits = torch.tensor([[[0.5, 0.1], [0.5, 0.9]]]).log()
        >>> loss = SmoothTruncated(gamma=0.2)(logits, torch.tensor([[[0, 0]]]))
        >>> round(loss.item(), 6)  # (log 2 + log 5 + (1 - 0.25) / 2) / 2
        1.338793
    """

    def __init__(self, *, gamma: float = 0.2, ignore_index: int | None = None) -> None:
        super().__init__()
        if not 0.0 < gamma < 1.0:
            raise ConfigError(f"smooth_truncated: gamma must lie in (0, 1), got {gamma}")
        self.gamma = gamma
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        log_p = log_probability(logits, target, self.ignore_index)
        bounded = (1 - (log_p.exp() / self.gamma).square()) / 2 - math.log(self.gamma)
        losses = torch.where(log_p > math.log(self.gamma), -log_p, bounded)
        return mean_over_known(losses, target, self.ignore_index)
