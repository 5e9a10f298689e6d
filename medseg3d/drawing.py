"""Slices as pictures: gray images, labels tinted and outlined, each label in a color of its own."""

import colorsys
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.types import LabelMap, Mask

SHOWN = (1.0, 99.5)
"""Percentiles of the intensities that are black and white."""

COLORS = (
    *((92, 184, 255), (255, 198, 74), (200, 140, 255), (110, 214, 120)),
    *((255, 128, 170), (84, 222, 208), (255, 152, 92), (176, 190, 255)),
    *((214, 222, 96), (255, 178, 220), (150, 205, 170), (224, 176, 130)),
)
GOLDEN = 0.618034
REFERENCE = (255, 255, 255)

Color = tuple[int, int, int]
Window = tuple[float, float]
"""Intensities that are black and white."""

Picture = npt.NDArray[np.float32]
"""Red, green and blue from 0 to 255, ``(rows, columns, 3)``."""


def color_of(label: int) -> Color:
    """The color of a label, the same in every picture and page.

    Examples:
        >>> color_of(1), color_of(14)
        ((92, 184, 255), (115, 127, 255))
    """
    if 1 <= label <= len(COLORS):
        return COLORS[label - 1]
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1.0, 0.55, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def full_window(intensities: npt.NDArray[Any]) -> Window:
    """What nearly all of the intensities lie in."""
    low, high = np.percentile(intensities.astype(np.float64), SHOWN).tolist()
    return low, high if high > low else low + 1.0


def gray(plane: npt.NDArray[Any], places: npt.NDArray[np.float64], window: Window) -> Picture:
    """A slice of an image as a picture.

    Args:
        plane: Intensities.
        places: Where in it each pixel lies, ``(2, rows, columns)``.
        window: Intensities that are black and white.
    """
    low, high = window
    found = ndimage.map_coordinates(plane.astype(np.float32), places, order=1, mode="nearest")
    return np.repeat(255 * ((found - low) / (high - low)).clip(0, 1)[..., None], 3, axis=-1)


def paint(
    picture: Picture, labels: LabelMap, *, reference: LabelMap | None = None, fill: float = 0.0
) -> None:
    """Draw labels on a picture: tinted and outlined in their colors, the reference in white.

    Args:
        picture: What to draw on.
        labels: Label of each pixel.
        reference: Label map whose outlines lie below those of the labels.
        fill: Share of its label's color in the color of a pixel.
    """
    values, places = np.unique(labels, return_inverse=True)
    table = np.array([color_of(value) for value in values.tolist()], dtype=np.float32)
    colors = table[places.reshape(labels.shape)]
    inside, edge = labels > 0, outline(labels)
    picture[inside] = (1 - fill) * picture[inside] + fill * colors[inside]
    if reference is not None:
        picture[outline(reference)] = REFERENCE
    picture[edge] = colors[edge]


def outline(labels: LabelMap) -> Mask:
    """Pixels of a label with a neighbor of another; the border of the picture is none."""
    padded = np.pad(labels, 1, mode="edge")
    edge = np.zeros(labels.shape, dtype=np.bool_)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= other != labels
    return edge & (labels > 0)


def png(picture: Picture) -> bytes:
    """The picture as a file."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture.astype(np.uint8), format="png")
    return buffer.getvalue()
