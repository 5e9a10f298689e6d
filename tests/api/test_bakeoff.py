"""Networks by one recipe: what each gets, what is skipped, what fails, and what is refused."""

import csv
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from medseg3d import api, cli
from medseg3d.api.contest import contestant
from medseg3d.api.contest import run as contest
from medseg3d.api.contest.contestant import FACTS, FAULT, Facts, gflop_per_patch
from medseg3d.api.contest.options import own_options, shared_options
from medseg3d.api.contest.run import PROVENANCE
from medseg3d.api.provenance import Origin
from medseg3d.bundle import FILE_NAME, load_network, read_bundle, save_bundle
from medseg3d.config import BakeoffConfig, FitConfig, NetworkPart, Part, read_yaml, validated
from medseg3d.data.layouts import find_cases
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.networks import NETWORKS
from medseg3d.progress import LOGGER
from medseg3d.runs import LOCK
from medseg3d.scoring import Row, write_table
from tests.api.small_sets import SMALL, write_cases
from tests.benchmarks.few_cases import link_cases

NAMES = ("unet3d", "vnet", "unet")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("set") / "cases", {"background": 0, "box": 1})


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    return SMALL | {"width": 4, "cache": str(tmp_path / "cache")}


class Processes:
    """Stands in for the processes: leaves what they would leave, without training.

    Attributes:
        dice: What each network reaches.
        acts: What happens in a step instead, by the step and the network.
        calls: Steps and networks in the order of the calls.
    """

    def __init__(self, model: Path, folder: Path) -> None:
        self.model = folder / "scored.medseg3d"
        facts = {"scores": {"box": 0.5, "mean": 0.5}, "training": {"steps": 7, "minutes": 0.5}}
        bundle = read_bundle(model).model_copy(update=facts)
        save_bundle(self.model, bundle, load_network(model))
        self.dice = dict(zip(NAMES, (0.5, 0.75, 0.25), strict=True))
        self.acts: dict[tuple[str, str], Callable[[Path], int]] = {}
        self.calls: list[tuple[str, str]] = []

    def __call__(self, module: str, arguments: Sequence[str]) -> int:
        step, options, _ = arguments
        place = validated(FitConfig, json.loads(options)).out
        assert place is not None
        assert module == contestant.__name__
        self.calls.append((step, place.name))
        if act := self.acts.get((step, place.name)):
            return act(place)
        if step == "train":
            shutil.copy(self.model, place / FILE_NAME)
            rows = [self.row(place.name, case) for case in range(2)]
            write_table(rows, place / "validation" / "scores.csv")
            Facts(training_memory=1 << 30).write(place)
        else:
            Facts(1 << 30, 1 << 29, 1000, 1.5, 0.25).write(place)
        return 0

    def row(self, name: str, case: int) -> Row:
        dice = self.dice[name] + (0.125 if case else -0.125)
        scores = {"dice": dice, "hausdorff_95_mm": 3.0 + 2 * case}
        return Row(
            *(f"case_{case}", 3, "box", scores),
            **{"prediction_ml": 1.0, "reference_ml": 1.0, "status": "ok"},
        )


@pytest.fixture
def processes(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    standing_in = Processes(tiny_model, tmp_path)
    monkeypatch.setattr(contest, "run_apart", standing_in)
    return standing_in


def bake(data: Path, **options: Any) -> api.Bakeoff:
    """Without the figure, which takes longer than all else here."""
    return api.bakeoff(data, figure="none", **options)


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "bakeoff.csv").open() as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def both_steps(*names: str) -> list[tuple[str, str]]:
    return [(step, name) for name in names for step in ("train", "measure")]


