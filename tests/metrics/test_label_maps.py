"""Scores from a confusion matrix: the founding example, absent labels, and the mask metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.errors import DataError
from medseg3d.metrics.confusion import confusion_matrix
from medseg3d.metrics.label_maps import (
    dice_per_label,
    frequency_weighted_iou,
    iou_per_label,
    mean_iou,
    pixel_accuracy,
    precision_macro,
    precision_per_label,
    recall_macro,
    recall_per_label,
)
from medseg3d.metrics.overlap import dice, iou, precision, recall

EXAMPLE = np.array([[3, 0, 1], [0, 2, 0], [0, 1, 2]])
MEANS = (precision_macro, recall_macro, mean_iou)
ALL = (*MEANS, pixel_accuracy, frequency_weighted_iou)
maps = arrays(np.uint8, (3, 4, 2), elements=st.integers(0, 3))


def near(values: float | list[float]) -> object:
    return pytest.approx(values, abs=1e-5)


def test_published_vector() -> None:
    cells = np.repeat(np.argwhere(EXAMPLE >= 0), EXAMPLE.ravel(), axis=0)
    found = confusion_matrix(cells[:, 1], cells[:, 0], (0, 1, 2))
    assert found.tolist() == EXAMPLE.tolist()
    assert pixel_accuracy(found) == near(0.777778)
    assert precision_per_label(found).tolist() == near([1.0, 0.666667, 0.666667])
    assert precision_macro(found) == near(0.777778)
    assert recall_per_label(found).tolist() == near([0.75, 1.0, 0.666667])
    assert recall_macro(found) == near(0.805556)
    assert iou_per_label(found).tolist() == near([0.75, 0.666667, 0.5])
    assert mean_iou(found) == near(0.638889)
    assert frequency_weighted_iou(found) == near(0.648148)
    assert dice_per_label(found).tolist() == near([0.857143, 0.8, 0.666667])


def test_without_the_background() -> None:
    assert mean_iou(EXAMPLE, include_background=False) == near((0.666667 + 0.5) / 2)
    assert precision_macro(EXAMPLE, include_background=False) == near(0.666667)
    assert recall_macro(EXAMPLE, include_background=False) == near((1.0 + 0.666667) / 2)


def test_a_label_that_neither_map_has_leaves_the_mean_and_a_missed_one_does_not() -> None:
    absent = np.array([[6, 0, 0], [0, 4, 0], [0, 0, 0]])
    missed = np.array([[6, 0, 0], [0, 4, 0], [2, 0, 0]])
    spurious = missed.T
    for per_label in (precision_per_label, recall_per_label, iou_per_label, dice_per_label):
        assert np.isnan(per_label(absent)[2])
        assert per_label(missed)[2] == per_label(spurious)[2] == 0.0
    assert [mean(absent) for mean in MEANS] == [1.0] * 3
    assert precision_macro(missed) == near((6 / 8 + 1 + 0) / 3)
    assert recall_macro(missed) == near(2 / 3)
    assert recall_macro(spurious) == near((6 / 8 + 1 + 0) / 3)
    assert frequency_weighted_iou(missed) == near((6 * 0.75 + 4 * 1.0 + 2 * 0.0) / 12)
    assert frequency_weighted_iou(spurious) == near((8 * 0.75 + 4 * 1.0) / 12)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_without_voxels_nothing_is_defined(metric) -> None:
    assert np.isnan(metric(np.zeros((3, 3), dtype=np.int64)))


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    "broken",
    [np.ones((2, 3), dtype=int), np.ones(4, dtype=int), np.ones((2, 2)), -np.ones((2, 2), int)],
    ids=["not square", "flat", "shares", "negative"],
)
def test_what_is_no_confusion_matrix_is_refused(metric, broken) -> None:
    with pytest.raises(DataError, match="a confusion matrix holds counts"):
        metric(broken)


def test_counts_of_small_types_do_not_overflow() -> None:
    counts = np.full((2, 2), 200, dtype=np.uint8)
    assert pixel_accuracy(counts) == 0.5
    assert iou_per_label(counts).tolist() == near([1 / 3] * 2)


@given(prediction=maps, reference=maps)
def test_labels_score_as_their_masks_do(prediction, reference) -> None:
    found = confusion_matrix(prediction, reference, range(4))
    assert pixel_accuracy(found) == pytest.approx((prediction == reference).mean())
    for per_label, metric in (
        (precision_per_label, precision),
        (recall_per_label, recall),
        (iou_per_label, iou),
        (dice_per_label, dice),
    ):
        expected = [metric(prediction == label, reference == label) for label in range(4)]
        assert per_label(found).tolist() == pytest.approx(expected, nan_ok=True)
