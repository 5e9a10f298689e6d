"""Cross entropy that weighs the gaps between touching objects, as in the first U-Net."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.distances import checked_spacing, spacing_for, two_nearest
from medseg3d.losses.voxels import check_weights, log_probability, mean_over_known


@LOSSES.register(
    "border_weighted", paper="Ronneberger et al., MICCAI 2015, arXiv:1505.04597", by="distance"
)
class BorderWeighted(nn.Module):
    """Cross entropy times ``w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))``.

    ``d1`` and ``d2`` are the distances to the nearest and the second nearest object, the
    connected components of each structure. The second term goes to the background only, and is
    0 where there are fewer than two objects.

    Args:
        weight: ``w_c``, one per label, background first; None for 1.
        gap_weight: ``w0``, at least 0.
        sigma: Width of the gaps, in the unit of the spacing, above 0.
        everywhere: Add the second term inside of the objects too, as the formula is printed.
        spacing: Voxel size along each spatial axis; None for 1.
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32; the mean over the voxels that count

    Raises:
        ConfigError: If an option is out of its range.

    References:
        Ronneberger et al., MICCAI 2015. https://arxiv.org/abs/1505.04597
    """

    def __init__(
        self,
        *,
        weight: Sequence[float] | None = None,
        gap_weight: float = 10.0,
        sigma: float = 5.0,
        everywhere: bool = False,
        spacing: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not (gap_weight >= 0.0 and sigma > 0.0):
            raise ConfigError(
                "border_weighted: gap_weight must be at least 0 and sigma above 0, got "
                f"{gap_weight} and {sigma}"
            )
        self.weight = None if weight is None else tuple(weight)
        self.gap_weight, self.sigma, self.everywhere = gap_weight, sigma, everywhere
        self.spacing = checked_spacing("border_weighted", spacing)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        losses = -log_probability(logits, target, self.ignore_index)
        weights = self.weights(target, num_labels=logits.shape[1]).to(losses)
        return mean_over_known(losses * weights, target, self.ignore_index)

    @torch.no_grad()
    def weights(self, target: Tensor, *, num_labels: int) -> Tensor:
        """Weight of each voxel, ``(B, *spatial)`` in double precision on the processor.

        Args:
            target: ``(B, 1, *spatial)`` integer labels.
            num_labels: Labels, background included.
        """
        labels = target[:, 0].detach().cpu().long()
        if self.ignore_index is not None:
            labels = labels.where(labels != self.ignore_index, torch.zeros_like(labels))
        spacing = spacing_for("border_weighted", self.spacing, labels.ndim - 1)
        by_label = torch.ones(num_labels, dtype=torch.float64)
        if self.weight is not None:
            by_label = torch.tensor(self.weight, dtype=torch.float64)
            check_weights("border_weighted", by_label, num_labels)
        cases = []
        for case in labels.numpy():
            nearest, second = two_nearest(case, spacing)
            gap = self.gap_weight * np.exp(-((nearest + second) ** 2) / (2 * self.sigma**2))
            cases.append(gap if self.everywhere else np.where(case == 0, gap, 0.0))
        return by_label[labels] + torch.from_numpy(np.stack(cases))
