"""A slice of a case under the outlines of two label maps, as a picture."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.report.pictures import COLORS
from medseg3d.types import LabelMap, Mask

EDGE = 420
"""Pixels along the longer side."""

SHOWN = (1.0, 99.5)
"""Percentiles of the intensities that are black and white."""

REFERENCE = (255.0, 255.0, 255.0)


def overlay(
    image: npt.NDArray[Any],
    prediction: LabelMap,
    reference: LabelMap,
    spacing: tuple[float, float],
) -> bytes:
    """An axial slice as PNG: the reference outlined in white, the prediction in colors on it.

    The patient's right is on the left, as in radiology.

    Args:
        image: Intensities ``(I, J)`` in RAS+ order.
        prediction: Label map of the same shape, values counted from 0.
        reference: Likewise.
        spacing: Pixel size in mm along ``(I, J)``.
    """
    columns, rows = _size(image.shape, spacing)
    i = _steps(columns, image.shape[0])
    j = _steps(rows, image.shape[1])
    places = np.stack(np.broadcast_arrays(i[None, :], j[:, None]))
    gray = ndimage.map_coordinates(image.astype(np.float32), places, order=1, mode="nearest")
    low, high = np.percentile(image.astype(np.float64), SHOWN)
    gray = ((gray - low) / max(high - low, 1e-6)).clip(0, 1)
    picture = np.repeat(255 * gray[..., None], 3, axis=-1)
    nearest = np.ix_(np.rint(i).astype(np.intp), np.rint(j).astype(np.intp))
    ours, theirs = (labels[nearest].T.astype(np.int64) for labels in (prediction, reference))
    picture[outline(theirs)] = REFERENCE
    edge = outline(ours)
    picture[edge] = COLORS[(ours[edge] - 1) % len(COLORS)]
    return _png(picture.astype(np.uint8))


def outline(labels: LabelMap) -> Mask:
    """Pixels of a label with a neighbor of another; the border of the picture is none."""
    padded = np.pad(labels, 1, mode="edge")
    edge = np.zeros(labels.shape, dtype=np.bool_)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= other != labels
    return edge & (labels > 0)


def _size(shape: tuple[int, ...], spacing: tuple[float, float]) -> tuple[int, int]:
    """Pixels across and down, so that a mm is as long in both directions."""
    lengths = [number * length for number, length in zip(shape, spacing, strict=True)]
    across, down = (max(1, round(EDGE * length / max(lengths))) for length in lengths)
    return across, down


def _steps(pixels: int, voxels: int) -> npt.NDArray[np.float64]:
    """Where each pixel lies among the voxels, backwards."""
    steps = (np.arange(pixels) + 0.5) * voxels / pixels - 0.5
    return steps[::-1].clip(0, voxels - 1)


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return buffer.getvalue()
