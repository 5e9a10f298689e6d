"""Signed ranks and Holm's correction: worked by hand, by SciPy, and by counting all signs."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medseg3d.errors import DataError
from medseg3d.scoring import significance
from medseg3d.scoring.significance import holm, signed_rank

NAN = float("nan")


@pytest.mark.parametrize(
    ("differences", "p", "effect"),
    [
        # ranks 1 2 3 (4) 5: W+ 11, W- 4; of 32 subsets 7 sum to at most 4
        ([1.0, 2.0, 3.0, -4.0, 5.0], 14 / 32, 7 / 15),
        # the zero goes; ranks 2 2 2 4: W+ 8, W- 2; of 16 subsets 4 sum to at most 2
        ([0.0, 1.0, 1.0, -1.0, 2.0], 8 / 16, 6 / 10),
        ([0.3] * 6, 2 / 64, 1.0),
        ([-0.3] * 6, 2 / 64, -1.0),
        ([2.0, -2.0], 1.0, 0.0),
        ([0.5], 1.0, 1.0),
        ([0.0, 0.0], 1.0, 0.0),
        ([0.1, NAN, 0.2], 2 / 4, 1.0),
    ],
)
def test_worked_by_hand(differences: list[float], p: float, effect: float) -> None:
    assert signed_rank(differences) == pytest.approx((p, effect))


def test_nothing_to_test_is_undefined() -> None:
    assert np.isnan(signed_rank([])).all()
    assert np.isnan(signed_rank([NAN])).all()


def test_an_infinite_difference_is_refused() -> None:
    with pytest.raises(DataError, match="infinite"):
        signed_rank([1.0, float("inf")])


def by_counting(differences: list[float]) -> float:
    """The p value from every assignment of signs to the ranks."""
    data = np.array([value for value in differences if value])
    ranks = stats.rankdata(np.abs(data))
    found = ranks[data > 0].sum()
    sums = np.array(
        [ranks[list(signs)].sum() for signs in product([False, True], repeat=len(data))]
    )
    return min(1.0, 2 * min((sums <= found).mean(), (sums >= found).mean()))


@given(st.lists(st.integers(-4, 4).filter(bool).map(float), min_size=1, max_size=9))
@settings(max_examples=40)
def test_agrees_with_counting_all_signs(differences: list[float]) -> None:
    assert signed_rank(differences)[0] == pytest.approx(by_counting(differences))


@pytest.mark.parametrize("number", [3, 8, 20, 50])
def test_agrees_with_scipy_where_that_is_exact(number: int) -> None:
    differences = np.random.default_rng(number).normal(0.3, 1, number)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank(differences)[0] == pytest.approx(expected)


def test_agrees_with_scipy_where_that_is_asymptotic(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(0).integers(-4, 8, 60).astype(float)
    kept = differences[differences != 0]
    assert len(kept) > significance.MOST_EXACT
    found = signed_rank(differences)
    assert found[0] == pytest.approx(stats.wilcoxon(kept).pvalue)
    monkeypatch.setattr(significance, "MOST_EXACT", 100)
    exact = signed_rank(differences)
    assert found[1] == exact[1]
    assert found[0] == pytest.approx(exact[0], abs=1e-3)
    assert found[0] != exact[0]


def test_differences_that_only_rounding_tells_apart_are_ties() -> None:
    sloppy = [0.9 - 0.8, 0.8 - 0.7, 0.3 - 0.2, 0.4 - 0.5, 0.3 - (0.1 + 0.2)]
    assert len({abs(value) for value in sloppy}) == 3
    assert signed_rank(sloppy) == signed_rank([0.1, 0.1, 0.1, -0.1, 0.0])


@given(st.lists(st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=1, max_size=30))
@settings(max_examples=40)
def test_turning_the_models_around_turns_the_effect(differences: list[float]) -> None:
    p, effect = signed_rank(differences)
    assert signed_rank([-value for value in differences]) == pytest.approx((p, -effect))
    assert 0 < p <= 1
    assert -1 <= effect <= 1


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.04, 0.01], [0.04, 0.02]),
        ([0.3, 0.9, 0.6], [0.9, 1.0, 1.0]),
        ([0.01, NAN, 0.04], [0.02, NAN, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_worked_by_hand(p_values: list[float], corrected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(corrected, nan_ok=True)


def rejected(p_values: list[float], alpha: float) -> set[int]:
    """Holm's procedure as it is published: step down until one test fails."""
    found: set[int] = set()
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        if p_values[place] > alpha / (len(p_values) - step):
            break
        found.add(place)
    return found


@given(
    st.lists(st.integers(0, 200).map(lambda one: one / 200), min_size=1, max_size=12),
    st.sampled_from([0.0123, 0.0511, 0.1037, 0.2501]),
)
@settings(max_examples=80)
def test_holm_rejects_what_the_procedure_rejects(p_values: list[float], alpha: float) -> None:
    corrected = holm(p_values)
    assert {k for k, value in enumerate(corrected) if value <= alpha} == rejected(p_values, alpha)
    for p, value in zip(p_values, corrected, strict=True):
        assert p <= value <= min(1.0, len(p_values) * p + 1e-12)
