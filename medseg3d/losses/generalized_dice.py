"""Generalized Dice: one fraction for all labels, each weighted by how rare it is."""

from typing import Literal

import torch
from torch import Tensor

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.region import RegionLoss, Regions, fraction

Weighting = Literal["square", "simple", "uniform"]
POWERS = {"square": 2, "simple": 1, "uniform": 0}


@LOSSES.register(
    "generalized_dice", paper="Sudre et al., DLMIA 2017, arXiv:1707.03237", by="region"
)
class GeneralizedDice(RegionLoss):
    """Generalized Dice loss: weighted sums over the labels inside one fraction.

    ``1 - 2 sum(w TP) / sum(w (P + G))`` with ``w = 1 / G^2`` of each label. A label that is not
    there gets the largest weight of those that are. The weights are scaled so that the largest
    is 1, which leaves the fraction as it is and keeps the smoothing small beside it.

    Args:
        weighting: ``square`` for ``1 / G^2``, ``simple`` for ``1 / G``, or ``uniform``.
        include_background: Give label 0 its share too.
        batch: Pool the sums of the batch, which makes absent labels rarer.
        smooth: Added above and below the fraction.
        ignore_index: Label of voxels to leave out of every sum.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If ``weighting`` is unknown or ``smooth`` negative.

    References:
        Sudre et al., DLMIA 2017. https://arxiv.org/abs/1707.03237
    """

    def __init__(
        self,
        *,
        weighting: Weighting = "square",
        include_background: bool = False,
        batch: bool = True,
        smooth: float = 1e-5,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ignore_index=ignore_index,
        )
        if weighting not in POWERS:
            raise ConfigError(
                f"generalized dice: weighting must be {', '.join(POWERS)}, got {weighting!r}"
            )
        self.weighting = weighting

    def combine(self, regions: Regions) -> Tensor:
        """One fraction per case, or one for the pooled batch."""
        weights = self._weights(regions.reference)
        shared = (weights * regions.shared).sum(-1)
        both = (weights * (regions.predicted + regions.reference)).sum(-1)
        extra = self.penalty(regions, weights)
        return (1 - fraction(2 * shared + self.smooth, both + extra + self.smooth)).mean()

    def penalty(self, regions: Regions, weights: Tensor) -> Tensor:
        """What is added below the fraction, ``(B,)`` or a scalar."""
        return (0.0 * weights * regions.reference).sum(-1)

    def _weights(self, reference: Tensor) -> Tensor:
        exponent = POWERS[self.weighting]
        present = reference > 0
        rarest = reference.where(present, torch.full_like(reference, torch.inf))
        rarest = rarest.amin(-1, keepdim=True)
        weights = torch.where(present, (rarest / reference.clamp_min(1e-9)) ** exponent, 1.0)
        return weights.where(present.any(-1, keepdim=True), torch.ones_like(weights))


@LOSSES.register("penalty_dice", paper="Yang et al., MIDL 2019, openreview H1lTh8unKN", by="region")
class PenaltyDice(GeneralizedDice):
    """Generalized Dice loss whose errors are counted again below the fraction.

    ``1 - 2 sum(w TP) / (sum(w (P + G)) + k sum(w FP) + k sum(w FN))``, which is
    ``1 - GD / (1 + k (1 - GD))`` of the generalized Dice ``GD``.

    Args:
        k: Weight of the errors, at least 0, where it is :class:`GeneralizedDice`.
        weighting: ``square``, ``simple`` or ``uniform``.
        include_background: Give label 0 its share too.
        batch: Pool the sums of the batch.
        smooth: Added above and below the fraction.
        ignore_index: Label of voxels to leave out of every sum.

    Raises:
        ConfigError: If ``k`` is negative or another option is wrong.

    References:
        Yang et al., "Major vessel segmentation on X-ray coronary angiography using deep
        networks with a novel penalty loss function", MIDL 2019.
        https://openreview.net/forum?id=H1lTh8unKN
    """

    def __init__(
        self,
        *,
        k: float = 2.5,
        weighting: Weighting = "square",
        include_background: bool = False,
        batch: bool = True,
        smooth: float = 1e-5,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            weighting=weighting,
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ignore_index=ignore_index,
        )
        if not k >= 0.0:
            raise ConfigError(f"penalty dice: k must be at least 0, got {k}")
        self.k = k

    def penalty(self, regions: Regions, weights: Tensor) -> Tensor:
        """``k`` times the weighted errors."""
        errors = regions.false_positives + regions.false_negatives
        return self.k * (weights * errors).sum(-1)
