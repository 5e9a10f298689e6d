"""Distances between the surfaces of two masks, in millimetres.

Of voxels, a surface is the set of centers of a mask's voxels that have a face neighbor outside
it, each counting the same; beyond the volume's border is outside. As a mesh it is the set of
corners between voxels that the boundary passes, weighted by the area of the boundary there. Each
piece of one surface is measured to the nearest piece of the other.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias, get_args

import numpy as np

from medseg3d.errors import ConfigError
from medseg3d.metrics.boxes import box_of
from medseg3d.metrics.masks import MaskPair
from medseg3d.metrics.mesh import pieces
from medseg3d.metrics.nearest import ROUNDING, Distances, nearest_distances
from medseg3d.types import Mask

SurfaceKind: TypeAlias = Literal["voxel", "mesh"]


@dataclass(frozen=True, eq=False)
class Directed:
    """Distances from one surface to another.

    Attributes:
        distances: From each piece of the surface, in mm.
        areas: Of the pieces, in mm2; None if each counts the same.
    """

    distances: Distances
    areas: Distances | None = None

    @property
    def size(self) -> int:
        """Number of pieces."""
        return self.distances.size

    def mean(self) -> float:
        """Mean distance in mm."""
        return float(np.average(self.distances, weights=self.areas))

    def percentile(self, percentile: float) -> float:
        """The distance in mm that so many percent of the surface do not exceed.

        Between two voxels it is interpolated; of a mesh it is the distance of a piece.
        """
        if percentile == 100.0:
            return float(self.distances.max())
        if self.areas is None:
            return float(np.percentile(self.distances, percentile))
        order = np.argsort(self.distances)
        share = np.cumsum(self.areas[order]) / self.areas.sum()
        place = int(np.searchsorted(share, percentile / 100.0 - 1e-12))
        return float(self.distances[order[min(place, self.size - 1)]])

    def within(self, tolerance: float) -> float:
        """Pieces, or their area in mm2, no farther than ``tolerance`` mm."""
        accepted = self.distances <= tolerance * (1.0 + ROUNDING)
        if self.areas is None:
            return float(np.count_nonzero(accepted))
        return float(self.areas[accepted].sum())


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Directed surface distances of two masks, the source of every surface metric.

    The methods return ``nan`` if both surfaces are empty (undefined) and ``inf`` if exactly
    one is (nothing to measure to); :meth:`surface_dice` returns 0 then.

    Attributes:
        to_reference: From the surface of the prediction.
        to_prediction: From the surface of the reference.
    """

    to_reference: Directed
    to_prediction: Directed

    def hausdorff(self, percentile: float = 100.0, *, pooled: bool = False) -> float:
        """Percentile of the distances in mm, the larger of both directions unless pooled.

        Raises:
            ConfigError: If the percentile is not in (0, 100].
        """
        if not 0.0 < percentile <= 100.0:
            raise ConfigError(f"percentile must lie in (0, 100], got {percentile}")
        if self._is_open:
            return self._open_value
        if pooled:
            return self._both.percentile(percentile)
        return max(
            self.to_reference.percentile(percentile), self.to_prediction.percentile(percentile)
        )

    def assd(self) -> float:
        """Mean in mm over both surfaces together."""
        return self._open_value if self._is_open else self._both.mean()

    def masd(self) -> float:
        """Mean in mm of the two directed means, each surface counting the same."""
        if self._is_open:
            return self._open_value
        return (self.to_reference.mean() + self.to_prediction.mean()) / 2

    def surface_dice(self, tolerance: float = 1.0) -> float:
        """Share of both surfaces that lies within ``tolerance`` mm of the other one.

        Raises:
            ConfigError: If the tolerance is negative or not finite.
        """
        if not (np.isfinite(tolerance) and tolerance >= 0.0):
            raise ConfigError(f"tolerance must be a distance in mm of at least 0, got {tolerance}")
        if self._is_open:
            return 0.0 if np.isinf(self._open_value) else float("nan")
        both = self._both
        return both.within(tolerance) / both.within(np.inf)

    @property
    def _both(self) -> Directed:
        there, back = self.to_reference, self.to_prediction
        areas = None
        if there.areas is not None and back.areas is not None:
            areas = np.concatenate([there.areas, back.areas])
        return Directed(np.concatenate([there.distances, back.distances]), areas)

    @property
    def _is_open(self) -> bool:
        return not (self.to_reference.size and self.to_prediction.size)

    @property
    def _open_value(self) -> float:
        return float("inf") if self.to_reference.size + self.to_prediction.size else float("nan")


def surface_voxels(mask: Mask, *, border: bool = True) -> Mask:
    """Voxels of ``mask`` with a face neighbor outside it.

    Args:
        mask: ``(I, J, K)`` bool.
        border: Whether beyond the volume's border is outside.

    Examples:
        >>> int(surface_voxels(np.ones((3, 3, 3), dtype=bool)).sum())
        26
    """
    inside = mask.copy(order="K")
    for axis in range(mask.ndim):
        along, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        kept[1:] &= along[:-1]
        kept[:-1] &= along[1:]
        if border:
            kept[:1] = kept[-1:] = False
    return np.asarray(mask ^ inside, dtype=np.bool_)


def surface_distances(
    masks: MaskPair, *, surface: SurfaceKind = "voxel", border: bool = True
) -> SurfaceDistances:
    """Measure both surfaces against each other, once for all surface metrics.

    Only the box around both masks is looked at, which changes no distance. In an image of one
    slice, surfaces are contours: above and below it nothing is told, so that is no outside.

    Args:
        masks: Both masks, with the spacing. If they are a box cut out of an image already
            (``image_shape``), they are taken as they are: without ``border`` the box must have a
            margin of a voxel where the image goes on.
        surface: ``"voxel"`` or ``"mesh"``.
        border: Whether there is surface at the volume's border, as in MONAI and MedPy. Without, a
            structure that the field of view cuts has no surface at the cut, as in the
            published CHAOS figures. A mask that fills the image has no other surface: then the
            border counts for both masks.

    Raises:
        ConfigError: If ``surface`` is neither.
        DataError: If there is no spacing.
    """
    if surface not in get_args(SurfaceKind):
        raise ConfigError(f"surface must be voxel or mesh, got {surface!r}")
    spacing = masks.voxel_size
    if not (masks.counts.predicted and masks.counts.expected):
        of_one = np.full(1 if masks.counts.union else 0, np.inf)
        return SurfaceDistances(Directed(of_one), Directed(of_one[:0]))
    voxels = prod(masks.image_shape or masks.prediction.shape)
    border = border or voxels in (masks.counts.predicted, masks.counts.expected)
    margin = 0 if border else 1
    if surface == "voxel":
        masks = masks.without_flat_axes()
        both = _cropped(masks, margin=margin)
        first, second = (surface_voxels(mask, border=border) for mask in both)
        there, back = nearest_distances(first, second, masks.voxel_size)
        return SurfaceDistances(Directed(there), Directed(back))
    flat = masks.flat_axes
    (first, areas), (second, other_areas) = (
        pieces(mask, spacing, border=border, flat_axes=flat) for mask in _cropped(masks, margin)
    )
    there, back = nearest_distances(first, second, spacing)
    return SurfaceDistances(Directed(there, areas), Directed(back, other_areas))


def _cropped(masks: MaskPair, margin: int) -> tuple[Mask, Mask]:
    """Both masks in the smallest box that holds them, and a margin, as far as the volume goes."""
    first, second = masks.prediction, masks.reference
    if masks.image_shape is not None:
        return first, second
    box = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box_of(masks))
    return first[box], second[box]
