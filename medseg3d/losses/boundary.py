"""Losses that weigh errors by their distance from the border of the reference."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.distances import (
    checked_spacing,
    depth_below_deepest,
    per_mask,
    signed,
    spacing_for,
    to_border,
)
from medseg3d.losses.voxels import (
    known_voxels,
    log_probability,
    mean_over_known,
    softmax_and_one_hot,
)


class DistanceLoss(nn.Module):
    """What the losses by distance share.

    Args:
        include_background: Average label 0 in too.
        spacing: Voxel size along each spatial axis, in the unit of the distances; None for 1.
        ignore_index: Label of voxels to leave out; for the distances they are outside of every
            structure.

    Raises:
        ConfigError: If the spacing is not one of lengths.
    """

    def __init__(
        self,
        *,
        include_background: bool = False,
        spacing: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.include_background = include_background
        self.spacing = checked_spacing(type(self).__name__, spacing)
        self.ignore_index = ignore_index

    def sizes(self, logits: Tensor) -> tuple[float, ...]:
        """The spacing of logits ``(B, L, *spatial)``."""
        return spacing_for(type(self).__name__, self.spacing, logits.ndim - 2)

    def masks(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and reference of the labels that count."""
        first = 0 if self.include_background else 1
        probabilities, reference = softmax_and_one_hot(logits, target, self.ignore_index)
        return probabilities[:, first:], reference[:, first:]

    def mean(self, values: Tensor, target: Tensor) -> Tensor:
        """Mean of ``(B, L, *spatial)`` over cases and labels and the voxels that count."""
        return mean_over_known(values.mean(1), target, self.ignore_index)


@LOSSES.register("boundary", paper="Kervadec et al., MIDL 2019, arXiv:1812.07032", by="distance")
class Boundary(DistanceLoss):
    """Mean of the probability times the signed distance to the reference's border.

    Outside of a structure the distance is positive, on its inner rim 0, inside negative: the
    best prediction is below 0. An absent structure costs nothing, so add a region loss, for
    instance ``dice+0.1*boundary``.

    Args:
        include_background: Average label 0 in too, which adds the mirrored term.
        spacing: Voxel size in mm along each spatial axis; None for 1.
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32, in the unit of the spacing

    Raises:
        ConfigError: If the spacing is not one length above 0 per axis.

    References:
        Kervadec et al., MIDL 2019. https://arxiv.org/abs/1812.07032
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        probabilities, reference = self.masks(logits, target)
        distances = per_mask(
            partial(signed, spacing=self.sizes(logits)), reference, like=probabilities
        )
        return self.mean(distances * probabilities, target)


@LOSSES.register(
    "hausdorff_distance",
    paper="Karimi and Salcudean, IEEE TMI 2020, arXiv:1904.10030",
    by="distance",
)
class HausdorffDistance(DistanceLoss):
    """Mean squared error of each voxel, weighted by its distances to both borders.

    ``mean((p - g)^2 (d_G^alpha + d_P^alpha))`` with the distances to the border of the
    reference and of the prediction where it exceeds one half. The values grow with the
    structure; ``logarithm`` brings them to the size of other losses.

    Args:
        alpha: Exponent of the distances, above 0.
        logarithm: Return ``log(1 + loss)``.
        include_background: Average label 0 in too.
        spacing: Voxel size in mm along each spatial axis; None for 1.
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32, in the unit of the spacing to the power ``alpha``

    Raises:
        ConfigError: If ``alpha`` is not above 0 or the spacing is wrong.

    References:
        Karimi and Salcudean, IEEE Trans. Med. Imaging 39(2), 2020.
        https://arxiv.org/abs/1904.10030
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        logarithm: bool = False,
        include_background: bool = False,
        spacing: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            include_background=include_background, spacing=spacing, ignore_index=ignore_index
        )
        if not alpha > 0.0:
            raise ConfigError(f"hausdorff_distance: alpha must be above 0, got {alpha}")
        self.alpha = alpha
        self.logarithm = logarithm

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        probabilities, reference = self.masks(logits, target)
        field = partial(to_border, spacing=self.sizes(logits))
        expected = per_mask(field, reference, like=probabilities)
        predicted = per_mask(field, probabilities > 0.5, like=probabilities)
        distances = expected**self.alpha + predicted**self.alpha
        loss = self.mean((probabilities - reference).square() * distances, target)
        return torch.log1p(loss) if self.logarithm else loss


@LOSSES.register(
    "distance_penalized", paper="Caliva et al., MIDL 2019, arXiv:1908.03679", by="distance"
)
class DistancePenalized(DistanceLoss):
    """Cross entropy of each voxel, up to twice as dear near the border of its structure.

    ``mean((1 + D) ce)`` with ``D`` of a voxel: how much less deep it lies in its structure than
    the deepest one, 0 to 1. Unnormalized, the loss would grow with the structure.

    Args:
        normalize: Bring ``D`` to 0 to 1 in each structure; otherwise it is a distance.
        spacing: Voxel size along each spatial axis; None for 1.
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If the spacing is not one length above 0 per axis.

    References:
        Caliva et al., MIDL 2019. https://arxiv.org/abs/1908.03679
    """

    def __init__(
        self,
        *,
        normalize: bool = True,
        spacing: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(include_background=True, spacing=spacing, ignore_index=ignore_index)
        self.normalize = normalize

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        losses = -log_probability(logits, target, self.ignore_index)
        labels = torch.arange(logits.shape[1], device=target.device)
        masks = target == labels.view(1, -1, *(1,) * (target.ndim - 2))
        known = known_voxels(target, self.ignore_index)
        depths = per_mask(
            partial(depth_below_deepest, spacing=self.sizes(logits), normalize=self.normalize),
            masks if known is None else masks & known,
            like=losses,
        ).sum(1)  # each voxel has one label
        return mean_over_known((1 + depths) * losses, target, self.ignore_index)
