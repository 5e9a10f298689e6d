"""Dice, IoU, precision and recall: published vectors, identities and empty masks."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_dice, compute_iou

from medseg3d.errors import DataError
from medseg3d.metrics import METRICS
from medseg3d.metrics.overlap import dice, iou, overlap, precision, recall
from medseg3d.types import Mask

RATIOS = (dice, iou, precision, recall)
each_ratio = pytest.mark.parametrize("ratio", RATIOS, ids=lambda ratio: ratio.__name__)
masks = arrays(np.bool_, (4, 3, 5), elements=st.booleans())
EMPTY = np.zeros((4, 3, 5), dtype=bool)


def test_counts_are_those_of_a_hand_drawn_pair() -> None:
    prediction = np.array([[[1, 1, 1, 0, 0]]], dtype=bool)
    reference = np.array([[[0, 1, 1, 1, 1]]], dtype=bool)
    found = overlap(prediction, reference)
    assert (found.true_positives, found.false_positives, found.false_negatives) == (2, 1, 2)
    assert found.dice == pytest.approx(4 / 7)
    assert found.iou == pytest.approx(2 / 5)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 4)


@each_ratio
def test_two_empty_masks_are_undefined(ratio) -> None:
    assert np.isnan(ratio(EMPTY, EMPTY))


@each_ratio
def test_one_empty_mask_scores_zero(ratio) -> None:
    assert ratio(EMPTY, ~EMPTY) == 0.0
    assert ratio(~EMPTY, EMPTY) == 0.0


@each_ratio
def test_label_maps_are_refused(ratio) -> None:
    with pytest.raises(DataError, match="mask must be boolean, found uint8"):
        ratio(EMPTY.astype(np.uint8), EMPTY)


@each_ratio
def test_shapes_must_match(ratio) -> None:
    with pytest.raises(DataError, match=r"prediction \(3, 3, 5\), reference \(4, 3, 5\)"):
        ratio(EMPTY[1:], EMPTY)


@given(prediction=masks, reference=masks)
def test_dice_follows_from_iou_and_swapping_exchanges_precision_and_recall(
    prediction: Mask, reference: Mask
) -> None:
    assume(prediction.any() or reference.any())
    found, swapped = overlap(prediction, reference), overlap(reference, prediction)
    assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))
    assert (found.dice, found.iou) == (swapped.dice, swapped.iou)
    assert (found.precision, found.recall) == (swapped.recall, swapped.precision)


@given(prediction=masks, reference=masks)
def test_dice_and_iou_agree_with_monai(prediction: Mask, reference: Mask) -> None:
    assume(reference.any())
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    assert dice(prediction, reference) == pytest.approx(compute_dice(*pair).item(), abs=1e-6)
    assert iou(prediction, reference) == pytest.approx(compute_iou(*pair).item(), abs=1e-6)


def test_every_metric_states_its_unit_direction_and_definition() -> None:
    assert {"dice", "iou", "precision", "recall", "hausdorff", "hausdorff_95"} <= set(METRICS)
    for name in METRICS:
        facts = METRICS.facts(name)
        assert facts["unit"] in {"1", "mm", "mL"}, name
        assert facts["better"] in {"higher", "lower", "zero"}, name
        assert len(facts["definition"]) > 20, name


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_is_called_the_same_way(name: str) -> None:
    half = EMPTY.copy()
    half[:2] = True
    found = METRICS.build(name, half, ~EMPTY, (1.0, 2.0, 3.0))
    assert isinstance(found, float)
    assert np.isfinite(found)
