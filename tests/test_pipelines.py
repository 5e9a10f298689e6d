"""Every pipeline loads, names parts that exist, and says why it chooses them."""

from pathlib import Path

import pytest
import torch

from medseg3d.api.contest.options import network_names, own_options
from medseg3d.config import BakeoffConfig, FitConfig, read_yaml, validated
from medseg3d.losses.building import build_loss
from medseg3d.networks import NETWORKS, build_network

EVERY = sorted((Path(__file__).parents[1] / "pipelines").glob("*.yaml"))
PIPELINES = [path for path in EVERY if path.stem != "bakeoff"]  # which is not for fit


def test_the_two_runs_of_the_readme_are_there() -> None:
    assert {"demo", "hippocampus"} <= {path.stem for path in PIPELINES}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_it_builds_its_network_and_loss(path: Path) -> None:
    config = validated(FitConfig, {"data": "cases"} | read_yaml(path), source=str(path))
    with torch.device("meta"):  # some are large
        network = build_network(config.network.name, 1, 3, options=config.network.options)
    assert build_loss(config.loss.name, config.loss.options)
    if config.stages:
        for stage in config.stages:
            network.set_stage(stage.name)
        assert sum(stage.share for stage in config.stages) == pytest.approx(1)


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_it_is_commented(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert sum(line.startswith("#") for line in lines) >= 0.25 * len([li for li in lines if li])


def test_the_bakeoff_is_of_all_networks_with_options_that_fit_them() -> None:
    [path] = set(EVERY) - set(PIPELINES)
    config = validated(BakeoffConfig, {"data": "cases"} | read_yaml(path), source=str(path))
    assert {*NETWORKS} - {*network_names(config)} == {"unet_gan"}  # needs a target domain
    recipe = validated(FitConfig, {"data": "cases", "out": "runs"} | config.fit)
    for name in config.own:
        part = own_options(recipe, config.own[name], name).network
        with torch.device("meta"):
            build_network(part.name, 1, 3, options=part.options)
