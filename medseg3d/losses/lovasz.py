"""Lovasz-softmax: IoU extended to probabilities by ordering the errors."""

from typing import Literal

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.voxels import check_target, in_float32, known_voxels


@LOSSES.register("lovasz", paper="Berman et al., CVPR 2018, arXiv:1705.08790", by="region")
class LovaszSoftmax(nn.Module):
    """Lovasz extension of ``1 - IoU``, per label and then averaged.

    The errors ``|g - p|`` of a label are sorted, largest first, and weighted by how much IoU is
    lost with each more of them.

    Args:
        labels: Average over those that are ``present`` in the reference, or ``all``; an absent
            one costs its largest probability.
        include_background: Average label 0 in too.
        batch: Sort the voxels of all cases of the batch together, of each process by itself.
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If ``labels`` is unknown.

    References:
        Berman et al., CVPR 2018. https://arxiv.org/abs/1705.08790
    """

    def __init__(
        self,
        *,
        labels: Literal["present", "all"] = "present",
        include_background: bool = False,
        batch: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if labels not in ("present", "all"):
            raise ConfigError(f"lovasz: labels must be present or all, got {labels!r}")
        self.labels = labels
        self.include_background = include_background
        self.batch = batch
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        check_target(logits, target)
        probabilities = in_float32(logits).softmax(dim=1).flatten(2)
        target = target.flatten(2)
        known = known_voxels(target, self.ignore_index)
        cases = []
        for n in range(len(target)):
            chosen = slice(None) if known is None else known[n, 0]
            cases.append((probabilities[n][:, chosen], target[n, 0][chosen]))
        if self.batch:
            cases = [(torch.cat([p for p, _ in cases], 1), torch.cat([t for _, t in cases]))]
        return torch.stack([self._case(p, t) for p, t in cases]).mean()

    def _case(self, probabilities: Tensor, target: Tensor) -> Tensor:
        """Loss of probabilities ``(L, N)`` against labels ``(N,)``."""
        losses = []
        for label in range(0 if self.include_background else 1, len(probabilities)):
            reference = target == label
            if not target.numel() or (self.labels == "present" and not reference.any()):
                continue
            wrong = (reference.to(probabilities.dtype) - probabilities[label]).abs()
            errors, order = wrong.sort(descending=True)
            losses.append((errors * _steps(reference[order], errors.dtype)).sum())
        return torch.stack(losses).mean() if losses else 0.0 * probabilities.sum()


def _steps(reference: Tensor, dtype: torch.dtype) -> Tensor:
    """How much ``1 - IoU`` grows with each more of the sorted voxels counted as an error.

    Whole numbers are added up: of others, torch has no deterministic running sum on a GPU.
    """
    expected = reference.sum()
    shared = expected - reference.cumsum(0)
    union = expected + (~reference).cumsum(0)
    lost = 1 - shared.to(dtype) / union
    return lost.diff(prepend=lost.new_zeros(1))