def test_each_network_is_a_run_by_one_plan_split_and_seed(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    own = {"unet": {"network": {"options": {"width": 3}}}, "vnet": {"batch_size": 2}}
    result = bake(cases, networks=NAMES, out=folder, fit=small | {"seed": 5}, own=own)
    assert processes.calls == both_steps(*NAMES)
    assert [one.network for one in result.contestants] == ["vnet", "unet3d", "unet"]
    for name in ("unet3d", "unet"):
        for shared in ("plan.yaml", "split.json"):
            assert (folder / name / shared).read_text() == (folder / shared).read_text()
    assert not (folder / "vnet" / "plan.yaml").exists(), "another batch takes a plan of its own"
    for name in NAMES:
        config = validated(FitConfig, read_yaml(folder / name / "config.yaml"))
        assert (config.network.name, config.out) == (name, folder / name)
        assert (config.seed, config.epochs, config.resume) == (5, 1, False)
        assert config.network.options == ({"width": 3} if name == "unet" else {})
        assert config.batch_size == (2 if name == "vnet" else 1)
    assert not list(folder.rglob(LOCK))


def test_all_are_wide_however_short_the_time_unless_a_plan_says_otherwise(tmp_path: Path) -> None:
    def shared(**fit: Any) -> FitConfig:
        config = BakeoffConfig(data=tmp_path, networks=("unet3d",), max_minutes=1, fit=fit)
        return shared_options(config, tmp_path / "runs")

    assert [shared().width, shared(width=8).width] == [32, 8]
    assert shared(plan=str(tmp_path / "plan.yaml")).width is None
    own = own_options(shared(), {"plan": str(tmp_path / "plan.yaml")}, "vnet")
    assert own.width is None
    assert own_options(shared(memory_gb=4), {"plan": "plan.yaml"}, "vnet").memory_gb is None
    assert own_options(shared(), {"batch_size": 2}, "vnet").width == 32


def test_a_width_of_all_passes_by_the_networks_that_take_none(tmp_path: Path) -> None:
    config = BakeoffConfig(data=tmp_path, networks=("all",), fit={"width": 16})
    recipe = shared_options(config, tmp_path / "runs")
    for name in contest.network_names(config):
        assert own_options(recipe, {}, name).width == 16, "part of the plan that all share"
    with pytest.raises(ConfigError, match=r"'ce_net' .*network\.options\.width=8 instead"):
        own_options(recipe, {"width": 8}, "ce_net")


def test_the_table_holds_what_the_runs_found(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    result = api.bakeoff(cases, networks=NAMES[:2], out=tmp_path / "runs", fit=small)
    first, second = result.contestants
    assert (first.network, first.dice, first.hausdorff_95_mm) == ("vnet", 0.75, 4.0)
    assert (second.network, second.dice) == ("unet3d", 0.5)
    assert first.dice_low <= first.dice <= first.dice_high
    assert (first.parameters, first.gflop_per_patch, first.seconds_per_case) == (1000, 1.5, 0.25)
    assert (first.training_memory, first.prediction_memory) == (1 << 30, 1 << 29)
    assert (first.steps, first.minutes) == (7, 0.5)
    assert list(rows_of(result.folder)) == ["vnet", "unet3d"]
    assert result.csv == result.folder / "bakeoff.csv"
    assert "| vnet | 0.750" in (result.folder / "bakeoff.md").read_text()
    assert result.figure is not None
    assert result.figure.read_bytes().startswith(b"\x89PNG")


def test_a_network_that_fails_is_reported_and_tried_again(
    cases: Path,
    small: dict[str, Any],
    processes: Processes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def tells(place: Path) -> int:
        (place / FAULT).write_text("the loss became nan")
        return 1

    processes.acts = {("train", "unet3d"): tells, ("measure", "vnet"): lambda _: -signal.SIGKILL}
    folder = tmp_path / "runs"
    result = bake(cases, networks=NAMES, out=folder, fit=small)
    assert processes.calls == [("train", "unet3d"), *both_steps("vnet", "unet")]
    assert [one.network for one in result.failed] == ["unet3d", "vnet"]
    rows = rows_of(folder)
    assert list(rows) == ["unet", "unet3d", "vnet"]
    assert (rows["unet3d"]["status"], rows["unet3d"]["note"]) == ("failed", "the loss became nan")
    assert "killed, probably because memory ran out" in rows["vnet"]["note"]
    assert "2 of 3 networks failed (unet3d, vnet)" in caplog.text

    processes.acts, processes.calls = {}, []
    result = bake(cases, networks=NAMES, out=folder)
    assert processes.calls == [*both_steps("unet3d"), ("measure", "vnet")]
    assert not result.failed
    assert {row["status"] for row in rows_of(folder).values()} == {"done"}


def test_a_network_whose_process_fails_after_measuring_is_measured_again(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    def dies_at_exit(place: Path) -> int:
        Facts(1 << 30, 1 << 29, 1000, 1.5, 0.25).write(place)
        return -signal.SIGSEGV

    processes.acts = {("measure", "unet3d"): dies_at_exit}
    folder = tmp_path / "runs"
    [failed] = bake(cases, networks=NAMES[:1], out=folder, fit=small).failed
    assert "was ended by signal 11" in failed.note

    processes.acts, processes.calls = {}, []
    [done] = bake(cases, networks=NAMES[:1], out=folder).contestants
    assert processes.calls == [("measure", "unet3d")]
    assert (done.status, done.dice) == ("done", 0.5)


def copied(cases: Path, folder: Path) -> Path:
    """The same cases in another place."""
    return Path(shutil.copytree(cases, folder))


def test_networks_trained_by_other_cases_are_not_compared(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    bake(cases, networks=NAMES[:1], out=folder, fit=small)
    before = Origin.of(FitConfig(data=cases), find_cases(cases).cases, ())
    before.write(folder / "unet3d" / PROVENANCE, device="cpu", precision="fp32")
    tables = {path.name: path.read_text() for path in folder.glob("bakeoff.*")}
    processes.calls = []

    corrected = copied(cases, tmp_path / "v2")
    (corrected / "imagesTr" / "case_3_0000.nii.gz").write_bytes(
        (corrected / "imagesTr" / "case_0_0000.nii.gz").read_bytes()
    )
    told = (
        f"v2 holds other cases than those that trained network unet3d in {folder}: 1 case "
        r"\(case_3\) changed; restore what was there, choose another folder with -o, or remove"
    )
    with pytest.raises(RunError, match=told):
        bake(corrected, networks=NAMES[:2], out=folder)
    assert processes.calls == []
    assert {path.name: path.read_text() for path in folder.glob("bakeoff.*")} == tables

    bake(copied(cases, tmp_path / "moved"), networks=NAMES[:2], out=folder)
    assert processes.calls == both_steps("vnet")


def test_names_that_are_no_text_are_spelled_out(
    cases: Path,
    small: dict[str, Any],
    processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(config: FitConfig, folder: Path) -> None:
        raise DataError(f"{config.data}: no such case")

    def ended(module: str, arguments: Sequence[str]) -> int:
        with pytest.raises(SystemExit):
            contestant.main(arguments)
        return 1

    for name in ("handle_signals", "forgive_characters", "end_with_parent"):
        monkeypatch.setattr(contestant, name, lambda: None)
    monkeypatch.setitem(contestant.STEPS, "train", refuses)
    monkeypatch.setattr(contest, "run_apart", ended)
    data = copied(cases, tmp_path / os.fsdecode(b"caf\xe9"))
    [failed] = bake(data, networks=NAMES[:1], out=tmp_path / "runs", fit=small).failed
    assert failed.note.endswith(r"caf\udce9: no such case")
    page = (tmp_path / "runs" / "bakeoff.md").read_text(encoding="utf-8")
    assert page.startswith(r"# 0 of 1 networks on caf\udce9")


def test_it_goes_on_where_it_was_interrupted(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    def interrupt(_: Path) -> int:
        raise KeyboardInterrupt

    processes.acts = {("train", "vnet"): interrupt}
    folder = tmp_path / "runs"
    with pytest.raises(KeyboardInterrupt):
        bake(cases, networks=NAMES, out=folder, fit=small)
    states = {name: row["status"] for name, row in rows_of(folder).items()}
    assert states == {"unet3d": "done", "unet": "waiting", "vnet": "waiting"}
    processes.acts, processes.calls = {}, []
    bake(cases, networks=NAMES, out=folder, fit=small)
    assert processes.calls == both_steps("vnet", "unet")
    processes.calls = []
    bake(cases, networks=NAMES, out=folder, fit=small)
    assert processes.calls == []


def test_it_goes_on_where_planning_was_interrupted(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg3d.api.fitting.planning._plan", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bake(cases, networks=NAMES, out=folder, fit=small)
    assert processes.calls == []
    bake(cases, networks=NAMES, out=folder, fit=small)
    assert processes.calls == both_steps(*NAMES)


def test_networks_may_be_added_and_their_rows_stay(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    bake(cases, networks=NAMES[:1], out=folder, fit=small)
    processes.calls = []
    result = bake(cases, networks=NAMES[1:2], out=folder)
    assert processes.calls == both_steps("vnet")
    assert {one.network for one in result.contestants} == {"unet3d", "vnet"}


def test_other_options_are_refused_before_any_work(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    bake(cases, networks=NAMES[:1], out=folder, fit=small)
    processes.calls = []
    with pytest.raises(ConfigError, match=r"other options: seed \(stored 0, given 1\)"):
        bake(cases, networks=NAMES, out=folder, fit=small | {"seed": 1})
    own = {"unet3d": {"network": {"options": {"width": 8}}}}
    with pytest.raises(ConfigError, match="unet3d was begun with another network; give what"):
        bake(cases, networks=NAMES, out=folder, fit=small, own=own)
    with pytest.raises(ConfigError, match=r"own\.vnet: unknown key 'batchsize'; did you mean"):
        bake(cases, networks=NAMES, out=folder, own={"vnet": {"batchsize": 1}})
    with pytest.raises(ConfigError, match="unknown network 'unet33'; did you mean"):
        bake(cases, networks=["unet33"], out=folder)
    assert processes.calls == []


def test_a_folder_with_other_things_is_refused(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(RunError, match=r"mine holds config\.yaml and no bakeoff\.csv"):
        bake(cases, networks=NAMES, out=tmp_path / "mine", fit=small)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file is no folder"):
        bake(cases, networks=NAMES, out=tmp_path / "file", fit=small)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.yaml"]


def test_cases_that_cannot_be_trusted_leave_nothing_behind(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(cases, broken)
    (broken / "imagesTr" / "case_1_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match="case_1"):
        bake(broken, networks=NAMES, out=tmp_path / "runs", fit=small)
    assert not (tmp_path / "runs").exists()
    assert processes.calls == []


def test_all_are_all_networks_and_monais_may_be_among_them(cases: Path) -> None:
    config = BakeoffConfig(data=cases, networks="all, monai:BasicUNet,vnet")
    assert config.networks == ("all", "monai:BasicUNet", "vnet")
    every = [name for name in NETWORKS if name != "unet_gan"]  # which needs images of a target
    assert contest.network_names(config) == [*every, "monai:BasicUNet"]
    recipe = FitConfig(data=cases, out=Path("runs"))
    run = contest.own_options(recipe, {}, "monai:BasicUNet")
    assert run.out == Path("runs/monai_BasicUNet")


def test_options_of_one_network_lie_on_top_of_those_of_all(cases: Path, tmp_path: Path) -> None:
    augmentation = {"elastic_probability": 0, "mirror_axes": [1]}
    fit = {"augmentation": augmentation, "loss": {"options": {"smooth": 1.0}}}
    own = {
        "augmentation": {"rotation_degrees": 5},
        "loss": {"options": {"batch": False}},
        "network": {"options": {"width": 8}},
    }
    config = validated(BakeoffConfig, {"data": cases, "fit": fit, "own": {"vnet": own}})
    recipe = shared_options(config, tmp_path / "new")
    found = own_options(recipe, config.own["vnet"], "vnet")
    changed = found.augmentation
    assert (changed.elastic_probability, changed.mirror_axes, changed.rotation_degrees) == (
        0, (1,), 5,
    )  # fmt: skip
    assert found.loss == Part(name="dice_ce", options={"smooth": 1.0, "batch": False})
    assert found.network == NetworkPart(name="vnet", options={"width": 8})
    assert own_options(recipe, {"loss": "focal"}, "vnet").loss == Part(name="focal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": {"network": "vnet"}}, "network cannot be given here"),
        ({"fit": {"max_minutes": 3}}, "max_minutes cannot be given here"),
        ({"fit": {"fold": "all"}}, "fold must be one fold"),
        ({"fit": {"epochs": 3}, "max_minutes": 3}, "exclude each other"),
        ({"own": {"vnet": {"seed": 3}}}, "seed cannot be given here: it is the same for all"),
        ({"own": {"vnet": {"network": "vnet"}}}, "network has the name already"),
        ({"networks": []}, "networks: "),
    ],
)
def test_options_that_make_no_fair_comparison_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(BakeoffConfig, {"data": "cases"} | options)


def test_the_command_prints_the_table_and_fails_if_a_network_did(
    cases: Path, small: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    processes.acts = {("train", "unet"): lambda _: 7}
    command = ["bakeoff", str(cases), "--networks", ",".join(NAMES), "-o", str(tmp_path / "runs")]
    command += ["--set", "figure=none"]
    settings = [f"--set=fit.{name}={json.dumps(value)}" for name, value in small.items()]
    found = CliRunner().invoke(cli.app, [*command, *settings])
    assert found.exit_code == 1
    header, *rows, path = found.stdout.splitlines()
    assert header.split("\t")[:2] == ["network", "Dice"]
    assert [row.split("\t")[0] for row in rows] == ["vnet", "unet3d", "unet"]
    assert rows[-1].endswith("its process ended with exit code 7; see what it wrote last")
    assert path == str(tmp_path / "runs" / "bakeoff.csv")
    processes.acts = {}
    assert CliRunner().invoke(cli.app, command).exit_code == 0


def test_the_budget_is_ten_minutes_unless_it_is_said(cases: Path, tmp_path: Path) -> None:
    def minutes(**options: Any) -> float | None:
        config = BakeoffConfig(data=cases, **options)
        return contest.shared_options(config, tmp_path / "absent").max_minutes

    assert (minutes(), minutes(max_minutes=3), minutes(fit={"epochs": 2})) == (10, 3, None)


class Pointwise(nn.Module):
    """One convolution of known cost."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.leaky_relu(self.conv(x))


def test_operations_of_a_convolution_are_those_worked_by_hand(tiny_model: Path) -> None:
    plan = read_bundle(tiny_model).plan.model_copy(update={"patch_size": (8, 6, 4)})
    voxels, products = 8 * 6 * 4, 3 * 3**3
    assert gflop_per_patch(Pointwise(), plan) == pytest.approx(2 * voxels * products / 1e9)


def test_real_processes_train_and_measure(
    cases: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    LOGGER.setLevel(logging.ERROR)
    [done] = bake(cases, networks=NAMES[:1], out=folder, fit=small).contestants
    run = folder / "unet3d"
    left = {path.name for path in run.iterdir()}
    assert {"history.csv", "validation", PROVENANCE, FILE_NAME, FACTS} <= left
    with (run / "validation" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    dice = sum(float(row["dice"]) for row in rows) / len(rows)
    distance = sum(float(row["hausdorff_95_mm"]) for row in rows) / len(rows)
    assert done.dice == pytest.approx(dice, abs=1e-6)
    assert done.hausdorff_95_mm == pytest.approx(distance, abs=1e-6)
    bundle = read_bundle(run / FILE_NAME)
    network = NETWORKS.build("unet3d", 1, 2, **bundle.options)
    assert done.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert bundle.plan == Plan.load(folder / "plan.yaml")
    assert (done.steps, bundle.training["seed"]) == (2, 0)
    assert 0 < done.gflop_per_patch < 1
    assert 0 < done.seconds_per_case < 60
    assert 1 << 27 < done.prediction_memory < 1 << 34
    assert 1 << 27 < done.training_memory < 1 << 34


def test_a_process_that_fails_leaves_its_sentence(
    cases: Path,
    small: dict[str, Any],
    processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("handle_signals", "forgive_characters", "end_with_parent"):
        monkeypatch.setattr(contestant, name, lambda: None)

    def ended(module: str, arguments: Sequence[str]) -> int:
        with pytest.raises(SystemExit) as end:
            contestant.main(arguments)
        return int(str(end.value))

    monkeypatch.setattr(contest, "run_apart", ended)
    own = {"vnet": {"network": {"options": {"width": "wide"}}}}
    [failed] = bake(cases, networks=["vnet"], out=tmp_path / "runs", fit=small, own=own).failed
    assert failed.note.startswith("network 'vnet' cannot be built with width='wide'")


def test_a_model_without_scores_is_scored_again(
    cases: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(module: str, arguments: Sequence[str]) -> int:
        config = validated(FitConfig, json.loads(arguments[1]))
        assert config.out is not None
        contestant.STEPS[arguments[0]](config, config.out)
        return 0

    monkeypatch.setattr(contest, "run_apart", here)
    options = {"networks": NAMES[:1], "out": tmp_path / "runs", "fit": small}
    bake(cases, **options)
    table = tmp_path / "runs" / "unet3d" / "validation" / "scores.csv"
    before = table.read_text()
    table.unlink()
    peak = Facts.of(tmp_path / "runs" / "unet3d").training_memory
    bake(cases, **options)
    assert table.read_text() == before
    assert Facts.of(tmp_path / "runs" / "unet3d").training_memory >= peak


def test_the_benchmark_links_forty_cases_and_splits_them(shared_data: Path, tmp_path: Path) -> None:
    data = link_cases(shared_data / "hippocampus", tmp_path, count=10)
    assert link_cases(shared_data / "hippocampus", tmp_path, count=10) == data
    [split] = json.loads((tmp_path / "splits.json").read_text())
    assert (len(split["train"]), len(split["val"])) == (8, 2)
    found = find_cases(data).cases
    assert {case.id for case in found} == {*split["train"], *split["val"]}
