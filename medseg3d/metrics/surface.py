"""Distances between the surfaces of two masks, in millimetres.

A surface is the set of voxel centres of a mask that have a face neighbour outside it; beyond
the volume's border is outside. Each surface voxel of one mask is measured to the nearest
surface voxel of the other. Both directions are computed once, in :class:`SurfaceDistances`;
every metric of this file is a statistic of them.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics import METRICS
from medseg3d.metrics.overlap import check_masks
from medseg3d.types import Mask, Spacing

Distances: TypeAlias = npt.NDArray[np.float64]
"""Distances in mm, one per surface voxel, in no particular order."""

VOXELS_PER_QUERY = 12
"""A distance transform of this many voxels costs about as much as one tree query."""

QUERIES_WORTH_THREADS = 20_000
"""Fewer queries than this are answered sooner by one thread."""

ROUNDING = 1e-6
"""Relative excess at which a distance still equals a tolerance: headers store float32."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Directed surface distances of two masks, the source of every surface metric.

    The methods return ``nan`` if both surfaces are empty (undefined) and ``inf`` if exactly
    one is (nothing to measure to); :meth:`surface_dice` returns 0 then.

    Args:
        to_reference: From each surface voxel of the prediction, in mm.
        to_prediction: From each surface voxel of the reference, in mm.
    """

    to_reference: Distances
    to_prediction: Distances

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
            return float(np.percentile(self._both, percentile))
        return max(
            float(np.percentile(self.to_reference, percentile)),
            float(np.percentile(self.to_prediction, percentile)),
        )

    def assd(self) -> float:
        """Mean in mm over the surface voxels of both masks together."""
        return self._open_value if self._is_open else float(self._both.mean())

    def masd(self) -> float:
        """Mean in mm of the two directed means, each mask counting the same."""
        if self._is_open:
            return self._open_value
        return (float(self.to_reference.mean()) + float(self.to_prediction.mean())) / 2

    def surface_dice(self, tolerance: float = 1.0) -> float:
        """Share of both surfaces that lies within ``tolerance`` mm of the other one.

        Raises:
            ConfigError: If the tolerance is negative or not finite.
        """
        if not (np.isfinite(tolerance) and tolerance >= 0.0):
            raise ConfigError(f"tolerance must be a distance in mm of at least 0, got {tolerance}")
        if self._is_open:
            return 0.0 if np.isinf(self._open_value) else float("nan")
        accepted = self._both <= tolerance * (1.0 + ROUNDING)
        return int(np.count_nonzero(accepted)) / accepted.size

    @property
    def _both(self) -> Distances:
        return np.concatenate([self.to_reference, self.to_prediction])

    @property
    def _is_open(self) -> bool:
        return not (self.to_reference.size and self.to_prediction.size)

    @property
    def _open_value(self) -> float:
        return float("inf") if self._both.size else float("nan")


def surface(mask: Mask, *, border: bool = True) -> Mask:
    """Voxels of ``mask`` with a face neighbour outside it.

    Args:
        mask: ``(I, J, K)`` bool.
        border: Whether beyond the volume's border is outside.

    Examples:
        >>> int(surface(np.ones((3, 3, 3), dtype=bool)).sum())
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
    prediction: Mask, reference: Mask, spacing: Spacing, *, border: bool = True
) -> SurfaceDistances:
    """Measure both surfaces against each other, once for all surface metrics.

    Only the box around both masks is looked at, which changes no distance.

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Voxel size in mm along each array axis.
        border: Whether voxels at the volume's border are surface, as in MONAI and MedPy.
            Without, a structure that the field of view cuts has no surface at the cut, as in
            the published CHAOS figures.

    Raises:
        DataError: If the masks are not boolean, differ in shape or do not fit the spacing.
    """
    check_masks(prediction, reference)
    size = np.asarray(spacing, dtype=np.float64)
    if size.shape != (prediction.ndim,) or not (np.isfinite(size).all() and (size > 0).all()):
        raise DataError(
            f"spacing must be {prediction.ndim} lengths in mm above 0, one per axis, got {spacing}"
        )
    box = _box_around(prediction, reference)
    if not border:  # only what ends at the volume's border may end at the box's
        box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    predicted, expected = (surface(mask[box], border=border) for mask in (prediction, reference))
    return SurfaceDistances(
        to_reference=_directed_distances(predicted, expected, size),
        to_prediction=_directed_distances(expected, predicted, size),
    )


@METRICS.register(
    "hausdorff",
    unit="mm",
    better="lower",
    definition="largest distance from a surface voxel of one mask to the surface of the other",
)
def hausdorff(
    prediction: Mask,
    reference: Mask,
    spacing: Spacing,
    *,
    percentile: float = 100.0,
    pooled: bool = False,
) -> float:
    """Hausdorff distance, or its robust version below the 100th percentile.

    The percentile (linear interpolation) is taken per direction and the larger of the two is
    returned [2]_.

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Voxel size in mm along each array axis.
        percentile: Percentile of the directed distances, in (0, 100].
        pooled: Take one percentile of both directions together, as MedPy does; smaller, for
            comparison with papers that report it.

    Returns:
        Distance in mm; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Raises:
        DataError: If the masks cannot be compared or the spacing is not one of lengths.
        ConfigError: If the percentile is not in (0, 100].

    References:
        .. [1] Huttenlocher et al., IEEE Trans. Pattern Anal. Mach. Intell. 15(9), 1993.
           https://doi.org/10.1109/34.232073
        .. [2] Maier-Hein et al., "Metrics reloaded", Nat. Methods 21, 2024.
           https://doi.org/10.1038/s41592-023-02151-z

    Examples:
        >>> a, b = np.zeros((2, 8, 8, 8), dtype=bool)
        >>> a[2, 4, 4] = b[5, 4, 4] = True
        >>> hausdorff(a, b, (2.0, 1.0, 1.0))
        6.0
    """
    distances = surface_distances(prediction, reference, spacing)
    return distances.hausdorff(percentile, pooled=pooled)


