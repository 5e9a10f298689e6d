"""Small pictures of a case: three slices through its labels."""

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.fingerprint import subsample
from medseg3d.drawing import Picture, Window, full_window, gray, paint, png
from medseg3d.geometry.grid import Grid
from medseg3d.geometry.orientation import Reorientation
from medseg3d.io import LabelVolume, Volume
from medseg3d.types import Affine, LabelMap

HEIGHT, WIDTH = 180, 240
GAP = 6
SAMPLE = 1_000_000
FILL = 0.25
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
    window = full_window(subsample(channel))
    panels = [_panel(channel, turn.grid, labels, center, view, window) for view in VIEWS]
    height = max(len(panel) for panel in panels)
    gap = np.zeros((height, GAP, 3), dtype=np.float32)
    strips = [strip for panel in panels for strip in (_centered(panel, height), gap)]
    return png(np.concatenate(strips[:-1], axis=1))


def _panel(
    channel: npt.NDArray[Any],
    grid: Grid,
    labels: LabelVolume | None,
    center: tuple[int, ...],
    view: tuple[int, int, int],
    window: Window,
) -> Picture:
    across, up, through = view
    lengths = [grid.shape[axis] * grid.spacing[axis] for axis in (across, up)]
    scale = min(WIDTH / lengths[0], HEIGHT / lengths[1])
    columns, rows = (max(1, round(length * scale)) for length in lengths)
    at_across = _steps(columns, grid.shape[across], backwards=across == 0)
    at_up = _steps(rows, grid.shape[up], backwards=True)
    places = np.empty((3, rows, columns))
    places[across], places[up], places[through] = at_across, at_up[:, None], center[through]
    plane = channel.take(center[through], axis=through)
    picture = gray(plane, places[[across, up]], window)
    if labels is not None:
        paint(picture, _labels_at(places, grid.affine, labels), fill=FILL)
    return picture


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


def _centered(panel: Picture, height: int) -> Picture:
    above = (height - len(panel)) // 2
    return np.pad(panel, ((above, height - len(panel) - above), (0, 0), (0, 0)))
