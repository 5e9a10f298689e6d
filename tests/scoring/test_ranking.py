"""Ranks of models: shares by brute force, ties, and stability under other patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.scoring.measures import Measure, Subject
from medseg3d.scoring.paired import Paired
from medseg3d.scoring.ranking import rank_shares, rankings

DICE = Measure("dice", "dice", "1", "higher")
DISTANCE = Measure("assd_mm", "assd_mm", "mm", "lower")


def paired(values: np.ndarray, measure: Measure, patients: list[str] | None = None) -> Paired:
    """Models named a, b, ... with one label; ``values`` is ``(models, cases)``."""
    cases = tuple(f"case {number}" for number in range(values.shape[1]))
    return Paired(
        models=tuple("abcdefg"[: len(values)]),
        cases=cases,
        patients=tuple(patients or cases),
        labels=(1,),
        names={1: "liver"},
        measures=(measure,),
        values={measure.name: values[:, :, None]},
        unpaired={},
        notes=(),
    )


def by_hand(costs: np.ndarray) -> np.ndarray:
    """Shares of ranks by sorting each round, ties sharing the ranks between them."""
    shares = np.zeros((costs.shape[1],) * 2)
    for row in costs.tolist():
        ordered = sorted(row)
        for competitor, cost in enumerate(row):
            ranks = [rank for rank, other in enumerate(ordered) if other == cost]
            for rank in ranks:
                shares[competitor, rank] += 1 / len(ranks)
    return shares / len(costs)


rounds = arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=st.sampled_from(range(4))
)


@given(rounds)
@settings(max_examples=60)
def test_shares_are_those_of_sorting_each_round(costs: np.ndarray) -> None:
    found = rank_shares(costs)
    assert found == pytest.approx(by_hand(costs))
    assert found.sum(axis=0) == pytest.approx(1)
    assert found.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(("measure", "first"), [(DICE, "b"), (DISTANCE, "a")])
def test_a_model_that_is_better_in_every_case_is_always_first(measure, first: str) -> None:
    worse = np.random.default_rng(0).random(12)
    (found,) = rankings(paired(np.stack([worse, worse + 0.1]), measure), [Subject(measure, 1, "x")])
    assert found.num_cases == 12
    assert found.shares[first] == (1.0, 0.0)
    assert found.means["b"] == pytest.approx(worse.mean() + 0.1)


def test_equal_models_share_the_ranks() -> None:
    same = np.random.default_rng(1).random(9)
    (found,) = rankings(paired(np.stack([same] * 3), DICE), [Subject(DICE, 1, "x")])
    assert all(shares == pytest.approx([1 / 3] * 3) for shares in found.shares.values())


def test_a_lead_that_one_patient_makes_is_not_stable() -> None:
    values = np.array([[0.9] * 10 + [0.2], [0.89] * 10 + [0.8]])
    (found,) = rankings(paired(values, DICE), [Subject(DICE, 1, "x")])
    assert found.means["b"] > found.means["a"]
    # b leads only where the last patient is drawn: 1 - (10 / 11)^11
    assert found.shares["b"][0] == pytest.approx(1 - (10 / 11) ** 11, abs=0.04)


def test_one_patient_makes_no_ranking() -> None:
    values = np.array([[0.9, 0.8], [0.7, 0.6]])
    assert not list(rankings(paired(values, DICE, ["p", "p"]), [Subject(DICE, 1, "x")]))


def test_cases_that_are_undefined_are_left_out() -> None:
    values = np.array([[0.9, np.nan, 0.7], [0.7, np.nan, 0.9]])
    (found,) = rankings(paired(values, DICE), [Subject(DICE, 1, "x")])
    assert found.num_cases == 2
    assert found.means == pytest.approx({"a": 0.8, "b": 0.8})
