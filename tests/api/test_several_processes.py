"""One ``fit`` by several processes: what one process would find, and no harm when one ends."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import medseg3d
from medseg3d.api import rehearse
from medseg3d.api.fitting.following import refuse_what_needs_one_process
from medseg3d.bundle import load_bundle
from medseg3d.config import FitConfig
from medseg3d.errors import ConfigError, RunError
from medseg3d.ranks import Rank
from medseg3d.training.checkpoint import read_checkpoint
from medseg3d.training.team import Team
from tests.api.processes import Ranks, begin, launch
from tests.api.test_kill_fit import SMALL, check_readable, write_cases

PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "cases"
    write_cases(folder)
    return folder


def words(cases: Path, run: Path, **changes: Any) -> list[str]:
    options = SMALL | {"cache": run.parent / "cache"} | changes
    found = ["fit", str(cases), "-o", str(run)]
    for name, value in options.items():
        text = json.dumps(list(value) if isinstance(value, tuple) else value, default=str)
        found += ["--set", f"{name}={text}"]
    return found


def again(cases: Path, run: Path) -> list[str]:
    return ["fit", str(cases), "-o", str(run), "--resume"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those after the last step, which no choice of the best can hide."""
    found = read_checkpoint(run / "checkpoints")
    assert found is not None
    return {name: value for name, value in found.tensors.items() if "network" in name}


