"""What is measured on a training case before anything is planned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import load_case, nonzero_box
from medseg3d.data.cases import Case
from medseg3d.errors import DataError
from medseg3d.types import LabelMap, Size3, Spacing

SAMPLE = 20_000
"""Foreground voxels kept per case and channel."""

AIR_HU = -900

EXTENT = (0.5, 99.5)
"""Percentiles between which a channel's intensities extend; single voxels do not count."""

BODY = (0.02, 0.98)
"""Shares of the tissue between which the body lies; arms, tubes and noise may be beyond."""

EXTENT_VOXELS = 1_000_000
"""About as many voxels are enough to find them."""


@dataclass(frozen=True)
class CaseFingerprint:
    """Measured facts of one case in canonical orientation, cropped to its non-zero box.

    Attributes:
        shape: Voxels per axis after the crop.
        spacing: Voxel size in mm.
        foreground: Per channel, intensities of at most ``SAMPLE`` labelled voxels.
        looks_like_ct: Per channel, whether integer values begin at air in Hounsfield units.
        extents: Per channel, the 0.5th and 99.5th percentile of the intensities.
        sides: Per label value, how far its center lies to the right of the body's, as a share
            of half the width (:func:`measure_sides`).
    """

    shape: Size3
    spacing: Spacing
    foreground: tuple[npt.NDArray[np.float32], ...]
    looks_like_ct: tuple[bool, ...]
    extents: tuple[tuple[float, float], ...] = ()
    sides: Mapping[int, float] = field(default_factory=dict)


def measure(case: Case, *, ignore_label: int | None = None) -> CaseFingerprint:
    """Read a labelled case and measure it.

    Args:
        case: The case.
        ignore_label: Value of voxels that nobody annotated, which count as background.

    Raises:
        DataError: If a file cannot be trusted or image and label do not share a grid.
    """
    whole = load_case(case)
    if whole.labels is None:
        raise DataError(f"case {case.id}: has no label map, so there is nothing to learn from it")
    box = nonzero_box(whole.image)
    image, labels = whole.image[(slice(None), *box)], whole.labels[box]
    if ignore_label is not None:
        labels = np.where(labels == ignore_label, 0, labels)
    places = np.flatnonzero(labels)
    step = max(1, -(-places.size // SAMPLE))
    sample = image.reshape(image.shape[0], -1)[:, places[::step]]
    return CaseFingerprint(
        shape=(labels.shape[0], labels.shape[1], labels.shape[2]),
        spacing=whole.grid.spacing,
        foreground=tuple(np.asarray(channel, dtype=np.float32) for channel in sample),
        looks_like_ct=tuple(_looks_like_ct(channel) for channel in image),
        extents=tuple(intensity_extent(channel) for channel in image),
        sides=measure_sides(image[0], labels),
    )


def intensity_extent(channel: npt.NDArray[Any]) -> tuple[float, float]:
    """Intensities ``(I, J, K)`` between which all but 0.5 % at either end lie.

    Examples:
        >>> intensity_extent(np.arange(1001, dtype=np.float32).reshape(7, 11, 13))
        (5.0, 995.0)
    """
    low, high = np.percentile(subsample(channel).astype(np.float64), EXTENT)
    return float(low), float(high)


def subsample(channel: npt.NDArray[Any], voxels: int = EXTENT_VOXELS) -> npt.NDArray[Any]:
    """About as many voxels of ``(I, J, K)`` as tell where its intensities lie, all over it."""
    step = max(1, round((channel.size / voxels) ** (1 / 3)))
    return channel[::step, ::step, ::step]


def measure_sides(channel: npt.NDArray[Any], labels: LabelMap) -> dict[int, float]:
    """How far each label's center lies to the right of the middle.

    The middle is that of the body: between the outermost voxels brighter than the mean, but
    for 2 % at either end. Neither a patient beside the middle of the image nor one bright organ
    moves it; in real CT and MR, spine and kidneys are within 0.02 of it. In a constant image
    it is the image's.

    Args:
        channel: Intensities ``(I, J, K)`` in RAS+ order.
        labels: Label values ``(I, J, K)``.

    Returns:
        Offset by label value, background left out, as a share of half the width: -1 and 1 are
        the left and right border of a patient in the middle.

    Examples:
        >>> flat = np.zeros((8, 1, 1), dtype=np.float32)
        >>> measure_sides(flat, np.array([0, 0, 0, 0, 0, 3, 3, 3]).reshape(8, 1, 1))
        {3: 0.625}
    """
    width = len(labels)
    tissue = np.count_nonzero(channel > channel.mean(dtype=np.float64), axis=(1, 2))
    if not tissue.any():
        tissue = np.ones(width, dtype=np.int64)
    reached = np.cumsum([0, *tissue]) / tissue.sum()
    middle = np.interp(BODY, reached, np.arange(width + 1) - 0.5).mean()
    voxels: dict[int, int] = {}
    moments: dict[int, int] = {}
    for place, plane in enumerate(labels):
        values, counts = np.unique(plane[plane != 0], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            voxels[value] = voxels.get(value, 0) + count
            moments[value] = moments.get(value, 0) + count * place
    return {
        value: float((moments[value] / voxels[value] - middle) / (width / 2))
        for value in sorted(voxels)
    }


def _looks_like_ct(channel: npt.NDArray[Any]) -> bool:
    sample = channel[::2, ::2, ::2]
    return bool(sample.min() <= AIR_HU and np.array_equal(sample, np.rint(sample)))
