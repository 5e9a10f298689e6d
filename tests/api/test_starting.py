"""``fit --from``: what a run takes from a model, what it says about it, what it refuses."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import medseg3d
from medseg3d.api.fitting import run as fitting
from medseg3d.api.fitting.starting import as_the_model
from medseg3d.bundle import Bundle, inspect_bundle, load_bundle, read_bundle, save_bundle
from medseg3d.cli import app
from medseg3d.config import FitConfig, read_yaml
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, ModelError
from medseg3d.networks import build_network
from tests.api.small_sets import SMALL, write_cases

FIRST = {"network": "unet3d", "width": 4, "patch_size": (8, 8, 8)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of organ and bone on MR."""
    folder = tmp_path_factory.mktemp("first")
    data = write_cases(folder / "data", {"background": 0, "organ": 1, "bone": 2})
    cache = folder / "cache"
    return medseg3d.fit(data, out=folder / "run", cache=cache, **SMALL, **FIRST).bundle


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Other values, a new label, a new channel, coarser voxels."""
    monkeypatch.chdir(tmp_path)
    labels = {"background": 0, "bone": 1, "tumor": 4}
    return write_cases(tmp_path / "data", labels, ("CT", "MR"), spacing=1.5)


class Begun(nn.Module):
    """What training would have begun with."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, torch.Tensor] = {}

    def __call__(self, network: nn.Module, *_: Any, **__: Any) -> Any:
        self.state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        raise KeyboardInterrupt


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begun]:
    """Runs are stopped where training would begin."""
    begun = Begun()
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train", begun)
        yield begun


def heads(state: dict[str, torch.Tensor], num_labels: int) -> list[str]:
    return [name for name, tensor in state.items() if tensor.shape[:1] == (num_labels,)]


def test_known_labels_and_channels_begin_with_the_weights_of_the_model(
    model: Path, second: Path, begun: Begun, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "medseg3d"), pytest.raises(KeyboardInterrupt):
        medseg3d.fit(second, out="run", start_from=model, **SMALL)
    old, new = load_bundle(model)[1], begun.state
    assert old.keys() == new.keys()
    found = heads(new, 3)
    assert found
    for name in found:  # background, bone, tumor from background, organ, bone
        assert torch.equal(new[name][:2], old[name][[0, 2]])
        assert not torch.equal(new[name][2], old[name][1])
    first = next(name for name, tensor in new.items() if tensor.ndim == 5)
    assert torch.equal(new[first][:, 1], old[first][:, 0])
    assert not new[first][:, 0].any()
    rest = new.keys() - {*found, first}
    assert all(torch.equal(new[name], old[name]) for name in rest)
    told = next(text for text in caplog.messages if text.startswith("begun with"))
    assert "new labels: tumor; labels left behind: organ; new channels: CT" in told
    facts = json.loads(Path("run/start.json").read_text())
    assert facts["sha256"] == inspect_bundle(model).sha256
    assert (facts["labels"], facts["new_channels"]) == (["background", "bone"], ["CT"])
    assert sorted(facts["in_part"]) == sorted([*found, first])
    assert sorted(facts["whole"]) == sorted(rest)


def test_geometry_and_normalization_are_the_models_unless_given(
    model: Path, second: Path, begun: Begun
) -> None:
    was = read_bundle(model).plan
    with pytest.raises(KeyboardInterrupt):
        medseg3d.fit(second, out="run", start_from=model, **SMALL)
    plan = Plan.load(Path("run/plan.yaml"))
    for name in ("spacing", "patch_size", "strides", "kernels", "width", "max_width"):
        assert getattr(plan, name) == getattr(was, name), name
    assert plan.channels[1] == was.channels[0]
    assert plan.channels[0].name == "CT"
    assert plan.labels == {0: "background", 1: "bone", 4: "tumor"}
    own = {"spacing": (1.5, 1.5, 1.5), "patch_size": (9, 8, 10)}
    with pytest.raises(KeyboardInterrupt):
        medseg3d.fit(second, out="other", start_from=model, **SMALL, **own)
    plan = Plan.load(Path("other/plan.yaml"))
    assert plan.spacing == (1.5, 1.5, 1.5)
    assert plan.strides == was.strides
    divisor = [max(1, 2 ** len(was.strides))] * 3
    assert all(edge % step == 0 for edge, step in zip(plan.patch_size, divisor, strict=True))
    assert all(edge >= given for edge, given in zip(plan.patch_size, (9, 8, 10), strict=True))