@METRICS.register(
    "hausdorff_95",
    unit="mm",
    better="lower",
    definition=(
        "the larger of the two directed 95th percentiles (linear interpolation) of the surface "
        "distances"
    ),
)
def hausdorff_95(
    prediction: Mask, reference: Mask, spacing: Spacing, *, pooled: bool = False
) -> float:
    """HD95: :func:`hausdorff` at the 95th percentile, blind to the 5 % worst of each surface.

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Voxel size in mm along each array axis.
        pooled: Take one percentile of both directions together, as MedPy does.

    Returns:
        Distance in mm; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Raises:
        DataError: If the masks cannot be compared or the spacing is not one of lengths.
    """
    return surface_distances(prediction, reference, spacing).hausdorff(95.0, pooled=pooled)


@METRICS.register(
    "assd",
    unit="mm",
    better="lower",
    definition="mean surface distance over the surface voxels of both masks together",
)
def assd(prediction: Mask, reference: Mask, spacing: Spacing) -> float:
    """Average symmetric surface distance, every surface voxel counting the same.

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Voxel size in mm along each array axis.

    Returns:
        Distance in mm; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Raises:
        DataError: If the masks cannot be compared or the spacing is not one of lengths.

    References:
        Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009.
        https://doi.org/10.1109/TMI.2009.2013851
    """
    return surface_distances(prediction, reference, spacing).assd()


@METRICS.register(
    "masd",
    unit="mm",
    better="lower",
    definition="mean of the two directed mean surface distances",
)
def masd(prediction: Mask, reference: Mask, spacing: Spacing) -> float:
    """Mean average surface distance, each mask counting the same whatever its size.

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Voxel size in mm along each array axis.

    Returns:
        Distance in mm; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Raises:
        DataError: If the masks cannot be compared or the spacing is not one of lengths.

    References:
        Maier-Hein et al., "Metrics reloaded", Nat. Methods 21, 2024.
        https://doi.org/10.1038/s41592-023-02151-z
    """
    return surface_distances(prediction, reference, spacing).masd()


@METRICS.register(
    "surface_dice",
    unit="1",
    better="higher",
    definition=(
        "share of the surface voxels of both masks within the tolerance of the other surface "
        "(NSD); 0 if exactly one mask is empty"
    ),
)
def surface_dice(
    prediction: Mask, reference: Mask, spacing: Spacing, *, tolerance: float = 1.0
) -> float:
    """Share of both surfaces that lies within ``tolerance`` of the other one (NSD).

    Args:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Voxel size in mm along each array axis.
        tolerance: Accepted distance in mm, for instance the inter-reader one.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If the masks cannot be compared or the spacing is not one of lengths.
        ConfigError: If the tolerance is negative or not finite.

    References:
        Nikolov et al., J. Med. Internet Res. 23(7), 2021. https://doi.org/10.2196/26151
        (here with voxels counted, not weighted by surface area)
    """
    return surface_distances(prediction, reference, spacing).surface_dice(tolerance)


def _box_around(first: Mask, second: Mask) -> tuple[slice, ...]:
    """Smallest box that holds both masks; an empty one if they are empty."""
    box: tuple[slice, ...] = ()
    for axis in range(first.ndim):
        others = tuple(a for a in range(first.ndim) if a != axis)
        used = np.flatnonzero(first[box].any(axis=others) | second[box].any(axis=others))
        box += (slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0),)
    return box


def _directed_distances(source: Mask, target: Mask, spacing: npt.NDArray[np.float64]) -> Distances:
    """Distance in mm from every voxel of ``source`` to the nearest one of ``target``."""
    distances = np.zeros(int(np.count_nonzero(source)))
    if not target.any():
        distances.fill(np.inf)
        return distances
    apart = np.argwhere(source & ~target)  # the rest is at distance 0
    if len(apart) == 0:
        return distances
    if len(apart) * VOXELS_PER_QUERY > source.size:
        nearest = ndimage.distance_transform_edt(
            ~target, sampling=spacing, return_distances=False, return_indices=True
        )[:, *apart.T].T
    else:
        places = np.argwhere(target)
        tree = cKDTree(places * spacing, leafsize=32, compact_nodes=False, balanced_tree=False)
        workers = -1 if len(apart) > QUERIES_WORTH_THREADS else 1
        nearest = places[tree.query(apart * spacing, workers=workers)[1]]
    distances[: len(apart)] = np.linalg.norm((nearest - apart) * spacing, axis=1)
    return distances
