"""A reconstruction that is wanted good enough, and everything else as small as possible then.

Reference:
    Rezende and Viola, "Taming VAEs", 2018. arXiv:1810.00597
"""

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = (1e-3, 1e3)
"""Least and largest weight of the reconstruction."""


class Geco(nn.Module):
    """Weighs a reconstruction more for as long as its moving average is above a limit.

    The weight begins at 1 and grows by ``exp(rate * (average - limit))`` with each call.

    Args:
        limit: Reconstruction that is good enough.
        decay: Share of the moving average that a call keeps in the long run; the first calls are
            averaged evenly.
        rate: How fast the weight changes.
    """

    average: Tensor
    weight: Tensor
    calls: Tensor

    def __init__(self, limit: float = 0.05, *, decay: float = 0.99, rate: float = 0.01) -> None:
        super().__init__()
        self.limit, self.decay, self.rate = limit, decay, rate
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("weight", torch.ones(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, reconstruction: Tensor, rest: Tensor) -> Tensor:
        """``weight * (average - limit) + rest``, with the gradient of this reconstruction.

        Args:
            reconstruction: Scalar.
            rest: Scalar, to be small where the reconstruction is good enough.
        """
        with torch.no_grad():
            self.calls += 1
            share = (1 / self.calls).clamp_min(1 - self.decay)
            self.average += share * (reconstruction.detach() - self.average)
            weight = self.weight.clone()
            self.weight *= (self.rate * (self.average - self.limit)).exp()
            self.weight.clamp_(*WEIGHTS)
            lag = self.average - reconstruction.detach()
        return weight * (reconstruction + lag - self.limit) + rest


def hard_voxels(logits: Tensor, labels: Tensor, share: float) -> tuple[Tensor, int]:
    """Mean cross-entropy of a few voxels, chosen at random, the worse the likelier.

    The Gumbel trick draws them without replacement, each by its part of the sum over all.

    Args:
        logits: ``(B, L, *sp)``.
        labels: ``(B, 1, *sp)`` integers; ``L`` stands for a voxel that nobody knows.
        share: Part of the known voxels that is chosen, in (0, 1].

    Returns:
        The mean, a scalar, and how many voxels were chosen in the whole batch.
    """
    num_labels = logits.shape[1]
    losses = functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)),
        labels[:, 0].long(),
        ignore_index=num_labels,
        reduction="none",
    ).flatten()
    known = int((labels != num_labels).sum())
    number = max(1, ceil(share * known))
    with torch.no_grad():
        gumbel = -torch.empty_like(losses).exponential_().log()
        chosen = (losses.log() + gumbel).topk(number).indices
    return losses[chosen].mean(), number
