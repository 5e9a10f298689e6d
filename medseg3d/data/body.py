"""Where the body lies in an image, so that the air around it need not be predicted."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.data.canonical import Box, CanonicalCase
from medseg3d.data.plan import Normalization, Plan
from medseg3d.types import Mask, Spacing

COARSE_MM = 5.0
"""Distance of the voxels that are looked at."""

MARGIN_MM = 20.0
"""Air that is kept around what is found; skin, hair and thin parts lie within."""

AIR_HU = -500.0
"""Above is tissue, or a partial volume of it; lungs lie inside the body."""

CORNER, LEAST_CORNER = 12, 2
"""Corners of this part of each edge tell how air looks where there is no unit; so many voxels
along each axis must be in them."""

NOISE = 5.0
"""Standard deviations above air at which something begins."""

LEAST_SIGNAL, MOST_NOISE = 0.03, 0.1
"""Shares of the brightest: below the first nothing is seen; with more noise there is no air."""

SPECK_ML = 2.0
"""Noise and ghosts come in smaller pieces; no body does."""

DARKER = 0.01
"""Share of voxels that may be darker than air; with more of them it is something else."""

THIN_MM = 15.0
"""A table's shell is thinner; no body is."""

THROUGH = 0.9
"""Share of the slices that a table runs through."""

WIDE_MM = 150.0
"""A table is wider."""

WORTH = 0.95
"""Share of the image that must be left for a box to be worth it."""


def body_box(case: CanonicalCase, plan: Plan) -> Box:
    """Box that holds all tissue that any channel shows, with a margin of 20 mm.

    In CT all above -500 HU counts, but for a table; in other images all that is brighter than
    the noise of the most even corner.

    Args:
        case: The case in RAS+ order, with as many channels as the plan.
        plan: Says which channels are CT.

    Returns:
        Canonical voxels; the whole image where it has no air, or nearly none.
    """
    shape, spacing = case.grid.shape, case.grid.spacing
    whole = slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
    steps = [max(1, int(COARSE_MM / edge)) for edge in spacing]
    starts = [min(step, n) // 2 for step, n in zip(steps, shape, strict=True)]
    found = None
    for channel, rule in zip(case.image, plan.channels, strict=True):
        seen = channel[tuple(map(slice, starts, shape, steps))]
        mask = _tissue(seen.astype(np.float32), rule, spacing, steps)
        if mask is None:
            return whole
        found = mask if found is None else found | mask
    if found is None or not found.any():
        return whole
    box = []
    for axis, (start, step, edge, n) in enumerate(zip(starts, steps, spacing, shape, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(found.any(axis=others)) * step + start
        margin = step + int(np.ceil(MARGIN_MM / edge))
        box.append(slice(max(0, int(places[0]) - margin), min(n, int(places[-1]) + margin + 1)))
    share = np.prod([part.stop - part.start for part in box]) / np.prod(shape)
    return (box[0], box[1], box[2]) if share < WORTH else whole


def _tissue(
    seen: npt.NDArray[np.float32], rule: Normalization, spacing: Spacing, steps: list[int]
) -> Mask | None:
    """What is not air, or None where that cannot be told."""
    smooth = ndimage.uniform_filter(seen, 3, mode="nearest")
    lengths = [step * edge for step, edge in zip(steps, spacing, strict=True)]
    if rule.scheme == "ct":
        return _without_table(np.maximum(seen, smooth) > AIR_HU, lengths)
    if min(smooth.shape) < 3 * LEAST_CORNER:
        return None
    air, noise = min((_spread(corner) for corner in _corners(smooth)), key=lambda pair: pair[1])
    brightest = float(np.percentile(smooth, 99)) - air
    begins = max(NOISE * noise, LEAST_SIGNAL * brightest)
    if brightest <= 0 or begins > MOST_NOISE * brightest:
        return None
    if np.count_nonzero(smooth < air - begins) > DARKER * smooth.size:
        return None
    return _without_specks(smooth > air + begins, float(np.prod(lengths)) / 1000)


def _corners(smooth: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """The eight corners."""
    ends = []
    for n in smooth.shape:
        edge = max(LEAST_CORNER, n // CORNER)
        ends.append((slice(0, edge), slice(n - edge, n)))
    return [smooth[i, j, k] for i in ends[0] for j in ends[1] for k in ends[2]]


def _spread(part: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Median, and the standard deviation by the distances from it."""
    middle = float(np.median(part))
    return middle, 1.4826 * float(np.median(np.abs(part - middle)))


def _without_specks(mask: Mask, voxel_ml: float) -> Mask:
    parts, _ = ndimage.label(mask)
    large = np.bincount(parts.ravel()) * voxel_ml >= SPECK_ML
    large[0] = False
    return np.asarray(large[parts])


def _without_table(mask: Mask, lengths: list[float]) -> Mask:
    """Leave out what is thin from front to back, wide, and runs through nearly all slices."""
    thick = max(2, int(np.ceil(THIN_MM / lengths[1])))
    sheets = mask & ~ndimage.binary_opening(mask, np.ones((1, thick, 1)))
    parts, _ = ndimage.label(sheets)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        wide, _, through = (part.stop - part.start for part in box)
        if wide * lengths[0] > WIDE_MM and through > THROUGH * mask.shape[2]:
            mask = mask & (parts != number)
    return mask
