"""``fit`` with losses by distance: maps of whole cases, made once and kept in the cache."""

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import medseg3d
from medseg3d.api.fitting.building import make_loss
from medseg3d.api.fitting.following import Job
from medseg3d.api.fitting.preparing import (
    Preparation,
    maps_that_change_sides,
    training_patches,
)
from medseg3d.api.provenance import Origin
from medseg3d.config import FitConfig
from medseg3d.data.cache import CachedCase, is_complete
from medseg3d.data.layouts import find_cases
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, DataError
from medseg3d.losses import case_maps
from medseg3d.losses.building import build_loss
from tests.api.small_sets import SMALL, write_cases

LABELS = {"background": 0, "organ": 1, "bone": 2}
OPTIONS = SMALL | {"width": 4, "patch_size": (8, 8, 8), "seed": 3}
LOSS = {"name": "dice_ce+0.1*boundary"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("boxes"), LABELS)


def cached(folder: Path) -> list[CachedCase]:
    return [CachedCase.open(path) for path in sorted(folder.iterdir()) if is_complete(path)]


def test_maps_of_learned_cases_are_kept_and_found_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    medseg3d.fit(data, out=tmp_path / "a", cache=cache, loss=LOSS, **OPTIONS)
    cases = [case for case in cached(cache) if case.has_labels]
    maps = [case for case in cached(cache) if not case.has_labels]
    assert (len(cases), len(maps)) == (4, 2)
    labels = {case.case_id: case.labels() for case in cases}
    for case in maps:
        outside = labels[case.case_id] != 2
        assert case.num_channels == 3
        assert not case.image()[0].any()  # background does not count
        assert (case.image()[2] > 0).tolist() == outside.tolist()

    def made_again(*_: object) -> None:
        raise AssertionError("the maps lie in the cache")

    monkeypatch.setattr(case_maps.MappedLoss, "maps_for", lambda *given: given[-1].values)
    monkeypatch.setattr("medseg3d.api.fitting.preparing.make_maps", made_again)
    medseg3d.fit(data, out=tmp_path / "b", cache=cache, loss=LOSS, **OPTIONS)


def test_cases_that_were_renamed_are_found_again_under_their_new_names(
    data: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = medseg3d.fit(data, out=tmp_path / "a", cache=cache, loss=LOSS, **OPTIONS)
    stored = set(cache.iterdir())
    plan = Plan.load(run.folder / "plan.yaml")
    config = FitConfig(data=data, cache=cache, loss=LOSS, **OPTIONS)
    learned = json.loads((run.folder / "split.json").read_text())["training"]
    cases = [
        replace(case, id=f"new_{case.id}") for case in find_cases(data).cases if case.id in learned
    ]
    preparation = Preparation(config, plan, Origin.of(config, cases, []).digests)
    found = preparation.prepare(cases)
    maps = preparation.maps_of(found, torch.nn.Identity(), make_loss(config, plan, found))
    assert maps is not None
    patches = training_patches(config, plan, found, maps=maps)
    names = {case.id for case in cases}
    assert {patches[number]["case"] for number in range(len(cases))} == names
    assert {case.case_id for case in maps.cases} == names
    assert set(cache.iterdir()) == stored


def test_maps_depend_on_what_they_are_made_with(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for number, options in enumerate(({}, {"include_background": True})):
        loss = {"name": "dice_ce+0.1*boundary", "options": {"boundary": options}}
        medseg3d.fit(data, out=tmp_path / f"{number}", cache=cache, loss=loss, **OPTIONS)
    maps = [case for case in cached(cache) if not case.has_labels]
    assert sorted(bool(case.image()[0].any()) for case in maps) == [False, False, True, True]


def test_a_network_with_its_own_objective_makes_maps_of_its_patches(
    data: Path, tmp_path: Path
) -> None:
    network = {"name": "voxresnet", "options": {"width": 4}}
    medseg3d.fit(
        data, out=tmp_path / "a", cache=tmp_path / "c", loss=LOSS, **OPTIONS | {"network": network}
    )
    assert all(case.has_labels for case in cached(tmp_path / "c"))


def test_a_map_that_is_damaged_names_its_case(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    medseg3d.fit(data, out=tmp_path / "a", cache=cache, loss=LOSS, **OPTIONS)
    for case in cached(cache):
        if not case.has_labels:
            stored = case.folder / "image.b2nd"
            stored.write_bytes(b"\0" * stored.stat().st_size)
    with pytest.raises(DataError, match=r"case case_.*damaged.*delete that folder"):
        medseg3d.fit(data, out=tmp_path / "b", cache=cache, loss=LOSS, **OPTIONS)


def test_other_processes_get_the_maps(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run = medseg3d.fit(data, out=tmp_path / "a", cache=cache, loss=LOSS, **OPTIONS)
    plan = Plan.load(run.folder / "plan.yaml")
    config = FitConfig(data=data, cache=cache, loss=LOSS, **OPTIONS)
    learned = [case for case in cached(cache) if case.has_labels]
    loss, network = make_loss(config, plan, learned), torch.nn.Identity()
    maps = Preparation(config, plan, {}).maps_of(learned, network, loss)
    job = Job(config, plan, run.folder, tuple(learned), "fp32", maps=maps)
    here, there = job.patches()[5], pickle.loads(pickle.dumps(job)).patches()[5]
    np.testing.assert_array_equal(here["maps"], there["maps"])
    assert here["maps"].shape == (3, 8, 8, 8)


KIDNEYS: dict[str, Any] = {
    "loss": {"name": "dice+0.1*boundary"},
    "regions": {"kidneys": [1, 2], "left": [1]},
    **OPTIONS,
}


@pytest.fixture(scope="module")
def kidneys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {"background": 0, "kidney_left": 1, "kidney_right": 2}
    return write_cases(tmp_path_factory.mktemp("kidneys"), labels)


def test_a_region_of_one_side_has_maps_where_nothing_is_mirrored(
    kidneys: Path, tmp_path: Path
) -> None:
    medseg3d.fit(kidneys, out=tmp_path / "run", cache=tmp_path / "cache", **KIDNEYS)
    assert sum(not case.has_labels for case in cached(tmp_path / "cache")) == 2
    plan = Plan.load(tmp_path / "run" / "plan.yaml")
    loss = make_loss(FitConfig(data=kidneys, **KIDNEYS), plan)
    assert plan.swapped_labels == {1: 2}
    upside_down, network = plan.mirrored_along((1, 2)), torch.nn.Identity()
    assert maps_that_change_sides(network, loss, upside_down) == ()
    of_labels = build_loss("dice+0.1*boundary")
    assert maps_that_change_sides(network, of_labels, upside_down) == ()
    assert maps_that_change_sides(network, of_labels, plan.mirrored_along((0,))) == (0, 2, 1)


def test_a_region_of_one_side_is_refused_before_preprocessing_if_mirrored(
    kidneys: Path, tmp_path: Path
) -> None:
    mirroring = {"mirror_axes": (0,)}
    with pytest.raises(ConfigError, match=r"labels \[1\] becomes that of \[2\] .* --mirror"):
        medseg3d.fit(
            kidneys,
            out=tmp_path / "run",
            cache=tmp_path / "cache",
            augmentation=mirroring,
            **KIDNEYS,
        )
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists(), "nothing was preprocessed"


def test_losses_without_distances_say_nothing_of_them(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "medseg3d"):
        medseg3d.fit(data, out=tmp_path / "a", cache=tmp_path / "c", **OPTIONS)
    assert all(case.has_labels for case in cached(tmp_path / "c"))
    assert "distances:" not in caplog.text
