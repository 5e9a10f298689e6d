"""Thumbnails: the patient's right is on the left, outlines are where the labels are."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from medseg3d.drawing import color_of
from medseg3d.geometry.grid import Grid
from medseg3d.review.thumbnails import EDGE, thumbnail
from medseg3d.review.volumes import CaseVolumes

COLOR = color_of(1)


def drawn(
    prediction: np.ndarray,
    reference: np.ndarray | None = None,
    image: np.ndarray | None = None,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """Pixels ``(row, column, RGB)`` of the slice in the middle."""
    image = np.zeros(prediction.shape, np.float32) if image is None else image
    grid = Grid(prediction.shape, np.diag([*spacing, 1.0]))
    case = CaseVolumes(image, prediction, reference, None, grid, grid)
    png = thumbnail(case, prediction.shape[2] // 2, (0.0, 100.0))
    pixels = np.rint(255 * imread(io.BytesIO(png))[..., :3]).astype(int)
    assert pixels.shape == (EDGE, EDGE, 3)
    return pixels


def of_color(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((pixels == color).all(axis=-1))


def test_right_is_on_the_left_and_front_on_top() -> None:
    nothing = np.zeros((60, 60, 3), np.uint8)
    image = np.zeros(nothing.shape, np.float32)
    image[45:, 45:] = 100  # right and anterior
    bright = of_color(drawn(nothing, image=image), (255, 255, 255))
    assert bright.max() < EDGE / 2 - 20
    assert bright.min() == 0


def test_the_prediction_is_outlined_in_its_color_and_the_reference_in_white() -> None:
    prediction, reference = np.zeros((2, 200, 200, 3), np.uint8)
    prediction[80:120, 90:110] = 1
    reference[120:140, 90:110] = 1  # further to the right
    pixels = drawn(prediction, reference)
    ours, theirs = of_color(pixels, COLOR), of_color(pixels, (255, 255, 255))
    assert len(ours) > 50
    assert len(theirs) > 50
    assert theirs[:, 1].max() < ours[:, 1].min()
    # both are in the middle of what is shown, with 25 mm on each side
    assert (ours[:, 0].min() + ours[:, 0].max()) / 2 == pytest.approx(EDGE / 2, abs=2)
    assert (theirs[:, 1].min() + ours[:, 1].max()) / 2 == pytest.approx(EDGE / 2, abs=2)
    assert np.ptp([theirs[:, 1].min(), ours[:, 1].max()]) == pytest.approx(EDGE * 60 / 110, abs=3)
    assert not of_color(drawn(prediction), (255, 255, 255)).size


def test_lengths_are_in_mm() -> None:
    prediction = np.zeros((40, 160, 3), np.uint8)
    prediction[15:25, 60:100] = 1  # 40 mm x 40 mm
    ours = of_color(drawn(prediction, spacing=(4.0, 1.0, 1.0)), COLOR)
    height, width = np.ptp(ours, axis=0)
    assert height == pytest.approx(width, abs=2)


def test_a_label_of_any_value_can_be_drawn() -> None:
    prediction = np.zeros((20, 20, 3), np.uint16)
    prediction[5:9, 5:9] = 900
    assert of_color(drawn(prediction), color_of(900)).size
