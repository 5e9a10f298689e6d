"""A small picture of a case for the work list."""

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.review.volumes import CaseVolumes
from medseg3d.types import LabelMap, Mask

EDGE = 144
"""Pixels along each side."""

AROUND_MM = 25.0
"""What is seen around the labels at least, on each side."""

AROUND = 0.3
"""The same as a share of their width."""

FILL = 0.28
REFERENCE = (255.0, 255.0, 255.0)

Color = tuple[int, int, int]


def thumbnail(
    case: CaseVolumes, k: int, window: tuple[float, float], colors: Mapping[int, Color]
) -> bytes:
    """An axial slice around its labels, as PNG.

    Predicted labels are tinted and outlined in their colors, the reference is outlined in white.
    The patient's right is on the left, as in radiology.

    Args:
        case: The case in RAS+ order.
        k: Which slice.
        window: Intensities that are black and white.
        colors: Color of each label.
    """
    maps = [case.prediction] + ([] if case.reference is None else [case.reference])
    planes = [labels[:, :, k] for labels in maps]
    labeled = np.logical_or.reduce([plane > 0 for plane in planes])
    places = _places(labeled, case.grid.spacing)
    low, high = window
    image = case.image[:, :, k].astype(np.float32)
    gray = ndimage.map_coordinates(image, places, order=1, mode="nearest")
    gray = ((gray - low) / (high - low)).clip(0, 1)
    gray[~_is_inside(places, labeled.shape)] = 0
    picture = np.repeat(255 * gray[..., None], 3, axis=-1)
    prediction, *reference = (_nearest(plane, places) for plane in planes)
    table = {label: colors.get(label, (255, 255, 255)) for label in np.unique(prediction).tolist()}
    for label, color in table.items():
        if label == 0:
            continue
        mask = prediction == label
        picture[mask] = (1 - FILL) * picture[mask] + FILL * np.array(color)
    for expected in reference:
        picture[outline(expected)] = REFERENCE
    edges = outline(prediction)
    for label, color in table.items():
        picture[edges & (prediction == label)] = color
    return _png(picture.astype(np.uint8))


def outline(labels: LabelMap) -> Mask:
    """Pixels of a label with a neighbor of another."""
    padded = np.pad(labels, 1, mode="edge")
    edge = np.zeros(labels.shape, np.bool_)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= other != labels
    return edge & (labels > 0)


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


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return buffer.getvalue()
