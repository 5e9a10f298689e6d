"""A slice of a case under the outlines of two label maps, as a picture."""

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.drawing import full_window, gray, paint, png
from medseg3d.types import LabelMap

EDGE = 420
"""Pixels along the longer side."""


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
        prediction: Label map of the same shape.
        reference: Likewise.
        spacing: Pixel size in mm along ``(I, J)``.
    """
    columns, rows = _size(image.shape, spacing)
    i = _steps(columns, image.shape[0])
    j = _steps(rows, image.shape[1])
    places = np.stack(np.broadcast_arrays(i[None, :], j[:, None]))
    picture = gray(image, places, full_window(image))
    nearest = np.ix_(np.rint(i).astype(np.intp), np.rint(j).astype(np.intp))
    paint(picture, prediction[nearest].T, reference=reference[nearest].T)
    return png(picture)


def _size(shape: tuple[int, ...], spacing: tuple[float, float]) -> tuple[int, int]:
    """Pixels across and down, so that a mm is as long in both directions."""
    lengths = [number * length for number, length in zip(shape, spacing, strict=True)]
    across, down = (max(1, round(EDGE * length / max(lengths))) for length in lengths)
    return across, down


def _steps(pixels: int, voxels: int) -> npt.NDArray[np.float64]:
    """Where each pixel lies among the voxels, backwards."""
    steps = (np.arange(pixels) + 0.5) * voxels / pixels - 0.5
    return steps[::-1].clip(0, voxels - 1)
