"""Losses from the overlap of whole regions: what they share, Dice and IoU."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.pooling import sums_over_processes
from medseg3d.losses.voxels import known_voxels, softmax_and_one_hot

Empty = Literal["smooth", "skip"]

NOTHING = 1e-20
"""A sum of probabilities below it is that of none; its inverse times a loss scale is finite."""


@dataclass(frozen=True)
class Regions:
    """Sums over the voxels of each label, ``(B, L)``, or ``(L,)`` of a pooled batch.

    Attributes:
        shared: Sum of ``p g``.
        shared_squares: Sum of ``p^2 g``.
        predicted: Sum of ``p``.
        predicted_squares: Sum of ``p^2``.
        reference: Sum of ``g``.
        voxels: Number of voxels that count, ``(B, 1)`` or ``(1,)``.
    """

    shared: Tensor
    shared_squares: Tensor
    predicted: Tensor
    predicted_squares: Tensor
    reference: Tensor
    voxels: Tensor

    @property
    def false_positives(self) -> Tensor:
        """Sum of ``p (1 - g)``."""
        return self.predicted - self.shared

    @property
    def false_negatives(self) -> Tensor:
        """Sum of ``(1 - p) g``."""
        return self.reference - self.shared


def fraction(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, and 1 where the whole is nothing, as it may be without smoothing."""
    nothing = whole < NOTHING
    return part.masked_fill(nothing, 1) / whole.masked_fill(nothing, 1)


class RegionLoss(nn.Module, ABC):
    """A loss from the overlap of regions, per label and then averaged.

    Summing over labels inside a fraction instead would cancel every label's own weight.

    Args:
        include_background: Average label 0 in too.
        batch: Pool the sums of all cases of the batch before dividing.
        smooth: Added above and below the fraction; with 0, an absent label costs 1 as soon as
            anything of it is predicted.
        ignore_index: Label of voxels to leave out of every sum.
        empty: What a label that the patch does not hold costs: ``smooth`` as the smoothing has
            it, nearly 1 as soon as anything of it is predicted, or ``skip`` nothing.

    Attributes:
        over_processes: Whether a pooled batch is that of all processes; false until
            :func:`medseg3d.losses.pooling.pool_over_processes`.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If ``smooth`` is negative or ``empty`` unknown.
    """

    def __init__(
        self,
        *,
        include_background: bool = False,
        batch: bool = False,
        smooth: float = 1e-5,
        ignore_index: int | None = None,
        empty: Empty = "smooth",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not smooth >= 0.0:
            raise ConfigError(f"{name}: smooth must be at least 0, got {smooth}")
        if empty not in ("smooth", "skip"):
            raise ConfigError(f"{name}: empty must be smooth or skip, got {empty!r}")
        self.include_background = include_background
        self.batch = batch
        self.smooth = smooth
        self.ignore_index = ignore_index
        self.empty = empty
        self.over_processes = False

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        first = 0 if self.include_background else 1
        probabilities, reference = (
            each[:, first:] for each in softmax_and_one_hot(logits, target, self.ignore_index)
        )
        axes = [0, *range(2, logits.ndim)] if self.batch else list(range(2, logits.ndim))
        known = known_voxels(target, self.ignore_index)
        voxels = torch.ones_like(target, dtype=probabilities.dtype) if known is None else known
        inside = probabilities * reference
        regions = Regions(
            shared=inside.sum(axes),
            shared_squares=inside.square().sum(axes),
            predicted=probabilities.sum(axes),
            predicted_squares=probabilities.square().sum(axes),
            reference=reference.sum(axes),
            voxels=voxels.to(probabilities.dtype).sum(axes),
        )
        if self.batch and self.over_processes:
            regions = Regions(*sums_over_processes(list(vars(regions).values())))
        return self.combine(regions)

    @abstractmethod
    def combine(self, regions: Regions) -> Tensor:
        """The loss of these sums, a scalar."""


class LabelwiseLoss(RegionLoss):
    """Mean over the labels of what each costs; the options are those of :class:`RegionLoss`.

    A batch that is not pooled is the mean of its cases, also where they hold unlike labels.
    """

    def combine(self, regions: Regions) -> Tensor:
        """The loss of all labels: the mean of what each costs."""
        costs = self.per_label(regions)
        if self.empty == "smooth":
            return costs.mean()
        present = regions.reference > 0
        held = costs.where(present, torch.zeros_like(costs)).sum(-1)
        return (held / present.sum(-1).clamp_min(1)).mean()

    @abstractmethod
    def per_label(self, regions: Regions) -> Tensor:
        """What each label costs, of the shape of the sums."""


@LOSSES.register("dice", paper="Milletari et al., V-Net, 3DV 2016, arXiv:1606.04797", by="region")
class Dice(LabelwiseLoss):
    """Soft Dice loss, per label and then averaged.

    With softmax probabilities ``p`` and one-hot labels ``g``, for each label::

        1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth)

    A label absent from a patch costs nearly 1 as soon as anything of it is predicted; pooling
    the batch makes that rarer.

    Args:
        squared: Use ``p^2`` and ``g^2`` below the fraction, as V-Net does.
        include_background: See :class:`RegionLoss`, also for the options that follow.
        batch: Pool the batch.
        smooth: Smoothing.
        ignore_index: Label of voxels to leave out.
        empty: ``smooth`` or ``skip``.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If ``smooth`` is negative or ``empty`` unknown.

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
        squared: bool = False,
        include_background: bool = False,
        batch: bool = False,
        smooth: float = 1e-5,
        ignore_index: int | None = None,
        empty: Empty = "smooth",
    ) -> None:
        super().__init__(
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ignore_index=ignore_index,
            empty=empty,
        )
        self.squared = squared

    def per_label(self, regions: Regions) -> Tensor:
        """``1 - Dice`` of each label."""
        predicted = regions.predicted_squares if self.squared else regions.predicted
        both = predicted + regions.reference
        return 1 - fraction(2 * regions.shared + self.smooth, both + self.smooth)


@LOSSES.register(
    "iou", paper="Rahman and Wang, ISVC 2016, doi:10.1007/978-3-319-50835-1_22", by="region"
)
class IoU(LabelwiseLoss):
    """Soft IoU (Jaccard) loss, per label and then averaged; options as :class:`RegionLoss`.

    For each label, with the smoothing above and below the fraction::

        1 - sum(p g) / (sum(p) + sum(g) - sum(p g))

    References:
        Rahman and Wang, "Optimizing intersection-over-union in deep neural networks", ISVC
        2016. https://doi.org/10.1007/978-3-319-50835-1_22
    """

    def per_label(self, regions: Regions) -> Tensor:
        """``1 - IoU`` of each label."""
        union = regions.predicted + regions.reference - regions.shared
        return 1 - fraction(regions.shared + self.smooth, union + self.smooth)
