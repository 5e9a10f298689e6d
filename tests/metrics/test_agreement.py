"""Agreement beyond chance: definitions by other means, and masks that are the same everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.metrics.agreement import cohen_kappa, matthews_correlation
from medseg3d.metrics.masks import Counts, MaskPair
from medseg3d.types import Mask

BOTH = (cohen_kappa, matthews_correlation)
each_metric = pytest.mark.parametrize("metric", BOTH, ids=lambda metric: metric.__name__)
masks = arrays(np.bool_, (3, 2, 4), elements=st.booleans())
EMPTY = np.zeros((3, 2, 4), dtype=bool)


def counted(*counts: int) -> MaskPair:
    return MaskPair(EMPTY, EMPTY, known_counts=Counts(*counts))


def test_hand_worked_values() -> None:
    pair = counted(20, 10, 5, 15)  # of 50: observed .7, by chance (30 25 + 20 25) / 2500 = .5
    assert cohen_kappa.of(pair) == pytest.approx(0.4)
    assert matthews_correlation.of(pair) == pytest.approx(
        (20 * 15 - 10 * 5) / np.sqrt(30 * 25 * 25 * 20)
    )


@given(prediction=masks, reference=masks)
def test_matthews_is_the_correlation_of_both_masks(prediction: Mask, reference: Mask) -> None:
    found = matthews_correlation(prediction, reference)
    spread = [mask.std() > 0 for mask in (prediction, reference)]
    if all(spread):
        expected = np.corrcoef(prediction.ravel(), reference.ravel())[0, 1]
        assert found == pytest.approx(expected, abs=1e-12)
    elif any(spread) or prediction.flat[0] != reference.flat[0]:
        assert found == 0.0
    else:
        assert np.isnan(found)


@given(prediction=masks, reference=masks)
def test_kappa_is_the_agreement_beyond_that_of_shuffled_masks(
    prediction: Mask, reference: Mask
) -> None:
    found = cohen_kappa(prediction, reference)
    observed = (prediction == reference).mean()
    by_chance = (prediction.ravel()[:, None] == reference.ravel()[None]).mean()
    if by_chance == 1.0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx((observed - by_chance) / (1 - by_chance), abs=1e-12)


@each_metric
def test_masks_without_contrast(metric) -> None:
    half = EMPTY.copy()
    half[:2] = True
    assert metric(EMPTY, half) == metric(half, EMPTY) == metric(EMPTY, ~EMPTY) == 0.0
    assert np.isnan(metric(EMPTY, EMPTY))
    assert np.isnan(metric(~EMPTY, ~EMPTY))


@each_metric
def test_counts_of_a_whole_body_do_not_overflow(metric) -> None:
    large = metric.of(counted(20 * 10**9, 10**10, 5 * 10**9, 15 * 10**9))
    assert large == pytest.approx(metric.of(counted(20, 10, 5, 15)), rel=1e-12)
