"""Tversky and its kin: overlap with false positives and false negatives weighted apart."""

from typing import Any

from torch import Tensor

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.region import Empty, LabelwiseLoss, Regions, fraction
from medseg3d.losses.voxels import power


@LOSSES.register("tversky", paper="Salehi et al., MLMI 2017, arXiv:1706.05721", by="region")
class Tversky(LabelwiseLoss):
    """Tversky loss, per label and then averaged.

    For each label, with the smoothing above and below the fraction::

        1 - TP / (TP + alpha FP + beta FN)

    ``alpha = beta = 0.5`` is Dice, ``alpha = beta = 1`` is IoU.

    Args:
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, at least 0; larger than ``alpha`` for recall.
        include_background: See ``RegionLoss``, also for the options that follow.
        batch: Pool the batch.
        smooth: Smoothing.
        ignore_index: Label of voxels to leave out.
        empty: ``smooth`` or ``skip``.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If a weight or ``smooth`` is negative or ``empty`` unknown.

    References:
        Salehi et al., MLMI 2017. https://arxiv.org/abs/1706.05721
    """

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
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
        if not min(alpha, beta) >= 0.0:
            raise ConfigError(f"tversky: weights must be at least 0, got {alpha} and {beta}")
        self.alpha, self.beta = alpha, beta

    def per_label(self, regions: Regions) -> Tensor:
        """``1 - Tversky index`` of each label."""
        wrong = self.alpha * regions.false_positives + self.beta * regions.false_negatives
        return 1 - fraction(regions.shared + self.smooth, regions.shared + wrong + self.smooth)


@LOSSES.register(
    "focal_tversky", paper="Abraham and Khan, ISBI 2019, arXiv:1810.07842", by="region"
)
class FocalTversky(Tversky):
    """Tversky loss of each label to the power ``1 / gamma``, then averaged.

    The slope at a perfect overlap, infinite in the formula, is bounded. An absent label costs what
    the smoothing makes of it.

    Args:
        gamma: From 1, where it is :class:`Tversky`, to 3.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        include_background: See ``RegionLoss``, also for the options that follow.
        batch: Pool the batch.
        smooth: Smoothing.
        ignore_index: Label of voxels to leave out.

    Attributes:
        finest: What the finest of several levels is compared by where a network wants that, so
            that a loss that flattens near a good overlap does not hold it back.

    Raises:
        ConfigError: If ``gamma`` is not in [1, 3] or another option is wrong.

    References:
        Abraham and Khan, ISBI 2019. https://arxiv.org/abs/1810.07842
    """

    def __init__(
        self,
        *,
        gamma: float = 4 / 3,
        alpha: float = 0.3,
        beta: float = 0.7,
        include_background: bool = False,
        batch: bool = False,
        smooth: float = 1e-5,
        ignore_index: int | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "alpha": alpha,
            "beta": beta,
            "include_background": include_background,
            "batch": batch,
            "smooth": smooth,
            "ignore_index": ignore_index,
        }
        super().__init__(**options)
        if not 1.0 <= gamma <= 3.0:
            raise ConfigError(f"focal_tversky: gamma must lie in [1, 3], got {gamma}")
        self.gamma = gamma
        self.finest = Tversky(**options)

    def per_label(self, regions: Regions) -> Tensor:
        """``(1 - Tversky index) ** (1 / gamma)`` of each label."""
        return power(super().per_label(regions).clamp_min(0), 1 / self.gamma)


@LOSSES.register(
    "asymmetric_similarity", paper="Hashemi et al., IEEE Access 2019, arXiv:1803.11078", by="region"
)
class AsymmetricSimilarity(Tversky):
    """Loss of the F-beta score: a :class:`Tversky` whose weights add up to 1.

    False negatives weigh ``q = beta^2 / (1 + beta^2)``, false positives ``1 - q``.

    Args:
        beta: How much more recall counts than precision, above 0; 1 is Dice.
        include_background: See ``RegionLoss``, also for the options that follow.
        batch: Pool the batch.
        smooth: Smoothing.
        ignore_index: Label of voxels to leave out.
        empty: ``smooth`` or ``skip``.

    Raises:
        ConfigError: If ``beta`` is not above 0, ``smooth`` negative or ``empty`` unknown.

    References:
        Hashemi et al., IEEE Access 7, 2019. https://arxiv.org/abs/1803.11078
    """

    def __init__(
        self,
        *,
        beta: float = 1.5,
        include_background: bool = False,
        batch: bool = False,
        smooth: float = 1e-5,
        ignore_index: int | None = None,
        empty: Empty = "smooth",
    ) -> None:
        if not beta > 0.0:
            raise ConfigError(f"asymmetric_similarity: beta must be above 0, got {beta}")
        recall = beta**2 / (1 + beta**2)
        super().__init__(
            alpha=1 - recall,
            beta=recall,
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ignore_index=ignore_index,
            empty=empty,
        )