def test_a_channel_of_another_kind_is_normalized_as_measured(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    was = read_bundle(model).plan
    (rule,) = was.channels
    assert (rule.name, rule.scheme) == ("MR", "zscore")
    config = FitConfig(data=model.parent, start_from=model)
    mr = rule.model_copy(update={"lower": -1.0, "upper": 1.0, "mean": 0.5})
    ct = mr.model_copy(update={"scheme": "ct", "masks": False})
    other = mr.model_copy(update={"name": "other"})
    same = was.model_copy(update={"channels": (mr, other)})
    assert as_the_model(same, config).channels == (rule, other)
    assert not caplog.messages
    differs = was.model_copy(update={"channels": (ct, other)})
    assert as_the_model(differs, config).channels == (ct, other)
    (told,) = caplog.messages
    assert told.startswith(f"{model} was trained")
    assert "MR (zscore there, ct here)" in told


def test_a_run_is_resumed_when_the_model_is_gone(
    model: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "model.medseg3d"
    copy.write_bytes(model.read_bytes())
    options = {"out": "run", "start_from": copy, "network": "unet3d"} | SMALL
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train", Begun())
        with pytest.raises(KeyboardInterrupt):
            medseg3d.fit(second, **options)
    copy.unlink()
    assert read_yaml(Path("run/config.yaml"))["start_from"] == str(copy)
    run = medseg3d.fit(second, resume=True, **options)
    bundle = read_bundle(run.bundle)
    assert bundle.training["started_from"] == inspect_bundle(model).sha256
    assert bundle.options == read_bundle(model).options
    assert set(run.dice) == {"bone", "tumor"}


def test_all_folds_begin_with_the_model_as_it_was(
    model: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "model.medseg3d"
    copy.write_bytes(model.read_bytes())
    plain, folds = fitting.train, []

    def train(*arguments: Any, **options: Any) -> Any:
        folds.append(options["folder"].name)
        copy.write_bytes(b"another model")
        if len(folds) == 2:
            raise KeyboardInterrupt
        return plain(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train", train)
        with pytest.raises(KeyboardInterrupt):
            medseg3d.fit(second, out="run", start_from=copy, fold="all", **SMALL)
    assert folds == ["fold_0", "fold_1"]
    copy.unlink()
    medseg3d.fit(second, out="run", resume=True, start_from=copy)
    for fold in folds:
        facts = json.loads(Path("run", fold, "start.json").read_text())
        assert facts["sha256"] == inspect_bundle(model).sha256


def test_the_network_is_the_models(model: Path, second: Path, begun: Begun) -> None:
    options = read_bundle(model).options
    assert options["width"] == 4, "not what a plan would choose"
    with pytest.raises(KeyboardInterrupt):
        medseg3d.fit(FitConfig(data=second, out=Path("run"), start_from=model.parent, **SMALL))
    assert begun.state.keys() == load_bundle(model)[1].keys()


def test_options_without_a_name_are_of_the_models_network(
    model: Path, second: Path, begun: Begun
) -> None:
    """What the run says of itself is what it is, and begins the same run again."""
    plan = read_bundle(model).plan
    options = {"width": 4, "strides": plan.strides}
    vnet = build_network("vnet", 1, 3, options=options)
    save_bundle(
        Path("v.medseg3d"), Bundle(network="vnet", options=options, plan=plan, channels=1), vnet
    )
    small = [f"--set={name}={value}" for name, value in SMALL.items()]
    start = [str(second), "--from=v.medseg3d", "--set=network.options.activation=relu", *small]
    again = [str(second), "--config=runs/config.yaml"]
    for words, folder in ((start, "runs"), (again, "again")):
        found = CliRunner().invoke(app, ["fit", *words, "-o", folder])
        assert found.exit_code == 130, found.output
        assert begun.state.keys() >= vnet.state_dict().keys() - {"encoder.0.shortcut.conv.weight"}
        stored = read_yaml(Path(folder) / "config.yaml")
        assert stored["network"] == {"name": "vnet", "options": {"activation": "relu"}}
    begun.state = {}
    found = CliRunner().invoke(app, ["fit", *start, "-o", "runs", "--resume"])
    assert found.exit_code == 130, "the same command goes on"
    assert begun.state.keys() >= vnet.state_dict().keys() - {"encoder.0.shortcut.conv.weight"}
    found = CliRunner().invoke(app, ["fit", *start, "--network=unet3d", "-o", "other"])
    assert "v.medseg3d is a vnet, not a unet3d; leave out --network, or --from" in found.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"network": "vnet"}, "is a unet3d, not a vnet; leave out --network, or --from"),
        ({"width": 8}, "has width 4, not 8; leave out width"),
        (
            {"network": {"name": "unet3d", "options": {"norm": "batch"}}},
            "are of another network, such as .*; leave out the options of the network",
        ),
    ],
)
def test_another_network_is_refused(
    model: Path, second: Path, begun: Begun, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        medseg3d.fit(second, out="run", start_from=model, **SMALL, **options)
    assert not begun.state
    assert not Path("run").exists()


def test_a_model_that_is_not_there_is_said_at_once(second: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: no such run folder or bundle"):
        medseg3d.fit(second, out="run", start_from="nowhere", **SMALL)
    assert not Path("run").exists()
