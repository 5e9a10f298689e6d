"""Fit with self-correction: with what it works, and what it is refused for."""

import logging
from pathlib import Path
from typing import Any

import pytest

import medseg3d
from medseg3d.errors import ConfigError
from tests.api.small_sets import SMALL, write_cases

OPTIONS: dict[str, Any] = SMALL | {
    "steps_per_epoch": 5,
    "width": 4,
    "patch_size": (8, 8, 8),
    "self_correction": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases of which a part is not annotated."""
    return write_cases(tmp_path_factory.mktemp("cases"), {"background": 0, "organ": 1, "ignore": 2})


def test_it_goes_with_deep_supervision_and_what_nobody_annotated(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "cache", **OPTIONS)
    assert found.bundle.is_file()
    assert [line for line in caplog.messages if line.startswith("self-correction")] == [
        "self-correction: cycle 1",
        "self-correction: cycle 2",
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"loss": "dice_ce+0.1*boundary"},
        {"loss": "dice_ce+0.1*boundary", "network": "ynet_3d"},
        {"accumulate": 2},
    ],
)
def test_it_goes_with_objectives_distances_and_accumulation(
    more: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    found = medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "c", **OPTIONS | more)
    assert found.bundle.is_file()
    lines = (found.folder / "corrections.csv").read_text().splitlines()
    assert lines[0] == "case,share_outvoted"
    assert lines[1:]
    assert {line.split(",")[0] for line in lines[1:]} <= {f"case_{number}" for number in range(4)}


STAGES = [{"name": "2d", "share": 0.5}, {"name": "joint", "share": 0.5}]


def test_a_single_cycle_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="self_correction 1 would change nothing"):
        medseg3d.fit(data, out=tmp_path / "run", **OPTIONS | {"self_correction": 1})


@pytest.mark.parametrize(("network", "more"), [("hdenseunet", {"stages": STAGES}), ("wnet", {})])
def test_networks_that_do_not_always_learn_from_labels_are_refused_at_once(
    network: str, more: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    given = OPTIONS | {"network": network} | more
    with pytest.raises(ConfigError, match=f"self_correction .* '{network}'") as refused:
        medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "cache", **given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "config.yaml").exists()
