"""Losses that weigh errors by their distance from the border of the reference."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.case_maps import CutMaps, MappedLoss, Maps
from medseg3d.losses.distances import (
    Array,
    MaskArray,
    checked_spacing,
    depth_below_deepest,
    signed,
    spacing_for,
    to_border,
)
from medseg3d.losses.voxels import (
    log_probability,
    mean_over_known,
    softmax_and_one_hot,
)
from medseg3d.types import LabelMap

MOST_THREADS = 4
"""Measuring distances at the same time; each takes about 80 bytes per voxel of a patch."""


class DistanceLoss(MappedLoss):
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

    def map_facts(self) -> Mapping[str, Any]:
        """What the maps depend on beside the labels."""
        return {
            "of": type(self).__name__,
            "background": self.include_background,
            "ignored": self.ignore_index,
            "spacing": self.spacing,
        }

    @abstractmethod
    def distances(self, mask: MaskArray, spacing: Sequence[float]) -> Array:
        """The map of one structure ``(*spatial)``."""

    def make_maps(self, labels: LabelMap, num_labels: int) -> Maps:
        """The map of each label that counts, ``(L, *spatial)``; 0 for one that does not."""
        spacing = self.sizes(labels.ndim)
        maps = np.zeros((num_labels, *labels.shape), dtype=np.float32)
        for label in self.counting(num_labels):
            maps[label] = self.distances(labels == label, spacing)
        return maps

    def counting(self, num_labels: int) -> list[int]:
        """The labels that count."""
        return [label for label in range(self.first, num_labels) if label != self.ignore_index]

    def sizes(self, num_axes: int) -> tuple[float, ...]:
        """Voxel size along each of so many axes."""
        return spacing_for(type(self).__name__, self.spacing, num_axes)

    @property
    def first(self) -> int:
        """The first label that counts."""
        return 0 if self.include_background else 1

    def compared(
        self, logits: Tensor, target: Tensor, maps: CutMaps | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities, reference and maps of the labels that count."""
        probabilities, reference = softmax_and_one_hot(logits, target, self.ignore_index)
        distances = self.maps_for(logits, target, maps)
        first = self.first
        return probabilities[:, first:], reference[:, first:], distances[:, first:]

    def mean(self, values: Tensor, target: Tensor) -> Tensor:
        """Mean of ``(B, L, *spatial)`` over cases and labels and the voxels that count."""
        return mean_over_known(values.mean(1), target, self.ignore_index)


@LOSSES.register("boundary", paper="Kervadec et al., MIDL 2019, arXiv:1812.07032", by="distance")
class Boundary(DistanceLoss):
    """Mean of the probability times the signed distance to the reference's border.

    Outside of a structure the distance is positive, inside negative: the best prediction is at
    most 0. An absent structure costs nothing, so add a region loss, for instance
    ``dice+0.1*boundary``.

    Args:
        convention: What the voxels of a structure that touch the outside have: ``rim`` 0, as the
            authors' code has it, or ``symmetric`` their distance to the outside, negated.
        include_background: Average label 0 in too, which adds the mirrored term.
        spacing: Voxel size in mm along each spatial axis; None for 1.
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32, in the unit of the spacing

    Raises:
        ConfigError: If the spacing is not one length above 0 per axis or the convention unknown.

    References:
        Kervadec et al., MIDL 2019. https://arxiv.org/abs/1812.07032
    """

    def __init__(
        self,
        *,
        convention: Literal["rim", "symmetric"] = "rim",
        include_background: bool = False,
        spacing: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            include_background=include_background, spacing=spacing, ignore_index=ignore_index
        )
        if convention not in ("rim", "symmetric"):
            raise ConfigError(f"boundary: convention must be rim or symmetric, got {convention!r}")
        self.convention = convention

    def map_facts(self) -> Mapping[str, Any]:
        """What the maps depend on beside the labels."""
        return {**super().map_facts(), "convention": self.convention}

    def distances(self, mask: MaskArray, spacing: Sequence[float]) -> Array:
        """Signed distance to the border."""
        return signed(mask, spacing, rim=self.convention == "rim")

    def forward(self, logits: Tensor, target: Tensor, maps: CutMaps | None = None) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``.

        Args:
            logits: Of the labels.
            target: Labels.
            maps: Of the whole case, or else made of the labels.
        """
        probabilities, _, distances = self.compared(logits, target, maps)
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

    def distances(self, mask: MaskArray, spacing: Sequence[float]) -> Array:
        """Distance to the border from both sides."""
        return to_border(mask, spacing)

    def forward(self, logits: Tensor, target: Tensor, maps: CutMaps | None = None) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``.

        Args:
            logits: Of the labels.
            target: Labels.
            maps: Of the whole case, or else made of the labels.
        """
        probabilities, reference, expected = self.compared(logits, target, maps)
        coarseness = maps.coarseness if maps else (1.0,) * (logits.ndim - 2)
        distances = expected**self.alpha + self._found(probabilities, coarseness) ** self.alpha
        loss = self.mean((probabilities - reference).square() * distances, target)
        return torch.log1p(loss) if self.logarithm else loss

    def _found(self, probabilities: Tensor, coarseness: Sequence[float]) -> Tensor:
        """Distances to the border of what is more likely than not."""
        masks = (probabilities > 0.5).cpu().numpy()
        pairs = zip(self.sizes(masks.ndim - 2), coarseness, strict=True)
        spacing = [size * factor for size, factor in pairs]
        maps = np.empty(masks.shape, dtype=np.float32)

        def measure(place: tuple[int, ...]) -> None:
            maps[place] = self.distances(masks[place], spacing)

        with ThreadPoolExecutor(min(MOST_THREADS, torch.get_num_threads())) as pool:
            list(pool.map(measure, np.ndindex(masks.shape[:2])))
        return torch.from_numpy(maps).to(probabilities.device)


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

    per_label = False  # each voxel has one label

    def __init__(
        self,
        *,
        normalize: bool = True,
        spacing: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(include_background=True, spacing=spacing, ignore_index=ignore_index)
        self.normalize = normalize

    def map_facts(self) -> Mapping[str, Any]:
        """What the map depends on beside the labels."""
        return {**super().map_facts(), "normalize": self.normalize}

    def distances(self, mask: MaskArray, spacing: Sequence[float]) -> Array:
        """How much less deep a voxel lies than the deepest."""
        return depth_below_deepest(mask, spacing, normalize=self.normalize)

    def make_maps(self, labels: LabelMap, num_labels: int) -> Maps:
        """One map ``(1, *spatial)``, of each voxel in its structure."""
        spacing = self.sizes(labels.ndim)
        depths = np.zeros((1, *labels.shape), dtype=np.float32)
        for label in self.counting(num_labels):
            depths[0] += self.distances(labels == label, spacing)
        return depths

    def forward(self, logits: Tensor, target: Tensor, maps: CutMaps | None = None) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``.

        Args:
            logits: Of the labels.
            target: Labels.
            maps: Of the whole case, or else made of the labels.
        """
        losses = -log_probability(logits, target, self.ignore_index)
        depths = self.maps_for(logits, target, maps)[:, 0]
        return mean_over_known((1 + depths) * losses, target, self.ignore_index)
