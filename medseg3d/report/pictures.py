"""Small pictures of a case: three slices through its labels."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.geometry.grid import Grid
from medseg3d.geometry.orientation import Reorientation
from medseg3d.io import LabelVolume, Volume
from medseg3d.types import Affine, LabelMap

HEIGHT, WIDTH = 180, 240
GAP = 6
SAMPLE = 1_000_000
FILL = 0.25
COLORS = np.array(
    [
        *((255, 96, 80), (64, 190, 255), (120, 220, 100), (255, 200, 60)),
        *((210, 130, 255), (255, 140, 190), (90, 230, 210), (255, 160, 90)),
    ],
    dtype=np.float32,
)
VIEWS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""Across, up and through the picture: axial, coronal, sagittal."""


def draw(image: Volume, labels: LabelVolume | None) -> bytes:
    """Axial, coronal and sagittal slice through the middle of the labels, as PNG.

    The label map is drawn where its affine says, so that one that lies elsewhere is seen to.
    The patient's right is on the left, as in radiology.

    Args:
        image: The image; its first channel is shown.
        labels: The label map, on whatever grid, or None.
    """
    turn = Reorientation.to_canonical(image.grid)
    channel = turn.apply(image.array[0])
    center = _center(turn.grid, labels)
    low, high = _window(channel)
    panels = [_panel(channel, turn.grid, labels, center, view, low, high) for view in VIEWS]
    height = max(len(panel) for panel in panels)
    gap = np.zeros((height, GAP, 3), dtype=np.uint8)
    strips = [strip for panel in panels for strip in (_centered(panel, height), gap)]
    return _png(np.concatenate(strips[:-1], axis=1))


def _panel(
    channel: npt.NDArray[Any],
    grid: Grid,
    labels: LabelVolume | None,
    center: tuple[int, ...],
    view: tuple[int, int, int],
    low: float,
    high: float,
) -> npt.NDArray[np.uint8]:
    across, up, through = view
    lengths = [grid.shape[axis] * grid.spacing[axis] for axis in (across, up)]
    scale = min(WIDTH / lengths[0], HEIGHT / lengths[1])
    columns, rows = (max(1, round(length * scale)) for length in lengths)
    at_across = _steps(columns, grid.shape[across], backwards=across == 0)
    at_up = _steps(rows, grid.shape[up], backwards=True)
    places = np.empty((3, rows, columns))
    places[across], places[up], places[through] = at_across, at_up[:, None], center[through]
    plane = channel.take(center[through], axis=through).astype(np.float32)
    gray = ndimage.map_coordinates(plane, places[[across, up]], order=1, mode="nearest")
    picture = np.repeat(((gray - low) / (high - low)).clip(0, 1)[..., None] * 255, 3, axis=-1)
    if labels is not None:
        _paint(picture, _labels_at(places, grid.affine, labels))
    return picture.astype(np.uint8)


def _steps(pixels: int, voxels: int, *, backwards: bool) -> npt.NDArray[np.float64]:
    steps = (np.arange(pixels) + 0.5) * voxels / pixels - 0.5
    return steps[::-1] if backwards else steps


def _labels_at(places: npt.NDArray[np.float64], affine: Affine, labels: LabelVolume) -> LabelMap:
    """The label at voxel places of the image, 0 outside of the label map."""
    matrix = np.linalg.solve(labels.grid.affine, affine)
    flat = matrix[:3, :3] @ places.reshape(3, -1) + matrix[:3, 3:]
    nearest = np.rint(flat.clip(-1, np.array(labels.grid.shape)[:, None])).astype(np.intp)
    inside = ((nearest >= 0) & (nearest < np.array(labels.grid.shape)[:, None])).all(axis=0)
    found = np.zeros(inside.size, dtype=labels.labels.dtype)
    found[inside] = labels.labels[tuple(nearest[:, inside])]
    return found.reshape(places.shape[1:])


def _paint(picture: npt.NDArray[np.float32], labels: LabelMap) -> None:
    """Tint each label and draw its border."""
    inside = labels > 0
    color = COLORS[(labels[inside].astype(np.int64) - 1) % len(COLORS)]
    picture[inside] = (1 - FILL) * picture[inside] + FILL * color
    padded = np.pad(labels, 1, mode="edge")
    edge = np.zeros(labels.shape, dtype=np.bool_)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= other != labels
    edge &= inside
    picture[edge] = COLORS[(labels[edge].astype(np.int64) - 1) % len(COLORS)]


def _center(grid: Grid, labels: LabelVolume | None) -> tuple[int, ...]:
    """The voxel to cut through: in the middle of the labels, else of the image."""
    middle = np.subtract(grid.shape, 1) / 2
    if labels is not None:
        step = max(1, round((labels.labels.size / SAMPLE) ** (1 / 3)))
        places = np.argwhere(labels.labels[::step, ::step, ::step]) * step
        if not len(places):  # a small structure between the samples
            places = np.argwhere(labels.labels)
        if len(places):
            world = labels.grid.affine @ [*np.median(places, axis=0), 1.0]
            middle = np.linalg.solve(grid.affine, world)[:3]
    return tuple(np.rint(middle).clip(0, np.subtract(grid.shape, 1)).astype(int).tolist())


def _window(channel: npt.NDArray[Any]) -> tuple[float, float]:
    sample = channel[tuple(slice(None, None, max(1, length // 48)) for length in channel.shape)]
    low, high = np.percentile(sample.astype(np.float64), [1, 99.5]).tolist()
    return low, high if high > low else low + 1


def _centered(panel: npt.NDArray[np.uint8], height: int) -> npt.NDArray[np.uint8]:
    above = (height - len(panel)) // 2
    return np.pad(panel, ((above, height - len(panel) - above), (0, 0), (0, 0)))


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return buffer.getvalue()
