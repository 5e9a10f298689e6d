"""Ratios of voxel counts: published vectors, hand-worked values, identities and empty masks."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import (
    compute_confusion_matrix_metric,
    compute_dice,
    compute_iou,
    get_confusion_matrix,
)

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics.masks import Counts, MaskPair
from medseg3d.metrics.overlap import dice, f_beta, iou, precision, recall, specificity
from medseg3d.types import Mask
from tests.metrics.test_surface import (
    box_at_the_border,
    missed_lesion,
    noise_and_an_outlier,
    shifted_ellipsoid,
    two_single_voxels,
)

RATIOS = (dice, iou, precision, recall, f_beta)
each_ratio = pytest.mark.parametrize("ratio", RATIOS, ids=lambda ratio: ratio.__name__)
each_metric = pytest.mark.parametrize(
    "metric", [*RATIOS, specificity], ids=lambda metric: metric.__name__
)
masks = arrays(np.bool_, (4, 3, 5), elements=st.booleans())
EMPTY = np.zeros((4, 3, 5), dtype=bool)

VECTORS = {  # Dice, IoU, precision, recall of the published drawings
    shifted_ellipsoid: (0.76977, 0.62571, 0.84439, 0.70726),
    box_at_the_border: (0.81208, 0.68362, 0.78571, 0.84028),
    noise_and_an_outlier: (0.91260, 0.83924, 0.86903, 0.96076),
    missed_lesion: (0.82627, 0.70396, 0.93498, 0.74020),
    two_single_voxels: (0.0, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize(
    ("draw", "expected"), VECTORS.items(), ids=[draw.__name__ for draw in VECTORS]
)
def test_published_vectors(draw, expected: tuple[float, ...]) -> None:
    pair = draw()
    found = [ratio(pair.prediction, pair.reference) for ratio in (dice, iou, precision, recall)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_ratios_of_a_hand_drawn_pair() -> None:
    prediction = np.array([[[1, 1, 1, 0, 0, 0, 0]]], dtype=bool)
    reference = np.array([[[0, 1, 1, 1, 1, 0, 0]]], dtype=bool)
    pair = MaskPair(prediction, reference)
    assert pair.counts == Counts(2, false_positives=1, false_negatives=2, true_negatives=2)
    assert dice.of(pair) == pytest.approx(4 / 7)
    assert iou.of(pair) == pytest.approx(2 / 5)
    assert precision.of(pair) == pytest.approx(2 / 3)
    assert recall.of(pair) == pytest.approx(2 / 4)
    assert specificity.of(pair) == pytest.approx(2 / 3)
    assert f_beta.of(pair, beta=2.0) == pytest.approx(5 * 2 / (5 * 2 + 4 * 2 + 1))
    assert f_beta.of(pair, beta=0.5) == pytest.approx(1.25 * 2 / (1.25 * 2 + 0.25 * 2 + 1))


@each_ratio
def test_two_empty_masks_are_undefined(ratio) -> None:
    assert np.isnan(ratio(EMPTY, EMPTY))


@each_ratio
def test_one_empty_mask_scores_zero(ratio) -> None:
    assert ratio(EMPTY, ~EMPTY) == 0.0
    assert ratio(~EMPTY, EMPTY) == 0.0


def test_specificity_is_about_the_background() -> None:
    half = EMPTY.copy()
    half[:2] = True
    assert specificity(EMPTY, half) == 1.0
    assert specificity(half, EMPTY) == 0.5
    assert specificity(EMPTY, ~EMPTY) == 1.0  # missed: never undefined
    assert np.isnan(specificity(half, ~EMPTY))  # no background to judge
    assert np.isnan(specificity(EMPTY, EMPTY))


def test_specificity_of_a_box_is_that_of_its_image() -> None:
    image = np.zeros((2, 10, 10, 10), dtype=bool)
    image[0, 2:5, 3:6, 4:7] = image[1, 3:6, 3:6, 4:7] = True
    box = np.s_[:, 2:6, 3:6, 4:7]
    assert specificity(*image[box]) == pytest.approx(0.0)
    assert specificity(*image) == pytest.approx(1 - 9 / 973)
    assert specificity.of(MaskPair(*image[box], image_shape=(10, 10, 10))) == specificity(*image)


@each_metric
def test_label_maps_are_refused(metric) -> None:
    with pytest.raises(DataError, match="mask must be boolean, found uint8"):
        metric(EMPTY.astype(np.uint8), EMPTY)


@each_metric
def test_shapes_must_match(metric) -> None:
    with pytest.raises(DataError, match=r"prediction \(3, 3, 5\), reference \(4, 3, 5\)"):
        metric(EMPTY[1:], EMPTY)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_beta_must_be_a_number_above_zero(beta: float) -> None:
    with pytest.raises(ConfigError, match="beta must be a number above 0"):
        f_beta(EMPTY, EMPTY, beta=beta)


@given(prediction=masks, reference=masks)
def test_dice_follows_from_iou_and_swapping_exchanges_precision_and_recall(
    prediction: Mask, reference: Mask
) -> None:
    assume(prediction.any() or reference.any())
    found, swapped = MaskPair(prediction, reference), MaskPair(reference, prediction)
    assert dice.of(found) == pytest.approx(2 * iou.of(found) / (1 + iou.of(found)))
    assert dice.of(found) == dice.of(swapped) == f_beta.of(found)
    assert iou.of(found) == iou.of(swapped)
    assert precision.of(found) == recall.of(swapped)
    assert f_beta.of(found, beta=1e-6) == pytest.approx(precision.of(found))
    assert f_beta.of(found, beta=1e6) == pytest.approx(recall.of(found))


@given(prediction=masks, reference=masks)
def test_ratios_agree_with_monai(prediction: Mask, reference: Mask) -> None:
    assume(prediction.any() and reference.any() and not reference.all())
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    near = {"abs": 1e-6}
    assert dice(prediction, reference) == pytest.approx(compute_dice(*pair).item(), **near)
    assert iou(prediction, reference) == pytest.approx(compute_iou(*pair).item(), **near)
    confusion = get_confusion_matrix(*(mask.float() for mask in pair))
    for metric, name in ((precision, "ppv"), (recall, "tpr"), (specificity, "tnr")):
        theirs = compute_confusion_matrix_metric(name, confusion).item()
        assert metric(prediction, reference) == pytest.approx(theirs, **near), name
