"""Cross entropy, voxel by voxel."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.voxels import check_target, in_float32

NOTHING_IGNORED = -100
"""A label that no voxel has; what torch expects if none is to be ignored."""


@LOSSES.register("cross_entropy", paper="Szegedy et al., CVPR 2016, arXiv:1512.00567")
class CrossEntropy(nn.Module):
    """Mean over voxels of ``-log p`` of their label, with optional label smoothing.

    A batch whose voxels are all ignored gives 0 with zero gradients, not ``nan``.

    Args:
        label_smoothing: Share of each voxel's weight spread evenly over all labels, in [0, 1).
        ignore_index: Label of voxels to leave out of the mean.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If ``label_smoothing`` is not in [0, 1).

    References:
        Label smoothing: Szegedy et al., CVPR 2016. https://arxiv.org/abs/1512.00567
    """

    def __init__(self, *, label_smoothing: float = 0.0, ignore_index: int | None = None) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(
                f"cross_entropy: label_smoothing must lie in [0, 1), got {label_smoothing}"
            )
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        check_target(logits, target)
        total = F.cross_entropy(
            in_float32(logits),
            target[:, 0].long(),
            reduction="sum",
            label_smoothing=self.label_smoothing,
            ignore_index=NOTHING_IGNORED if self.ignore_index is None else self.ignore_index,
        )
        if self.ignore_index is None:
            return total / target.numel()
        return total / (target != self.ignore_index).sum().clamp_min(1)
