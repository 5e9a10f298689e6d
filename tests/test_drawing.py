"""Pictures of slices: every label has its color, outlines lie inside of the labels."""

import numpy as np

from medseg3d.drawing import COLORS, REFERENCE, color_of, full_window, gray, outline, paint


def test_labels_have_a_color_of_their_own() -> None:
    colors = [color_of(label) for label in range(1, 40)]
    assert len(set(colors)) == 39
    assert tuple(colors[: len(COLORS)]) == COLORS


def test_an_image_is_black_and_white_at_the_ends_of_its_window() -> None:
    plane = np.array([[-50, 0, 50, 100, 150]], np.int16)
    places = np.stack(np.broadcast_arrays(0.0, np.arange(5.0)[None, :]))
    assert gray(plane, places, (0.0, 100.0))[0, :, 1].tolist() == [0, 0, 127.5, 255, 255]
    assert full_window(np.full(9, 7, np.uint8)) == (7.0, 8.0)


def test_labels_are_tinted_and_outlined_above_the_reference() -> None:
    labels, reference = np.zeros((2, 7, 9), np.uint8)
    labels[1:6, 1:6] = 2
    reference[1:6, 2:8] = 1
    assert outline(labels).sum() == 16
    picture = np.zeros((7, 9, 3), np.float32)
    paint(picture, labels, reference=reference, fill=0.5)
    assert picture[1, 3].tolist() == list(color_of(2)), "the prediction lies above"
    assert picture[1, 7].tolist() == list(REFERENCE)
    assert picture[3, 3].tolist() == [part / 2 for part in color_of(2)]
    assert not picture[0].any()