def losses(run: Path) -> list[float]:
    with (run / "history.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


MANY = {"steps_per_epoch": 10, "epochs": 8, "validate_every": 3}


@pytest.fixture(scope="module")
def whole(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run by two processes, and what they said."""
    folder = tmp_path_factory.mktemp("whole")
    ranks = launch(2, words(cases, folder / "run", **MANY), folder)
    assert ranks.wait() == [0, 0], ranks.texts()
    return folder / "run", ranks.texts()


def test_two_processes_are_one_with_twice_the_batch(
    cases: Path, whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    two, (leader, follower) = whole
    assert leader.count("2 processes, 1 patches each in a step") == 1
    assert "Warning" not in leader
    assert leader.endswith(f"{two / 'model.medseg3d'}\n")
    assert follower == ""  # the first process tells of the run
    assert json.loads((two / "provenance.json").read_text())["device"] == "2 processes, cpu"

    one = SMALL | MANY | {"batch_size": 2}
    medseg3d.fit(cases, out=tmp_path / "one", cache=tmp_path / "cache", **one)
    assert losses(two) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    found, expected = weights(two), weights(tmp_path / "one")
    for name, value in expected.items():
        if not name.endswith("conv.bias"):  # without effect, since a norm follows
            assert torch.allclose(found[name], value, atol=1e-5), name


def at_work(ranks: Ranks, run: Path, epochs: int) -> None:
    """Wait until so many epochs have ended."""
    until = time.monotonic() + 300
    while time.monotonic() < until and ranks.processes[0].is_alive():
        if (run / "history.csv").is_file() and len(losses(run)) >= epochs:
            return
        time.sleep(0.005)
    raise AssertionError(ranks.texts())


def steps_done(run: Path) -> int:
    found = read_checkpoint(run / "checkpoints")
    assert found is not None
    return int(found.facts["step"])


def test_weights_that_make_no_logits_are_waited_for_by_nobody(cases: Path, tmp_path: Path) -> None:
    network = {"name": "monai:BasicUNetPlusPlus", "options": {"features": [2, 2, 2, 2, 2, 2]}}
    small = {"epochs": 1, "steps_per_epoch": 3, "patch_size": (32, 32, 32), "network": network}
    small["width"] = None  # which this network does not take
    ranks = launch(2, words(cases, tmp_path / "run", **small), tmp_path)
    assert ranks.wait() == [0, 0], ranks.texts()
    assert steps_done(tmp_path / "run") == 3


def one_leaves_in_a_step() -> None:
    """The follower waits for the end of the first one, which is in the middle of a step."""
    team = Team.join()
    if not team.leads:
        return team.outlast()

    def steps() -> None:
        for _ in range(3):
            team.agreed(1.0)

    begun = time.monotonic()
    with pytest.raises(RunError, match=r"another of the 2 processes .* failed \(.+\); its own"):
        steps()
    assert time.monotonic() - begun < 60
    time.sleep(0.5)  # as if it wrote a checkpoint
    team.leave()
    return None


def test_one_that_waits_takes_no_part_in_the_steps_of_the_others(tmp_path: Path) -> None:
    ranks = begin(2, one_leaves_in_a_step, tmp_path)
    assert ranks.wait() == [0, 0], ranks.texts()
    assert ranks.texts() == ["", ""]


def first_one_goes_without_a_word() -> None:
    """It ends while the follower waits for it."""
    team = Team.join()
    if team.leads:
        time.sleep(1)
        os._exit(0)
    begun = time.monotonic()
    team.outlast()
    assert 0.5 < time.monotonic() - begun < 60


def test_one_that_waits_says_nothing_when_the_first_one_is_gone(tmp_path: Path) -> None:
    ranks = begin(2, first_one_goes_without_a_word, tmp_path)
    assert ranks.wait() == [0, 0], ranks.texts()
    assert ranks.texts() == ["", ""]


def test_what_stops_them_does_no_harm(
    cases: Path, whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run, last = tmp_path / "run", steps_done(whole[0])
    ranks = launch(2, words(cases, run, **MANY), tmp_path / "time_is_up")
    at_work(ranks, run, 1)
    for process in ranks.processes:  # as Slurm does before the end of a job
        os.kill(process.pid, signal.SIGUSR1)
    assert ranks.wait() == [138, 138], ranks.texts()
    first = steps_done(run)
    assert 10 <= first < last
    leader, follower = ranks.texts()
    assert "the time of this job is nearly up" in leader
    assert "--resume" in leader
    assert "Traceback" not in leader + follower

    ranks = launch(2, again(cases, run), tmp_path / "killed")
    at_work(ranks, run, len(losses(run)) + 1)
    ranks.processes[1].kill()
    assert ranks.wait() == [1, -9], ranks.texts()
    assert first < steps_done(run) < last
    leader = ranks.texts()[0]
    assert "another of the 2 processes of this run has ended" in leader
    assert "--resume goes on from the last checkpoint" in leader
    assert "Traceback" not in leader
    check_readable(run, whole[0].parent / "cache")

    ranks = launch(2, again(cases, run), tmp_path / "resumed")
    assert ranks.wait() == [0, 0], ranks.texts()
    assert losses(run) == losses(whole[0])
    found, expected = (load_bundle(place / "model.medseg3d")[1] for place in (run, whole[0]))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_folds_one_after_the_other_until_the_first_process_ends(
    cases: Path, tmp_path: Path
) -> None:
    small = {"fold": "all", "epochs": 1, "steps_per_epoch": 2}
    run = tmp_path / "run"
    ranks = launch(2, words(cases, run, **small), tmp_path)
    until = time.monotonic() + 300
    while not (run / "fold_1" / "provenance.json").is_file() and time.monotonic() < until:
        time.sleep(0.005)
    ranks.processes[0].kill()
    assert ranks.wait() == [-9, 1], ranks.texts()
    assert (run / "fold_0" / "model.medseg3d").is_file()
    assert "another of the 2 processes of this run has ended" in ranks.texts()[1]


def test_the_first_one_refuses_for_all(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    ranks = launch(2, words(cases, tmp_path / "run"), tmp_path)
    assert ranks.wait() == [1, 1], ranks.texts()
    leader, follower = ranks.texts()
    assert leader.count("already in use") == 1
    assert "its own message says why" in follower
    assert "Traceback" not in leader + follower
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("rank", "seen", "device", "expected"),
    [
        (Rank(1, 2, 1, "", "torchrun"), 2, "cuda", "cuda:1"),
        (Rank(5, 8, 1, "", "srun"), 4, "cuda", "cuda:1"),
        (Rank(1, 2, 1, "", "srun"), 1, "cuda", "cuda:0"),  # each task sees its own
        (Rank(1, 2, 1, "", "torchrun"), 1, "cuda", "number 2 on its host, where torch sees 1 GPU"),
        (Rank(0, 2, 0, "", "torchrun"), 2, "cuda:1", "one GPU for 2 processes"),
        (Rank(1, 2, 1, "", "torchrun"), 0, "cpu", "cpu"),
        (Rank(), 2, "cuda:1", "cuda:1"),
    ],
)
def test_each_takes_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, rank: Rank, seen: int, device: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    try:
        found = str(Team(rank).own_device(torch.device(device)))
    except ConfigError as error:
        found = str(error)
    assert expected in found


def test_what_several_cannot_do_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = ({"name": "2d", "share": 1.0},)
    config = FitConfig.model_validate({"data": "cases", "device": "cpu", "stages": stages})
    refuse_what_needs_one_process(config, Team())
    with pytest.raises(ConfigError, match=r"stages are trained by one process, here are 3"):
        refuse_what_needs_one_process(config, Team(Rank(0, 3)))
    config = config.model_copy(update={"stages": (), "self_correction": 4})
    refuse_what_needs_one_process(config, Team())
    with pytest.raises(ConfigError, match=r"self_correction is done by one process, here are 3"):
        refuse_what_needs_one_process(config, Team(Rank(0, 3)))
    for name, value in {"PROCID": "0", "STEP_NUM_TASKS": "2", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1-2]")
    with pytest.raises(ConfigError, match="dry_run measures one process"):
        rehearse(config)


FAKE = """#!/bin/bash
echo "${{SRUN_CPUS_PER_TASK}} {name} $*" >> {log}
exit {code}
"""


@pytest.mark.parametrize(("code", "begun", "requeued"), [(138, True, True), (1, False, False)])
def test_the_template_for_slurm(tmp_path: Path, code: int, begun: bool, requeued: bool) -> None:
    log = tmp_path / "log"
    for name, ends in (("srun", code), ("scontrol", 0)):
        place = tmp_path / "bin" / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(FAKE.format(name=name, log=log, code=ends))
        place.chmod(0o755)
    run = tmp_path / "my run"
    run.mkdir()
    if begun:
        (run / "config.yaml").touch()
    variables = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    variables["SLURM_CPUS_PER_TASK"] = "8"
    command = ["bash", str(PIPELINES / "slurm.sbatch"), "cases", str(run), "--network", "vnet"]
    assert subprocess.run(command, env=variables).returncode == code
    resume = " --resume" if begun else ""
    expected = [f"8 srun --kill-on-bad-exit=1 medseg3d fit cases -o {run}{resume} --network vnet"]
    assert log.read_text().splitlines() == expected + ["8 scontrol requeue 77"] * requeued
    assert subprocess.run(command[:3], env=variables, stderr=subprocess.DEVNULL).returncode == 2
