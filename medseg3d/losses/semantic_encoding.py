"""Semantic encoding loss: which structures a patch shows."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medseg3d.errors import ConfigError, DataError
from medseg3d.losses import LOSSES


@LOSSES.register(
    "semantic_encoding", paper="Zhang et al., CVPR 2018, arXiv:1803.08904", target="presence"
)
class SemanticEncoding(nn.Module):
    """Binary cross entropy of what a patch is said to show against what its labels hold.

    Args:
        weight: Factor, at least 0.
        include_background: Whether the logits have one for label 0 too.

    Shape:
        - logits: ``(B, L)``, or ``(B, L - 1)`` without the background; not one per voxel
        - target: ``(B, 1, *spatial)`` integer labels; voxels of other values count nowhere
        - output: scalar, float32

    Raises:
        ConfigError: If the weight is negative.

    References:
        Zhang et al., "Context encoding for semantic segmentation", CVPR 2018.
        https://arxiv.org/abs/1803.08904
    """

    def __init__(self, *, weight: float = 0.2, include_background: bool = False) -> None:
        super().__init__()
        if not weight >= 0.0:
            raise ConfigError(f"semantic_encoding: weight must be at least 0, got {weight}")
        self.weight = weight
        self.include_background = include_background

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L)`` against labels ``(B, 1, *spatial)``.

        Raises:
            DataError: If there is not one row of logits per case.
        """
        if logits.ndim != 2 or len(logits) != len(target):
            raise DataError(
                f"presence logits have shape {tuple(logits.shape)}; expected ({len(target)}, L)"
            )
        first = 0 if self.include_background else 1
        labels = torch.arange(first, first + logits.shape[1], device=target.device)
        presence = (target.flatten(1)[..., None] == labels).any(1)
        values = logits if logits.dtype == torch.float64 else logits.float()
        return self.weight * F.binary_cross_entropy_with_logits(values, presence.to(values.dtype))
