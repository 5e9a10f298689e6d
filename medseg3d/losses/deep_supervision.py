"""Deep supervision: the same loss on every resolution that a decoder returns."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg3d.errors import DataError
from medseg3d.losses.case_maps import CutMaps, maps_of

LEVEL_DECAY = 0.5
"""Weight of a level over that of the finer one before it, where a network says nothing else."""


class DeepSupervision(nn.Module):
    """Weighted mean of one loss over logits of several levels, the finest first.

    Each level weighs ``decay`` times as much as the one before it. The labels are brought to a
    level's size by nearest neighbor, measured between voxel centers.

    Args:
        loss: ``loss(logits, target)`` of one level.
        decay: Above 0; 1 weighs all levels alike.
        finest_apart: Compare the finest of several levels by ``loss.finest``, if it has one.

    Shape:
        - logits: list of ``(B, L, *spatial)``, finest first, or a single tensor, which goes to
          the loss as it is
        - target: ``(B, 1, *spatial)`` integer labels of the finest level
        - output: scalar

    References:
        Lee et al., "Deeply-supervised nets", AISTATS 2015. https://arxiv.org/abs/1409.5185
        Halves as in nnU-Net, https://doi.org/10.1038/s41592-020-01008-z
    """

    def __init__(
        self, loss: nn.Module, decay: float = LEVEL_DECAY, *, finest_apart: bool = False
    ) -> None:
        super().__init__()
        self.loss = loss
        self.decay = decay
        self.finest: nn.Module = (getattr(loss, "finest", None) if finest_apart else None) or loss

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        target: Tensor,
        maps: CutMaps | None = None,
    ) -> Tensor:
        """Loss of one or several levels of logits.

        Args:
            logits: Of each level.
            target: Labels of the finest level.
            maps: For a loss that takes them, or else made of the labels; brought to a level's
                size as the labels are.

        Raises:
            DataError: If the list is empty.
        """
        levels = [logits] if isinstance(logits, Tensor) else logits
        if not levels:
            raise DataError("deep supervision got an empty list of logits; expected at least one")
        weights = [self.decay**place for place in range(len(levels))]
        if maps is None and len(levels) > 1:
            maps = maps_of(self.loss, target, levels[0].shape[1])  # once, and not of each level
        losses = []
        for place, level in enumerate(levels):
            size = level.shape[2:]
            more = [] if maps is None else [resize_maps(maps, size)]
            loss = self.finest if place == 0 < len(levels) - 1 else self.loss
            losses.append(loss(level, resize_labels(target, size), *more))
        weighted = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
        return torch.stack(weighted).sum() / sum(weights)


def resize_maps(maps: CutMaps, size: Sequence[int]) -> CutMaps:
    """The maps at the voxels whose labels :func:`resize_labels` takes; the values stay."""
    there = maps.values.shape[2:]
    pairs = zip(maps.coarseness, there, size, strict=True)
    coarseness = tuple(factor * here / wanted for factor, here, wanted in pairs)
    return CutMaps(resize_labels(maps.values, size), coarseness)


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest label for each voxel of another size, ties to the higher index.

    Unlike interpolation, indexing keeps integer types and works for all of them.

    Args:
        labels: ``(B, M, *spatial)``, any type.
        size: Spatial size to return.

    Examples:
        >>> resize_labels(torch.tensor([[[0, 1, 2, 3, 4, 5]]]), (2,))
        tensor([[[1, 4]]])
    """
    for axis, (here, wanted) in enumerate(zip(labels.shape[2:], size, strict=True), start=2):
        if here != wanted:
            centers = 2 * torch.arange(wanted, device=labels.device) + 1
            labels = labels.index_select(axis, centers * here // (2 * wanted))
    return labels
