"""Sums over the patches of all processes that train one network together.

A loss that pools the sums of its batch, such as Dice by default, is the same whether one process
has all patches or several have a part each: the sums are added up before they are divided. Losses
that are means over as many cases or voxels in each process need none of this, since the processes'
gradients are averaged. Cross-entropy that leaves voxels out or weighs them divides by what all of
them count; other losses that leave voxels out are the mean of the processes' means. So are Lovasz
and top-k of a pooled batch, which rank its voxels: each process ranks its own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


def pool_over_processes(loss: nn.Module) -> None:
    """Let every part of a loss that pools its batch pool those of all processes.

    Args:
        loss: Changed in place; parts with an attribute ``over_processes`` are meant.
    """
    for part in loss.modules():
        if hasattr(part, "over_processes"):
            part.over_processes = True  # type: ignore[assignment]


def sums_over_processes(sums: Sequence[Tensor]) -> list[Tensor]:
    """Each sum, added up over the processes; gradients reach the part of each of them.

    A process gets the gradient of the sum of the losses of all, which divided by their number
    is that of the one loss they all have.

    Args:
        sums: Of one type and on one device; every process has those of the same shapes.
    """
    total = _Total.apply(torch.cat([each.reshape(-1) for each in sums]))  # type: ignore[no-untyped-call]
    parts = total.split([each.numel() for each in sums])
    return [part.view_as(each) for part, each in zip(parts, sums, strict=True)]


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a scalar over the processes, without gradients.

    What is divided by it, and then averaged over the processes, is divided by the scalar of all.
    """
    total, count = sums_over_processes([value.detach(), torch.ones_like(value)])
    return total / count


class _Total(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total
