"""Losses from the overlap of whole regions: soft Dice."""

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.voxels import check_target, in_float32


@LOSSES.register("dice", paper="Milletari et al., V-Net, 3DV 2016, arXiv:1606.04797")
class Dice(nn.Module):
    """Soft Dice loss, per label and then averaged.

    With softmax probabilities ``p`` and one-hot labels ``g``, for each label::

        1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth)

    Summing over labels inside the fraction instead would cancel every label's own weight. A
    label absent from a patch costs nearly 1 as soon as anything of it is predicted; pooling
    the batch makes that rarer.

    Args:
        include_background: Average label 0 in too.
        batch: Pool the sums of all cases of the batch before dividing.
        smooth: Added above and below the fraction; keeps absent labels defined.
        squared: Use ``p^2`` and ``g^2`` below the fraction, as V-Net does.
        ignore_index: Label of voxels to leave out of every sum.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If ``smooth`` is negative.

    References:
        Milletari et al., "V-Net", 3DV 2016. https://arxiv.org/abs/1606.04797

    Examples:
        >>> probabilities = torch.tensor([[[0.1, 0.4, 0.7, 0.8], [0.9, 0.6, 0.3, 0.2]]])
        >>> loss = Dice(include_background=True, smooth=0.0)
        >>> round(loss(probabilities.log(), torch.tensor([[[1, 1, 1, 0]]])).item(), 6)
        0.373333
    """

    def __init__(
        self,
        *,
        include_background: bool = False,
        batch: bool = False,
        smooth: float = 1e-5,
        squared: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not smooth >= 0.0:
            raise ConfigError(f"dice: smooth must be at least 0, got {smooth}")
        self.include_background = include_background
        self.batch = batch
        self.smooth = smooth
        self.squared = squared
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        check_target(logits, target)
        probabilities = in_float32(logits).softmax(dim=1)
        labels = torch.arange(logits.shape[1], device=target.device)
        one_hot = target == labels.view(1, -1, *(1,) * (target.ndim - 2))
        if self.ignore_index is not None:
            known = target != self.ignore_index
            probabilities = probabilities * known
            one_hot = one_hot & known

        reference = one_hot.to(probabilities.dtype)
        axes = [0, *range(2, logits.ndim)] if self.batch else list(range(2, logits.ndim))
        shared = (probabilities * reference).sum(axes)
        predicted = (probabilities.square() if self.squared else probabilities).sum(axes)
        dice = (2 * shared + self.smooth) / (predicted + reference.sum(axes) + self.smooth)
        return 1 - (dice if self.include_background else dice[..., 1:]).mean()
