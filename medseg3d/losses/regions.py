"""Losses of regions that overlap, from logits of labels that do not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses.building import WeightedSum, build_loss
from medseg3d.losses.case_maps import CutMaps, MappedLoss, Maps, make_maps, mapped_parts
from medseg3d.losses.voxels import in_float32
from medseg3d.types import LabelMap

OUTSIDE_AND_INSIDE = 2
"""Labels of a region by itself; what nobody annotated has the index after them."""


class OfRegion(nn.Module):
    """A loss of one region against all that lies outside.

    The probability of a region is the sum of the softmax over its labels: the logit of the inside
    is the logarithm of the sum of ``exp(logit)`` over the labels inside, likewise the outside.

    Args:
        loss: Of two labels; what nobody annotated is 2 for it.
        region: Logit channels of the region; label 0 is not among them.
        ignore_index: Label of voxels that do not count.

    Attributes:
        finest: The same with what the loss has for the finest of several levels, if it does.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar

    References:
        Regions of tumors as targets: Isensee et al., "nnU-Net for brain tumor segmentation",
        BrainLes 2020. https://arxiv.org/abs/2011.00848
    """

    def __init__(
        self, loss: nn.Module, region: Sequence[int], *, ignore_index: int | None = None
    ) -> None:
        super().__init__()
        self.loss = loss
        self.region = tuple(region)
        self.ignore_index = ignore_index
        finest = getattr(loss, "finest", None)
        self.finest = finest and type(self)(finest, region, ignore_index=ignore_index)

    def forward(self, logits: Tensor, target: Tensor, maps: CutMaps | None = None) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        inside = torch.isin(target, torch.tensor(self.region, device=target.device)).byte()
        if self.ignore_index is not None:
            inside[target == self.ignore_index] = OUTSIDE_AND_INSIDE
        more = [] if maps is None else [maps]
        loss: Tensor = self.loss(self.two_logits(logits), inside, *more)
        return loss

    def two_logits(self, logits: Tensor) -> Tensor:
        """Logits of outside and inside, ``(B, 2, *spatial)``, from those of the labels."""
        logits = in_float32(logits)
        outside = [label for label in range(logits.shape[1]) if label not in self.region]
        sides = (logits[:, outside], logits[:, list(self.region)])
        return torch.stack([side.logsumexp(dim=1) for side in sides], dim=1)


class OfRegionByMaps(OfRegion, MappedLoss):
    """:class:`OfRegion` with a loss that has maps, which are those of the region."""

    def num_maps(self, num_labels: int) -> int:  # noqa: ARG002
        """How many maps the parts of the loss have together, for outside and inside."""
        return sum(part.num_maps(OUTSIDE_AND_INSIDE) for part in mapped_parts(self.loss))

    def map_facts(self) -> Mapping[str, Any]:
        """The region, and what each part of the loss tells."""
        parts = [dict(part.map_facts()) for part in mapped_parts(self.loss)]
        return {"region": list(self.region), "parts": parts}

    def make_maps(self, labels: LabelMap, num_labels: int) -> Maps:  # noqa: ARG002
        """The maps of the region in labels ``(*spatial)``."""
        inside = np.isin(labels, self.region).astype(np.uint8)
        if self.ignore_index is not None:
            inside[labels == self.ignore_index] = OUTSIDE_AND_INSIDE
        return make_maps(self.loss, inside, OUTSIDE_AND_INSIDE)

    def mirrored(self, mirrored_labels: Sequence[int], num_labels: int) -> list[int]:
        """Each map stays where it is.

        Raises:
            ConfigError: If the region has another one on the other side.
        """
        there = {mirrored_labels[label] for label in self.region}
        if there != set(self.region):
            raise ConfigError(
                f"the region of the labels {sorted(self.region)} becomes that of {sorted(there)} "
                "when left and right change places, which losses by distance cannot follow; leave "
                "out --mirror, or choose another loss"
            )
        return list(range(self.num_maps(num_labels)))


def build_region_loss(
    name: str,
    options: Mapping[str, Any],
    regions: Sequence[Sequence[int]],
    *,
    spacing: Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_counts: Sequence[int] | None = None,
) -> nn.Module:
    """The mean over regions of a loss, or of a sum of losses, of each region by itself.

    Args:
        name: See :func:`medseg3d.losses.building.build_loss`, also for what is not below.
        options: Of the loss, whose labels are the outside of a region, 0, and its inside, 1.
        regions: Logit channels of each region.
        spacing: Of the voxels.
        ignore_index: Index of voxels that nobody annotated.
        label_counts: Voxels of each label in the training cases.

    Raises:
        ConfigError: As ``build_loss`` does.
    """
    parts: list[nn.Module] = []
    for region in regions:
        counts = None
        if label_counts is not None:
            inside = sum(label_counts[label] for label in region)
            counts = (sum(label_counts) - inside, inside)
        loss = build_loss(
            name,
            options,
            spacing=spacing,
            ignore_index=None if ignore_index is None else OUTSIDE_AND_INSIDE,
            label_counts=counts,
            num_labels=2,
        )
        kind = OfRegionByMaps if mapped_parts(loss) else OfRegion
        parts.append(kind(loss, region, ignore_index=ignore_index))
    return WeightedSum(parts, [1 / len(parts)] * len(parts))
