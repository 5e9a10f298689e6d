"""Sums of losses: Dice for the regions, cross entropy for the voxels."""

from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.cross_entropy import CrossEntropy
from medseg3d.losses.region import Dice


@LOSSES.register(
    "dice_ce", paper="Isensee et al., nnU-Net, Nat. Methods 2021, doi:10.1038/s41592-020-01008-z"
)
class DiceCE(nn.Module):
    """Weighted sum of :class:`Dice` and :class:`CrossEntropy`, with the choices of nnU-Net.

    Weights of labels, and whether absent ones are skipped, are options of the sum
    ``dice+cross_entropy``.

    Args:
        include_background: Average label 0 into the Dice part; cross entropy always has it.
        batch: Pool the batch in the Dice part.
        smooth: Smoothing of the Dice part.
        dice_weight: Weight of the Dice part, at least 0.
        cross_entropy_weight: Weight of the cross entropy, at least 0.
        label_smoothing: Label smoothing of the cross entropy.
        ignore_index: Label of voxels that count in neither part.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If a weight is negative, both are 0, or an option of a part is wrong.

    References:
        Isensee et al., "nnU-Net", Nat. Methods 18, 2021.
        https://doi.org/10.1038/s41592-020-01008-z
    """

    def __init__(
        self,
        *,
        include_background: bool = False,
        batch: bool = True,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not (min(dice_weight, cross_entropy_weight) >= 0 < dice_weight + cross_entropy_weight):
            raise ConfigError(
                "dice_ce: dice_weight and cross_entropy_weight must be at least 0 and not both "
                f"0, got {dice_weight} and {cross_entropy_weight}"
            )
        self.dice = Dice(
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ignore_index=ignore_index,
        )
        self.cross_entropy = CrossEntropy(
            label_smoothing=label_smoothing, ignore_index=ignore_index
        )
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        dice: Tensor = self.dice(logits, target)
        cross_entropy: Tensor = self.cross_entropy(logits, target)
        return self.dice_weight * dice + self.cross_entropy_weight * cross_entropy
