"""Lesions of two masks, and which of them belong together.

A lesion is a connected component. Lesions are matched by one of three rules:

- ``overlap``: they share a voxel. Each lesion is judged on its own, so one that the other mask
  splits or joins counts as found.
- ``centroid``: the center of the predicted one lies in the reference one; judged likewise.
- ``iou``: their intersection over union exceeds a threshold, one to one. Where several partners
  qualify, those of the largest sum are chosen; with a threshold of 0 this is ``overlap`` one to
  one.
"""

from dataclasses import dataclass
from itertools import product
from math import isfinite
from typing import Literal, TypeAlias, get_args

import cc3d
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics.boxes import cut_out
from medseg3d.metrics.masks import MaskPair
from medseg3d.metrics.nearest import ROUNDING, near
from medseg3d.types import Mask

Rule: TypeAlias = Literal["overlap", "iou", "centroid"]
Connectivity: TypeAlias = Literal[6, 18, 26]

Numbers: TypeAlias = npt.NDArray[np.integer]
"""Number of the lesion that each voxel belongs to, ``(I, J, K)``; 0 is none."""

Counts: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LesionRules:
    """What a lesion is, and when two of them match.

    Attributes:
        rule: See the head of this file.
        threshold: Intersection over union that ``iou`` asks for, in [0, 1].
        strict: Whether it must be exceeded, not only reached.
        connectivity: Neighbors that make one lesion: 6 across faces, 18 also edges, 26 also
            corners.
        min_voxels: Lesions of fewer voxels do not exist, in either mask.
        min_mm3: Lesions of less volume do not exist, in either mask.
        dilation_mm: Grow the reference by this distance before it is split into lesions and
            matched by ``overlap`` or ``centroid``: parts that join are one lesion. Sizes and
            intersections stay those of the masks as they are.

    Raises:
        ConfigError: If a value is out of its range.
    """

    rule: Rule = "overlap"
    threshold: float = 0.1
    strict: bool = True
    connectivity: Connectivity = 26
    min_voxels: int = 1
    min_mm3: float = 0.0
    dilation_mm: float = 0.0

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("rule", self.rule, get_args(Rule)),
            ("connectivity", self.connectivity, get_args(Connectivity)),
        ):
            if value not in choices:
                expected = ", ".join(str(choice) for choice in choices)
                raise ConfigError(f"{name} must be one of {expected}, got {value!r}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"threshold must lie in [0, 1], got {self.threshold}")
        for name in ("min_voxels", "min_mm3", "dilation_mm"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be a number of at least 0, got {value}")


@dataclass(frozen=True, eq=False)
class LesionMatches:
    """Lesions of two masks and the matches among them.

    Attributes:
        num_reference: Lesions of the reference.
        num_predicted: Lesions of the prediction.
        pairs: Numbers of lesions that match, ``(N, 2)``: reference, prediction, from 1.
        ious: Intersection over union of each match, ``(N,)``; empty unless the rule is ``iou``.
    """

    num_reference: int
    num_predicted: int
    pairs: Counts
    ious: npt.NDArray[np.float64]

    @property
    def num_found(self) -> int:
        """Lesions of the reference with a match."""
        return len(np.unique(self.pairs[:, 0]))

    @property
    def num_right(self) -> int:
        """Lesions of the prediction with a match."""
        return len(np.unique(self.pairs[:, 1]))

    def share(self, part: float, whole: int) -> float:
        """``part / whole``: ``nan`` without lesions in both masks, 0 if there is no whole."""
        if self.num_reference + self.num_predicted == 0:
            return float("nan")
        return part / whole if whole else 0.0


def match_lesions(masks: MaskPair, rules: LesionRules) -> LesionMatches:
    """Split both masks into lesions and match them.

    Args:
        masks: Predicted and reference mask, ``(I, J, K)``; with the spacing where the rules have
            a length or volume.
        rules: What a lesion is, and when two of them match.

    Raises:
        DataError: If the masks are not 3D, or a spacing is needed and there is none.
    """
    if masks.prediction.ndim != 3:
        raise DataError(f"lesions are found in 3D masks, got shape {masks.prediction.shape}")
    prediction, reference = cut_out(masks)
    smallest = float(rules.min_voxels)
    if rules.min_mm3:
        smallest = max(smallest, rules.min_mm3 / (1000.0 * masks.voxel_ml) * (1.0 - ROUNDING))
    predicted = _lesions(prediction, rules)
    regions = _lesions(_grown(reference, rules.dilation_mm, masks), rules)
    predicted, predicted_voxels = _large_enough(predicted, prediction, smallest)
    regions, expected_voxels = _large_enough(regions, reference, smallest)

    ious = np.empty(0)
    if rules.rule == "centroid":
        pairs = _centers_inside(regions, predicted)
    elif rules.rule == "overlap":
        pairs, _ = _meetings(regions, predicted)
    else:
        pairs, shared = _meetings(np.where(reference, regions, 0), predicted)
        ious = shared / (expected_voxels[pairs[:, 0]] + predicted_voxels[pairs[:, 1]] - shared)
        enough = ious > rules.threshold if rules.strict else ious >= rules.threshold
        pairs, ious = pairs[enough], ious[enough]
        chosen = _one_to_one(pairs, ious)
        pairs, ious = pairs[chosen], ious[chosen]
    return LesionMatches(len(expected_voxels) - 1, len(predicted_voxels) - 1, pairs, ious)


def _lesions(mask: Mask, rules: LesionRules) -> Numbers:
    """Number of the connected component of each voxel."""
    if not mask.any():
        return np.zeros(mask.shape, dtype=np.uint16)
    found: Numbers = cc3d.connected_components(
        mask, connectivity=rules.connectivity, binary_image=True
    )
    return found


def _grown(mask: Mask, distance_mm: float, masks: MaskPair) -> Mask:
    """The mask and every voxel within so many mm of one of its voxels."""
    if not (distance_mm and mask.any()):
        return mask
    return near(mask, masks.voxel_size, distance_mm)


def _large_enough(regions: Numbers, mask: Mask, smallest: float) -> tuple[Numbers, Counts]:
    """The regions with enough voxels in the mask, numbered anew, and these voxels from 0 on."""
    voxels = np.bincount(regions[mask], minlength=int(regions.max(initial=0)) + 1)
    kept = voxels >= smallest
    kept[0] = True
    if not kept.all():
        regions = np.where(kept, np.cumsum(kept) - 1, 0).astype(regions.dtype)[regions]
    return regions, voxels[kept].astype(np.int64)


def _meetings(reference: Numbers, predicted: Numbers) -> tuple[Counts, Counts]:
    """Pairs of numbers that share voxels, ``(N, 2)``, and how many."""
    both = (reference > 0) & (predicted > 0)
    width = int(predicted.max(initial=0)) + 1
    codes, voxels = np.unique(
        reference[both].astype(np.int64) * width + predicted[both], return_counts=True
    )
    return np.stack([codes // width, codes % width], axis=1), voxels.astype(np.int64)


def _centers_inside(regions: Numbers, predicted: Numbers) -> Counts:
    """Pairs of a region and a predicted lesion whose centroid lies in it.

    A centroid halfway between voxels lies in each of them, so that no direction is preferred.
    """
    places = np.argwhere(predicted)
    numbers = predicted[tuple(places.T)]
    voxels = np.bincount(numbers)[1:]
    centers = [np.bincount(numbers, weights=axis)[1:] / voxels for axis in places.T]
    met: set[tuple[int, int]] = set()
    for upward in product((False, True), repeat=3):
        nearest = tuple(
            (np.floor(axis + 0.5) if up else np.ceil(axis - 0.5)).astype(np.int64)
            for axis, up in zip(centers, upward, strict=True)
        )
        hit = regions[nearest]
        met.update((int(hit[at]), int(at) + 1) for at in np.flatnonzero(hit))
    return np.array(sorted(met), dtype=np.int64).reshape(-1, 2)


def _one_to_one(pairs: Counts, ious: npt.NDArray[np.float64]) -> Counts:
    """The pairs that join each lesion at most once and have the largest sum, by their place."""
    rows, columns = (np.unique(side, return_inverse=True)[1] for side in pairs.T)
    num_rows, num_columns = (int(side.max(initial=-1)) + 1 for side in (rows, columns))
    if num_rows == len(pairs) == num_columns:
        return np.arange(len(pairs))
    alone = np.arange(num_rows)  # each row may stay alone, in a column of its own, at no gain
    cost = np.concatenate([2.0 - ious, np.full(num_rows, 2.0)])
    at = np.concatenate([rows, alone]), np.concatenate([columns, num_columns + alone])
    shape = (num_rows, num_columns + num_rows)
    chosen = set(
        zip(*min_weight_full_bipartite_matching(coo_array((cost, at), shape)), strict=True)
    )
    return np.flatnonzero([pair in chosen for pair in zip(rows, columns, strict=True)])
