"""Budget and learning rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.config import FitConfig, validated
from medseg3d.errors import ConfigError
from medseg3d.training.budget import Budget, learning_rate


def test_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(n / 100, peak=1e-3, warmup=0.1, power=0.9) for n in range(101)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 10
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == 0


@given(used=st.floats(0, 1), warmup=st.floats(0, 0.5), power=st.floats(0.1, 4))
def test_rate_stays_between_zero_and_the_peak(used: float, warmup: float, power: float) -> None:
    assert 0 <= learning_rate(used, peak=1.0, warmup=warmup, power=power) <= 1


def test_a_budget_is_steps_or_seconds() -> None:
    with pytest.raises(AssertionError):
        Budget()
    with pytest.raises(AssertionError):
        Budget(steps=3, seconds=3.0)


@pytest.mark.parametrize("minutes", [float("inf"), float("nan")])
def test_a_budget_that_never_ends_is_refused(minutes: float) -> None:
    """Its learning rate would stay that of the first step."""
    with pytest.raises(ConfigError, match=r"max_minutes.* finite number"):
        validated(FitConfig, {"data": "cases", "max_minutes": minutes})
