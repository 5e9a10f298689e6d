"""Scores of probabilities: the published vector, the definitions by brute force, and ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics.probabilities import (
    auroc,
    average_precision,
    brier_score,
    expected_calibration_error,
)

ALL = (auroc, average_precision, brier_score, expected_calibration_error)
each_metric = pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
samples = st.lists(  # few values, so that many are tied
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.3000001, 0.5, 0.75, 1.0]), st.booleans()),
    min_size=1,
    max_size=30,
).map(lambda pairs: (np.array([p for p, _ in pairs]), np.array([y for _, y in pairs])))


def test_published_vector() -> None:
    probabilities = np.array([0.1, 0.4, 0.35, 0.8])
    reference = np.array([False, False, True, True])
    assert auroc(probabilities, reference) == pytest.approx(0.75, abs=1e-5)
    assert average_precision(probabilities, reference) == pytest.approx(0.833333, abs=1e-5)


@given(samples)
def test_auroc_is_the_chance_to_rank_a_pair_right(drawn) -> None:
    probabilities, reference = drawn
    found = auroc(probabilities, reference)
    if reference.all() or not reference.any():
        assert np.isnan(found)
        return
    ahead = probabilities[reference][:, None] - probabilities[~reference][None]
    assert found == pytest.approx(((ahead > 0) + 0.5 * (ahead == 0)).mean())
    assert auroc(1 - probabilities, ~reference) == pytest.approx(found)
    assert auroc(probabilities, ~reference) == pytest.approx(1 - found)


@given(samples)
def test_average_precision_adds_up_the_steps_of_recall(drawn) -> None:
    probabilities, reference = drawn
    found = average_precision(probabilities, reference)
    if not reference.any():
        assert np.isnan(found)
        return
    expected, recall_before = 0.0, 0.0
    for threshold in sorted(set(probabilities), reverse=True):
        passed = probabilities >= threshold
        recall = (passed & reference).sum() / reference.sum()
        expected += (recall - recall_before) * (passed & reference).sum() / passed.sum()
        recall_before = recall
    assert found == pytest.approx(expected)


@given(samples, st.integers(1, 12))
def test_calibration_error_by_bins(drawn, bins: int) -> None:
    probabilities, reference = drawn
    expected = 0.0
    for place in range(bins):
        low, high = np.linspace(0, 1, bins + 1)[[place, place + 1]]
        inside = (probabilities > low) & (probabilities <= high)
        if place == 0:
            inside |= probabilities == 0
        if inside.any():
            gap = abs(probabilities[inside].mean() - reference[inside].mean())
            expected += gap * inside.mean()
    found = expected_calibration_error(probabilities, reference, bins=bins)
    assert found == pytest.approx(expected)


@given(samples)
def test_brier_score_is_a_mean_squared_error(drawn) -> None:
    probabilities, reference = drawn
    expected = np.mean([(p - float(y)) ** 2 for p, y in zip(probabilities, reference, strict=True)])
    assert brier_score(probabilities, reference) == pytest.approx(expected)


@given(samples, st.randoms())
def test_the_order_of_samples_does_not_matter(drawn, random) -> None:
    order = list(range(len(drawn[0])))
    random.shuffle(order)
    for metric in ALL:
        found = metric(*(array[order] for array in drawn))
        assert found == pytest.approx(metric(*drawn), nan_ok=True), metric.__name__


def test_constant_probabilities_rank_by_chance() -> None:
    probabilities, reference = np.full(10, 0.4), np.arange(10) < 3
    assert auroc(probabilities, reference) == 0.5
    assert average_precision(probabilities, reference) == pytest.approx(0.3)
    assert brier_score(probabilities, reference) == pytest.approx((3 * 0.36 + 7 * 0.16) / 10)
    assert expected_calibration_error(probabilities, reference) == pytest.approx(0.1)


def test_perfect_probabilities() -> None:
    reference = np.array([[[True, False], [False, True]]])
    probabilities = reference.astype(np.float32)
    assert auroc(probabilities, reference) == average_precision(probabilities, reference) == 1.0
    assert brier_score(probabilities, reference) == 0.0
    assert expected_calibration_error(probabilities, reference) == 0.0


def test_many_voxels_do_not_overflow_and_half_precision_is_enough() -> None:
    reference = np.arange(2_000_000) % 2 == 0
    probabilities = np.where(reference, 0.75, 0.25).astype(np.float16)
    assert auroc(probabilities, reference) == 1.0
    assert brier_score(probabilities, reference) == 0.0625
    assert expected_calibration_error(probabilities, reference) == 0.25


@each_metric
def test_without_samples_nothing_is_defined(metric) -> None:
    assert np.isnan(metric(np.empty(0), np.empty(0, dtype=bool)))


@each_metric
def test_what_are_no_probabilities_is_refused(metric) -> None:
    reference = np.array([True, False])
    for values in ([2.0, 0.5], [0.5, -0.1], [0.5, np.nan]):
        with pytest.raises(DataError, match=r"must lie in \[0, 1\].*softmax or sigmoid"):
            metric(np.array(values), reference)
    with pytest.raises(DataError, match="found int64 and bool"):
        metric(np.array([0, 1]), reference)
    with pytest.raises(DataError, match="found float64 and uint8"):
        metric(np.array([0.0, 1.0]), reference.astype(np.uint8))
    with pytest.raises(DataError, match=r"probabilities \(2, 2\) and reference \(2,\)"):
        metric(np.zeros((2, 2)), reference)


@each_metric
def test_a_softmax_may_round_beyond_one(metric) -> None:
    found = metric(np.array([1.000001, 0.0]), np.array([True, False]))
    assert found == pytest.approx(1.0 if metric in (auroc, average_precision) else 0.0, abs=1e-5)


def test_there_must_be_a_bin() -> None:
    with pytest.raises(ConfigError, match="bins must be at least 1, got 0"):
        expected_calibration_error(np.array([0.5]), np.array([True]), bins=0)
