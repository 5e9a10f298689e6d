"""Dice and binary cross entropy of regions that overlap, from logits of labels that do not."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses.pooling import mean_over_processes, sums_over_processes
from medseg3d.losses.voxels import check_target, in_float32, known_voxels

OF_REGIONS = "dice_ce"
"""The loss whose parts are those of :class:`RegionDiceCE`, label by label."""


class RegionDiceCE(nn.Module):
    """Sum of the soft Dice loss and the binary cross entropy of regions, each region by itself.

    The probability of a region is the sum of the softmax over its labels, which is the sigmoid of
    a region's own logit: the logarithm of the sum of ``exp(logit)`` over the labels inside, less
    that over the labels outside.

    Args:
        regions: Logit channels of each region; label 0 is in none.
        batch: Pool the batch in the Dice part.
        smooth: Smoothing of the Dice part.
        dice_weight: Weight of the Dice part.
        cross_entropy_weight: Weight of the cross entropy.
        ignore_index: Label of voxels that count in neither part.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    References:
        Regions of tumors as targets: Isensee et al., "nnU-Net for brain tumor segmentation",
        BrainLes 2020. https://arxiv.org/abs/2011.00848
    """

    def __init__(
        self,
        regions: Sequence[Sequence[int]],
        *,
        batch: bool = True,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.regions = tuple(tuple(region) for region in regions)
        self.batch = batch
        self.smooth = smooth
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.ignore_index = ignore_index
        self.over_processes = False  # see losses.pooling

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        check_target(logits, target)
        values = self.region_logits(in_float32(logits))
        reference = torch.cat([self._inside(target, region) for region in self.regions], dim=1)
        reference = reference.to(values.dtype)
        known = known_voxels(target, self.ignore_index)
        counted = torch.ones_like(reference) if known is None else known.expand_as(reference)
        entropy = F.binary_cross_entropy_with_logits(values, reference, reduction="none")
        divisor = counted.sum().to(values.dtype)
        if known is not None and self.over_processes:
            divisor = mean_over_processes(divisor)
        divisor = divisor.clamp_min(torch.finfo(divisor.dtype).tiny)
        mean_entropy = (entropy * counted).sum() / divisor
        probabilities, reference = values.sigmoid() * counted, reference * counted
        axes = [0, *range(2, logits.ndim)] if self.batch else list(range(2, logits.ndim))
        shared = (probabilities * reference).sum(axes)
        both = probabilities.sum(axes) + reference.sum(axes)
        if self.batch and self.over_processes:
            shared, both = sums_over_processes([shared, both])
        dice = 1 - ((2 * shared + self.smooth) / (both + self.smooth)).mean()
        return self.dice_weight * dice + self.cross_entropy_weight * mean_entropy

    def region_logits(self, logits: Tensor) -> Tensor:
        """Logit of each region, ``(B, R, *spatial)``, from those of the labels."""
        found = []
        for region in self.regions:
            outside = [label for label in range(logits.shape[1]) if label not in region]
            inside = logits[:, list(region)].logsumexp(dim=1)
            found.append(inside - logits[:, outside].logsumexp(dim=1))
        return torch.stack(found, dim=1)

    @staticmethod
    def _inside(target: Tensor, region: Sequence[int]) -> Tensor:
        return torch.isin(target, torch.tensor(region, device=target.device))


def build_region_loss(
    name: str,
    options: Mapping[str, Any],
    regions: Sequence[Sequence[int]],
    *,
    ignore_index: int | None = None,
) -> nn.Module:
    """The loss of regions, with the options that are given for the loss of labels.

    Args:
        name: Loss that is asked for; only ``dice_ce`` has a form for regions.
        options: See :class:`RegionDiceCE`.
        regions: Logit channels of each region.
        ignore_index: Index of voxels that nobody annotated.

    Raises:
        ConfigError: If it is another loss, or an option is unknown.
    """
    if name != OF_REGIONS:
        raise ConfigError(
            f"loss {name!r} has no form for regions; leave it out ({OF_REGIONS} of each region is "
            "taken), or leave out regions"
        )
    try:
        return RegionDiceCE(regions, **({"ignore_index": ignore_index} | dict(options)))
    except TypeError:
        known = "batch, smooth, dice_weight, cross_entropy_weight, ignore_index"
        raise ConfigError(
            f"loss {OF_REGIONS!r} of regions has the options {known}, got {', '.join(options)}"
        ) from None
