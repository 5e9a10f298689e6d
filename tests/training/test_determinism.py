"""Deterministic arithmetic: asked for, given back, and said where there is none."""

from contextlib import suppress

import pytest
import torch

from medseg3d.api.fitting.settings import training_settings
from medseg3d.config import FitConfig, validated
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ConfigError, RunError
from medseg3d.training.determinism import deterministic


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_it_is_given_back(wanted: bool, before: bool) -> None:
    torch.use_deterministic_algorithms(before)
    try:
        with suppress(KeyboardInterrupt), deterministic(wanted):
            assert torch.are_deterministic_algorithms_enabled() == (wanted or before)
            raise KeyboardInterrupt
        assert torch.are_deterministic_algorithms_enabled() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operation_without_such_a_form_is_named() -> None:
    with (
        pytest.raises(RunError, match="put_cuda_ has no deterministic form on this device; choose"),
        deterministic(True),
    ):
        raise RuntimeError("put_cuda_ does not have a deterministic implementation, but you set")
    for error in (RuntimeError("out of memory"), RunError("not deterministic")):
        with pytest.raises(type(error), match=str(error)), deterministic(True):
            raise error


def test_the_clock_has_no_say() -> None:
    with pytest.raises(ConfigError, match="deterministic needs epochs, not a budget of minutes"):
        validated(FitConfig, {"data": "x", "deterministic": True, "max_minutes": 5})
    plan = Plan(
        num_cases=1,
        labels={0: "background", 1: "a"},
        channels=(Normalization(name="CT", scheme="ct", lower=0, upper=1, mean=0, sd=1),),
        spacing=(1, 1, 1),
        coarse_axis=None,
        median_shape=(8, 8, 8),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3), (3, 3, 3)),
        width=4,
        max_width=8,
    )

    def every(**options: object) -> int | None:
        config = validated(FitConfig, {"data": "x", "epochs": 60, "deterministic": True} | options)
        return training_settings(config, plan).validate_every

    assert every() == 3
    assert every(epochs=5) == 1
    assert every(validate_every=7) == 7
    assert every(deterministic=False) is None
    given = validated(FitConfig, {"data": "x", "epochs": 1, "deterministic": True, "accumulate": 4})
    settings = training_settings(given, plan)
    assert (settings.accumulate, settings.deterministic) == (4, True)
