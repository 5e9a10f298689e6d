"""How wide a network is planned: by the minutes of a CPU, where minutes are counted."""

from pathlib import Path
from typing import Any

import pytest

from medseg3d.api.fitting import planning
from medseg3d.api.fitting.planning import planned
from medseg3d.config import FitConfig
from tests.api.small_sets import write_cases


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), {"background": 0, "organ": 1})


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"max_minutes": 1}, 16),
        ({"max_minutes": 500}, 32),
        ({}, 32),  # an hour is long for such small cases
        ({"epochs": 1}, 32),
        ({"max_minutes": 1, "network": {"name": "monai:UNet"}}, 16),
        ({"max_minutes": 1, "network": {"name": "ce_net"}}, 32),
        ({"max_minutes": 1, "network": {"name": "monai:SegResNet"}}, 32),
        ({"max_minutes": 1, "network": {"name": "unet3d", "options": {"width": 4}}}, 32),
        ({"max_minutes": 1, "dims": 2}, 32),
    ],
)
def test_a_short_time_narrows_the_networks_that_can_be(
    options: dict[str, Any],
    width: int,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "num_processors", lambda: 2)
    config = FitConfig.model_validate({"data": data, "device": "cpu", "folds": 2} | options)
    _, plan, _ = planned(config, tmp_path)
    assert plan.width == width
