"""clDice: overlap of each mask's center lines with the other mask, for tubular structures."""

import torch
from monai.losses.cldice import soft_skel
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.region import Dice
from medseg3d.losses.voxels import softmax_and_one_hot


@LOSSES.register("cldice", paper="Shit et al., CVPR 2021, arXiv:2003.07311", by="centerline")
class CenterlineDice(nn.Module):
    """Soft clDice loss mixed with the Dice loss, averaged over the structures.

    The skeletons are MONAI's soft ones, made by repeated erosion and opening; they see the
    neighbors of a voxel, so that voxels beside ignored ones feel where those are.

    Args:
        dice_weight: Share of the Dice loss in the sum, in [0, 1]; the paper has 0.5.
        iterations: Erosions; at least the radius in voxels of the thickest vessel.
        smooth: Added above and below every fraction of the clDice part.
        include_background: Average label 0 into the Dice part; it has no center lines.
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)`` of two or three spatial axes, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If the share is not in [0, 1] or there is no iteration.

    References:
        Shit et al., CVPR 2021. https://arxiv.org/abs/2003.07311
    """

    def __init__(
        self,
        *,
        dice_weight: float = 0.5,
        iterations: int = 3,
        smooth: float = 1.0,
        include_background: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= dice_weight <= 1.0:
            raise ConfigError(f"cldice: dice_weight must lie in [0, 1], got {dice_weight}")
        if not iterations >= 1:
            raise ConfigError(f"cldice: iterations must be at least 1, got {iterations}")
        self.dice = Dice(include_background=include_background, ignore_index=ignore_index)
        self.dice_weight = dice_weight
        self.iterations = iterations
        self.smooth = smooth
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        predicted, reference = (
            each[:, 1:] for each in softmax_and_one_hot(logits, target, self.ignore_index)
        )
        axes = tuple(range(2, logits.ndim))

        def inside(lines: Tensor, mask: Tensor) -> Tensor:
            return ((lines * mask).sum(axes) + self.smooth) / (lines.sum(axes) + self.smooth)

        precision = inside(soft_skel(predicted, self.iterations), reference)
        with torch.no_grad():
            lines = soft_skel(reference, self.iterations)
        recall = inside(lines, predicted)
        centerline = (1 - 2 * precision * recall / (precision + recall)).mean()
        dice: Tensor = self.dice(logits, target)
        return self.dice_weight * dice + (1 - self.dice_weight) * centerline
