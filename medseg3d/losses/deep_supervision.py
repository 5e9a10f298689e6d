"""Deep supervision: the same loss on every resolution that a decoder returns."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from medseg3d.errors import DataError
from medseg3d.losses.case_maps import CutMaps, maps_of

LEVEL_DECAY = 0.5
"""Weight of a level over that of the finer one before it, where a network says nothing else."""


class DeepSupervision(nn.Module):
    """Weighted mean of one loss over logits of several levels, the finest first.

    Each level weighs ``decay`` times as much as the one before it. The labels are brought to a
    level's size by nearest neighbor, measured between voxel centers; those of a level that a
    network cut from a padded grid lie on that grid.

    Args:
        loss: ``loss(logits, target)`` of one level.
        decay: Above 0; 1 weighs all levels alike.
        finest_apart: Compare the finest of several levels by ``loss.finest``, if it has one.
        divisor: Of the network: it pads images to multiples of this, per axis, at their ends.

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
        self,
        loss: nn.Module,
        decay: float = LEVEL_DECAY,
        *,
        finest_apart: bool = False,
        divisor: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.divisor = divisor
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
            more = [] if maps is None else [resize_maps(maps, size, self.divisor)]
            loss = self.finest if place == 0 < len(levels) - 1 else self.loss
            losses.append(loss(level, resize_labels(target, size, self.divisor), *more))
        weighted = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
        return torch.stack(weighted).sum() / sum(weights)


def resize_maps(
    maps: CutMaps, size: Sequence[int], divisor: Sequence[int] | None = None
) -> CutMaps:
    """The maps at the voxels whose labels :func:`resize_labels` takes; the values stay."""
    scales = _scales(maps.values.shape[2:], size, divisor)
    coarseness = tuple(float(old * new) for old, new in zip(maps.coarseness, scales, strict=True))
    return CutMaps(resize_labels(maps.values, size, divisor), coarseness)


def resize_labels(
    labels: Tensor, size: Sequence[int], divisor: Sequence[int] | None = None
) -> Tensor:
    """Nearest label for each voxel of another size, ties to the higher index.

    Unlike interpolation, indexing keeps integer types and works for all of them.

    Args:
        labels: ``(B, M, *spatial)``, any type.
        size: Spatial size to return.
        divisor: See :class:`DeepSupervision`; without it voxels are spread evenly.

    Examples:
        >>> resize_labels(torch.tensor([[[0, 1, 2, 3, 4, 5]]]), (2,))
        tensor([[[1, 4]]])
        >>> resize_labels(torch.tensor([[[0, 1, 2, 3, 4, 5]]]), (2,), (4,))
        tensor([[[2, 5]]])
    """
    scales = _scales(labels.shape[2:], size, divisor)
    for axis, (scale, wanted) in enumerate(zip(scales, size, strict=True), start=2):
        here = labels.shape[axis]
        if here != wanted:
            twice = 2 * torch.arange(wanted, device=labels.device) + 1
            centers = twice * scale.numerator // (2 * scale.denominator)
            labels = labels.index_select(axis, centers.clamp(max=here - 1))
    return labels


def _scales(
    full: Sequence[int], size: Sequence[int], divisor: Sequence[int] | None
) -> list[Fraction]:
    """Voxels of the full size per voxel of a level, per axis."""
    scales = []
    for here, wanted, multiple in zip(full, size, divisor or (1,) * len(size), strict=True):
        steps = (step for step in range(1, multiple + 1) if multiple % step == 0)
        padded = next((step for step in steps if -(-here // step) == wanted), None)
        scales.append(Fraction(here, wanted) if padded is None else Fraction(padded))
    return scales
