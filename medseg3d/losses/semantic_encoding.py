"""Semantic encoding loss: which structures a patch shows."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medseg3d.errors import ConfigError, DataError
from medseg3d.losses import LOSSES
from medseg3d.losses.voxels import check_target, in_float32, known_voxels


@LOSSES.register(
    "semantic_encoding", paper="Zhang et al., CVPR 2018, arXiv:1803.08904", target="presence"
)
class SemanticEncoding(nn.Module):
    """Binary cross entropy of what a patch is said to show against what its labels hold.

    A network with a head for it says so in one row of logits per case. Of any other network the
    patch shows a label as surely as its surest voxel does: the logit is the largest log-odds
    ``log p / (1 - p)`` over the voxels that are annotated.

    Args:
        weight: Factor, at least 0.
        include_background: Whether label 0 is looked for too.
        ignore_index: Label of voxels that nobody annotated; what they show counts nowhere, and a
            case of nothing else is left out of the mean.

    Shape:
        - logits: ``(B, L)``, or ``(B, L - 1)`` without the background; or of voxels,
          ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels; voxels of other values count nowhere
        - output: scalar, float32

    Raises:
        ConfigError: If the weight is negative.

    References:
        Zhang et al., "Context encoding for semantic segmentation", CVPR 2018.
        https://arxiv.org/abs/1803.08904
    """

    def __init__(
        self,
        *,
        weight: float = 0.2,
        include_background: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not weight >= 0.0:
            raise ConfigError(f"semantic_encoding: weight must be at least 0, got {weight}")
        self.weight = weight
        self.include_background = include_background
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L)`` or ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``.

        Raises:
            DataError: If there is not one row of logits per case.
        """
        first = 0 if self.include_background else 1
        known = known_voxels(target, self.ignore_index)
        if logits.ndim > 2:
            check_target(logits, target)
            values = self._of_voxels(in_float32(logits), first, known)
        elif logits.ndim == 2 and len(logits) == len(target):
            values = in_float32(logits)
        else:
            raise DataError(
                f"presence logits have shape {tuple(logits.shape)}; expected ({len(target)}, L)"
            )
        labels = torch.arange(first, first + values.shape[1], device=target.device)
        shown = target.flatten(1)[..., None] == labels
        if known is not None:
            shown = shown & known.flatten(1)[..., None]
        presence = shown.any(1).to(values.dtype)
        if known is None:
            return self.weight * F.binary_cross_entropy_with_logits(values, presence)
        losses = F.binary_cross_entropy_with_logits(values, presence, reduction="none").mean(1)
        annotated = known.flatten(1).any(1)
        losses = losses.where(annotated, torch.zeros_like(losses))
        return self.weight * losses.sum() / annotated.sum().clamp_min(1)

    @staticmethod
    def _of_voxels(logits: Tensor, first: int, known: Tensor | None) -> Tensor:
        """Largest log-odds of each label from ``first`` on, ``(B, L - first)``."""
        odds = _log_odds(logits.detach())
        if known is not None:
            odds = odds.masked_fill(~known, -torch.inf)
        surest = odds.flatten(2).argmax(dim=2)
        found = logits.flatten(2).gather(2, surest[:, None].expand(-1, logits.shape[1], -1))
        own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        shown = found[:, own] - found.masked_fill(own, -torch.inf).logsumexp(dim=1)
        return shown[:, first:]


def _log_odds(logits: Tensor) -> Tensor:
    """Log-odds of every label ``(B, L, *spatial)``, without a copy of all logits for each.

    Those of the likeliest label, whose probability may round to 1, are taken from the others.
    """
    log_p = logits.log_softmax(dim=1)
    likeliest = logits.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, likeliest, -torch.inf).logsumexp(dim=1, keepdim=True)
    odds = log_p - torch.log1p(-log_p.exp())
    return odds.scatter(1, likeliest, logits.gather(1, likeliest) - others)
