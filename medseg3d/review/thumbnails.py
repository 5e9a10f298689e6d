"""A small picture of a case for the work list."""

import numpy as np
import numpy.typing as npt

from medseg3d.drawing import Window, gray, paint, png
from medseg3d.review.volumes import CaseVolumes
from medseg3d.types import LabelMap, Mask

EDGE = 144
"""Pixels along each side."""

AROUND_MM = 25.0
"""What is seen around the labels at least, on each side."""

AROUND = 0.3
"""The same as a share of their width."""

FILL = 0.28


def thumbnail(case: CaseVolumes, k: int, window: Window) -> bytes:
    """An axial slice around its labels, as PNG.

    Predicted labels are tinted and outlined in their colors, the reference is outlined in white.
    The patient's right is on the left, as in radiology.

    Args:
        case: The case in RAS+ order.
        k: Which slice.
        window: Intensities that are black and white.
    """
    maps = [case.prediction] + ([] if case.reference is None else [case.reference])
    planes = [labels[:, :, k] for labels in maps]
    labeled = np.logical_or.reduce([plane > 0 for plane in planes])
    places = _places(labeled, case.grid.spacing)
    picture = gray(case.image[:, :, k], places, window)
    picture[~_is_inside(places, labeled.shape)] = 0
    prediction, *reference = (_nearest(plane, places) for plane in planes)
    paint(picture, prediction, reference=reference[0] if reference else None, fill=FILL)
    return png(picture)


def _places(labeled: Mask, spacing: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Where in the slice ``(I, J)`` each pixel lies, ``(2, EDGE, EDGE)``: a square in mm."""
    shown = labeled if labeled.any() else np.ones_like(labeled)
    middles, widths = [], []
    for axis in (0, 1):
        found = np.flatnonzero(shown.any(axis=1 - axis))
        middles.append((found[0] + found[-1]) / 2)
        widths.append((found[-1] - found[0] + 1) * spacing[axis])
    width = max(widths)
    if labeled.any():
        width += 2 * max(AROUND_MM, AROUND * width)
        largest = max(n * length for n, length in zip(labeled.shape, spacing[:2], strict=True))
        width = min(width, largest)
    steps_mm = ((np.arange(EDGE) + 0.5) / EDGE - 0.5)[::-1] * width
    i = middles[0] + steps_mm / spacing[0]
    j = middles[1] + steps_mm / spacing[1]
    return np.stack(np.broadcast_arrays(i[None, :], j[:, None]))


def _is_inside(places: npt.NDArray[np.float64], shape: tuple[int, ...]) -> Mask:
    last = np.array(shape)[:, None, None] - 0.5
    return np.asarray(((places >= -0.5) & (places <= last)).all(axis=0))


def _nearest(plane: LabelMap, places: npt.NDArray[np.float64]) -> LabelMap:
    """The label of each pixel, 0 outside of the image."""
    last = np.array(plane.shape)[:, None, None] - 1
    i, j = np.rint(places).astype(np.intp).clip(0, last)
    found: LabelMap = np.where(_is_inside(places, plane.shape), plane[i, j], 0)
    return found
