"""Metrics of the distance between two surfaces: Hausdorff, averages, and surface Dice.

All are statistics of the distances that :mod:`medseg3d.metrics.distances` finds once for all.
"""

from medseg3d.metrics.distances import SurfaceKind, surface_distances
from medseg3d.metrics.masks import MaskPair, metric

METRICS_RELOADED = (
    'Maier-Hein et al., "Metrics reloaded", Nat. Methods 21, 2024. '
    "https://doi.org/10.1038/s41592-023-02151-z"
)


@metric(
    "hausdorff",
    unit="mm",
    better="lower",
    definition="largest distance from the surface of one mask to the surface of the other; "
    "infinite if exactly one mask is empty",
    source="Huttenlocher et al., IEEE Trans. Pattern Anal. Mach. Intell. 15(9), 1993. "
    "https://doi.org/10.1109/34.232073",
)
def hausdorff(
    masks: MaskPair,
    *,
    percentile: float = 100.0,
    pooled: bool = False,
    surface: SurfaceKind = "voxel",
    border: bool = True,
) -> float:
    """Hausdorff distance, or its robust version below the 100th percentile.

    The percentile is taken per direction and the larger of the two is returned [2]_: with linear
    interpolation between surface voxels, without over the area of a mesh.

    Args:
        masks: Both masks, with the spacing.
        percentile: Percentile of the directed distances, in (0, 100].
        pooled: Take one percentile of both directions together, as MedPy does; smaller, for
            comparison with papers that report it.
        surface: Surface voxels, or a mesh weighted by area.
        border: Whether there is surface at the border of the volume.

    Returns:
        Distance in mm; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Raises:
        DataError: If there is no spacing.
        ConfigError: If the percentile is not in (0, 100] or ``surface`` is unknown.

    References:
        .. [1] Huttenlocher et al., IEEE Trans. Pattern Anal. Mach. Intell. 15(9), 1993.
           https://doi.org/10.1109/34.232073
        .. [2] Maier-Hein et al., "Metrics reloaded", Nat. Methods 21, 2024.
           https://doi.org/10.1038/s41592-023-02151-z

    Examples:
        >>> import numpy as np
        >>> a, b = np.zeros((2, 8, 8, 8), dtype=bool)
        >>> a[2, 4, 4] = b[5, 4, 4] = True
        >>> hausdorff(a, b, (2.0, 1.0, 1.0))
        6.0
    """
    distances = masks.once(surface_distances, surface=surface, border=border)
    return distances.hausdorff(percentile, pooled=pooled)


@metric(
    "hausdorff_95",
    unit="mm",
    better="lower",
    definition="the larger of the two directed 95th percentiles of the surface distances (linear "
    "interpolation between voxels, none over the area of a mesh); infinite if exactly one mask "
    "is empty",
    source=METRICS_RELOADED,
)
def hausdorff_95(
    masks: MaskPair,
    *,
    pooled: bool = False,
    surface: SurfaceKind = "voxel",
    border: bool = True,
) -> float:
    """HD95: :func:`hausdorff` at the 95th percentile, blind to the 5 % worst of each surface.

    Args:
        masks: Both masks, with the spacing.
        pooled: Take one percentile of both directions together, as MedPy does.
        surface: Surface voxels, or a mesh weighted by area.
        border: Whether there is surface at the border of the volume.

    Returns:
        Distance in mm; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Raises:
        DataError: If there is no spacing.
        ConfigError: If ``surface`` is unknown.
    """
    distances = masks.once(surface_distances, surface=surface, border=border)
    return distances.hausdorff(95.0, pooled=pooled)


@metric(
    "assd",
    unit="mm",
    better="lower",
    definition="mean distance over both surfaces together, by voxels or by the area of a mesh; "
    "infinite if exactly one mask is empty",
    source="Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009. "
    "https://doi.org/10.1109/TMI.2009.2013851",
)
def assd(masks: MaskPair, *, surface: SurfaceKind = "voxel", border: bool = True) -> float:
    """Average symmetric surface distance, both surfaces together.

    Args:
        masks: Both masks, with the spacing.
        surface: Surface voxels that count the same, or a mesh weighted by area.
        border: Whether there is surface at the border of the volume.

    Returns:
        Distance in mm; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Raises:
        DataError: If there is no spacing.
        ConfigError: If ``surface`` is unknown.

    References:
        Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009.
        https://doi.org/10.1109/TMI.2009.2013851
    """
    return masks.once(surface_distances, surface=surface, border=border).assd()


@metric(
    "masd",
    unit="mm",
    better="lower",
    definition="mean of the two directed mean surface distances; infinite if exactly one mask is "
    "empty",
    source=METRICS_RELOADED,
)
def masd(masks: MaskPair, *, surface: SurfaceKind = "voxel", border: bool = True) -> float:
    """Mean average surface distance, each mask counting the same whatever its size.

    Args:
        masks: Both masks, with the spacing.
        surface: Surface voxels that count the same, or a mesh weighted by area.
        border: Whether there is surface at the border of the volume.

    Returns:
        Distance in mm; ``nan`` if both masks are empty, ``inf`` if exactly one is.

    Raises:
        DataError: If there is no spacing.
        ConfigError: If ``surface`` is unknown.

    References:
        Maier-Hein et al., "Metrics reloaded", Nat. Methods 21, 2024.
        https://doi.org/10.1038/s41592-023-02151-z
    """
    return masks.once(surface_distances, surface=surface, border=border).masd()


@metric(
    "surface_dice",
    unit="1",
    better="higher",
    definition="share of both surfaces, by voxels or by the area of a mesh, within the tolerance "
    "in mm of the other surface (NSD); 0 if exactly one mask is empty",
    source="Nikolov et al., J. Med. Internet Res. 23(7), 2021. https://doi.org/10.2196/26151",
    column="surface_dice_{tolerance:g}mm",
)
def surface_dice(
    masks: MaskPair,
    *,
    tolerance: float = 1.0,
    surface: SurfaceKind = "voxel",
    border: bool = True,
) -> float:
    """Share of both surfaces that lies within ``tolerance`` of the other one (NSD).

    Args:
        masks: Both masks, with the spacing.
        tolerance: Accepted distance in mm, for instance the inter-reader one.
        surface: Surface voxels that count the same, or, as published, a mesh weighted by area.
        border: Whether there is surface at the border of the volume.

    Returns:
        Value in [0, 1]; ``nan`` if both masks are empty, 0 if exactly one is.

    Raises:
        DataError: If there is no spacing.
        ConfigError: If the tolerance is negative or not finite, or ``surface`` is unknown.

    References:
        Nikolov et al., J. Med. Internet Res. 23(7), 2021. https://doi.org/10.2196/26151
    """
    distances = masks.once(surface_distances, surface=surface, border=border)
    return distances.surface_dice(tolerance)
