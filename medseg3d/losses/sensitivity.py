"""Sensitivity and specificity as squared errors inside and outside of each structure."""

from torch import Tensor

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.region import Empty, LabelwiseLoss, Regions


@LOSSES.register(
    "sensitivity_specificity",
    paper="Brosch et al., MICCAI 2015, doi:10.1007/978-3-319-24574-4_1",
)
class SensitivitySpecificity(LabelwiseLoss):
    """Mean squared error inside each structure and outside of it, weighted.

    For each label, with probabilities ``p`` and one-hot labels ``g``::

        r sum((g - p)^2 g) / sum(g) + (1 - r) sum((g - p)^2 (1 - g)) / sum(1 - g)

    Args:
        sensitivity_weight: ``r``, the weight of the error inside, in [0, 1].
        include_background: Average label 0 in too.
        batch: Pool the sums of the batch.
        smooth: Added below both fractions.
        ignore_index: Label of voxels to leave out of every sum.
        empty: What a label that the patch does not hold costs: ``smooth`` its error outside, or
            ``skip`` nothing.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If the weight is not in [0, 1], ``smooth`` negative or ``empty`` unknown.

    References:
        Brosch et al., MICCAI 2015. https://doi.org/10.1007/978-3-319-24574-4_1
    """

    def __init__(
        self,
        *,
        sensitivity_weight: float = 0.05,
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
        if not 0.0 <= sensitivity_weight <= 1.0:
            raise ConfigError(
                "sensitivity_specificity: sensitivity_weight must lie in [0, 1], got "
                f"{sensitivity_weight}"
            )
        self.sensitivity_weight = sensitivity_weight

    def per_label(self, regions: Regions) -> Tensor:
        """The weighted sum of both errors of each label."""
        # the sum of (1 - p)^2 g is G - 2 I + sum(p^2 g), that of p^2 (1 - g) the rest of p^2
        inside = regions.reference - 2 * regions.shared + regions.shared_squares
        outside = regions.predicted_squares - regions.shared_squares
        # where there are no voxels there is no error either
        sensitivity = inside / (regions.reference + self.smooth).clamp_min(1)
        outer = regions.voxels - regions.reference
        specificity = outside / (outer + self.smooth).clamp_min(1)
        r = self.sensitivity_weight
        return r * sensitivity + (1 - r) * specificity
