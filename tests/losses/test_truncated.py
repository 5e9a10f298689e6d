"""Smooth truncated cross entropy: hand-worked values on both sides of gamma."""

import math

import pytest
import torch

from medseg3d.errors import ConfigError
from medseg3d.losses.truncated import SmoothTruncated


def loss_at(p: float, gamma: float) -> float:
    logits = torch.tensor([p, 1 - p], dtype=torch.float64).log().reshape(1, 2, 1)
    return SmoothTruncated(gamma=gamma)(logits, torch.zeros(1, 1, 1, dtype=torch.long)).item()


@pytest.mark.parametrize(
    ("p", "gamma", "expected"),
    [
        (0.6, 0.2, -math.log(0.6)),
        (0.2, 0.2, -math.log(0.2)),
        (0.1, 0.2, -math.log(0.2) + 0.375),  # (1 - 1/4) / 2
        (0.1, 0.5, math.log(2) + 0.48),  # (1 - 1/25) / 2
    ],
)
def test_values_are_those_of_the_formula(p: float, gamma: float, expected: float) -> None:
    assert loss_at(p, gamma) == pytest.approx(expected)


def test_value_and_slope_agree_where_the_branches_meet() -> None:
    gamma, step = 0.3, 1e-6
    below, at, above = (loss_at(p, gamma) for p in (gamma - step, gamma, gamma + step))
    assert (above - at) / step == pytest.approx(-1 / gamma, rel=1e-4)
    assert (at - below) / step == pytest.approx(-1 / gamma, rel=1e-4)


def test_no_voxel_costs_more_than_the_bound() -> None:
    assert loss_at(1e-12, 0.2) == pytest.approx(-math.log(0.2) + 0.5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -1.0, math.nan])
def test_a_gamma_that_is_no_probability_is_refused(gamma: float) -> None:
    with pytest.raises(ConfigError, match=r"gamma must lie in \(0, 1\)"):
        SmoothTruncated(gamma=gamma)
