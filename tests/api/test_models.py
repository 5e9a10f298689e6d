"""``export`` and ``info``: what they write and say of finished, unfinished and broken runs."""

import json
import logging
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from medseg3d import api
from medseg3d.bundle import Bundle, load_bundle, read_bundle, save_bundle
from medseg3d.cli import app
from medseg3d.config import ExportConfig
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ConfigError, ModelError, RunError
from medseg3d.networks import build_network

OPTIONS = {"width": 2, "strides": [2]}
BUNDLE = Bundle(
    network="unet3d",
    options=OPTIONS,
    plan=Plan(
        num_cases=3,
        labels={0: "background", 1: "liver", 2: "tumor \x1b[31m"},
        channels=(Normalization(name="CT", scheme="ct", lower=-9.5, upper=99, mean=40, sd=20),),
        spacing=(1.0, 1.0, 2.5),
        coarse_axis=None,
        median_shape=(64, 64, 32),
        patch_size=(32, 32, 16),
        batch_size=2,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3), (3, 3, 3)),
        width=2,
        max_width=320,
    ),
    channels=1,
    scores={"liver": 0.91234, "mean": 0.8},
    training={
        "data": "Clinic of Dr Doe",
        "fold": 1,
        "minutes": 60.5,
        "versions": {"torch": "2.13.0"},
        "host": "workstation",
    },
    cases={"Doe_Jane": "0" * 64, "Roe_Richard": "1" * 64},
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose best weights differ from its final ones."""
    folder = tmp_path / "runs" / "liver"
    for seed, name in enumerate(("model", "checkpoints/best")):
        torch.manual_seed(seed)
        network = build_network("unet3d", 1, 3, options=OPTIONS)
        save_bundle(folder / f"{name}.medseg3d", BUNDLE, network)
    return folder


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_finished_run_is_exported_under_its_name(run: Path) -> None:
    written = api.export(run)
    assert written == Path("liver.medseg3d")
    assert written.read_bytes() == (run / "model.medseg3d").read_bytes()
    assert [path.name for path in Path().iterdir()] == ["liver.medseg3d"]


def test_an_unfinished_run_gives_its_best_weights_and_says_so(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "model.medseg3d").unlink()
    with caplog.at_level(logging.WARNING, logger="medseg3d"):
        written = api.export(run, out="new/best.medseg3d")
    assert written.read_bytes() == (run / "checkpoints" / "best.medseg3d").read_bytes()
    assert caplog.messages == [
        f"{run} is not finished: these are its best weights so far (mean Dice 0.8000)"
    ]


def test_a_folder_takes_the_file_under_the_name_of_the_run(run: Path, tmp_path: Path) -> None:
    assert api.export(run, out=tmp_path) == tmp_path / "liver.medseg3d"
    assert api.export(run / "model.medseg3d", out=tmp_path) == tmp_path / "model.medseg3d"


def test_what_is_there_stays_unless_told(run: Path) -> None:
    target = Path("x.medseg3d")
    target.write_text("precious")
    with pytest.raises(RunError, match=r"x\.medseg3d exists already; give --overwrite"):
        api.export(run, out=target)
    assert target.read_text() == "precious"
    api.export(run, out=target, overwrite=True)
    assert load_bundle(target)[0] == BUNDLE
    target.unlink()
    target.symlink_to("nowhere")
    with pytest.raises(RunError, match="exists already"):
        api.export(run, out=target)


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_model_is_not_exported_onto_itself(run: Path, overwrite: bool) -> None:
    Path("link.medseg3d").symlink_to(run / "model.medseg3d")
    for out in (run / "model.medseg3d", Path("link.medseg3d")):
        with pytest.raises(RunError, match="is the model itself"):
            api.export(run, out=out, overwrite=overwrite)


def test_a_broken_model_is_not_exported_and_the_last_good_one_is_named(run: Path) -> None:
    content = (run / "model.medseg3d").read_bytes()
    (run / "model.medseg3d").write_bytes(content[:-100])
    best = run / "checkpoints" / "best.medseg3d"
    with pytest.raises(ModelError, match=f"truncated, .*; the last good model .* is {best}$"):
        api.export(run)
    assert not list(Path().iterdir())
    assert load_bundle(api.export(best))[0] == BUNDLE


def test_weights_of_another_network_are_not_exported(tmp_path: Path) -> None:
    other = build_network("unet3d", 1, 2, options=OPTIONS)
    save_bundle(tmp_path / "odd.medseg3d", BUNDLE, other)
    with pytest.raises(ModelError, match="2 weights do not fit"):
        api.export(tmp_path / "odd.medseg3d")
    assert not list(Path().iterdir())


def test_a_copy_that_differs_does_not_appear(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rotten(source: Path, target: Path) -> None:
        torch.manual_seed(9)
        network = build_network("unet3d", 1, 3, options=OPTIONS)
        save_bundle(target, read_bundle(source), network)

    monkeypatch.setattr("shutil.copyfile", rotten)
    with pytest.raises(RunError, match="the copy differs from"):
        api.export(run)
    assert not list(Path().iterdir())


def test_another_suffix_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.medseg3d, such as model.zip.medseg3d"):
        api.export(run, out="model.zip")


@pytest.mark.parametrize("what", ["gone", "empty"])
def test_what_holds_no_model_is_named(what: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for action in (api.export, api.info):
        with pytest.raises(ModelError, match=f"{what}(: no such model file| holds neither)"):
            action(tmp_path / what)


def test_info_tells_the_facts_and_nothing_personal(run: Path) -> None:
    facts = api.info(run)
    assert facts["file"] == str(run / "model.medseg3d")
    assert facts["bytes"] == (run / "model.medseg3d").stat().st_size
    assert facts["network"] == "unet3d"
    assert facts["options"] == OPTIONS
    state = build_network("unet3d", 1, 3, options=OPTIONS).state_dict()
    assert facts["parameters"] == sum(values.numel() for values in state.values())
    assert facts["cases"] == 2
    assert facts["plan"]["labels"]["1"] == "liver"
    assert facts["training"] == {"fold": 1, "minutes": 60.5, "versions": {"torch": "2.13.0"}}
    text = json.dumps(facts) + json.dumps(api.info_rows(facts))
    assert not [word for word in ("Doe", "Roe", "Clinic", "workstation") if word in text]


def test_info_of_an_older_bundle_counts_the_cases_of_the_plan(run: Path) -> None:
    network = build_network("unet3d", 1, 3, options=OPTIONS)
    save_bundle(run / "model.medseg3d", BUNDLE.model_copy(update={"cases": {}}), network)
    assert api.info(run)["cases"] == 3


def test_info_finds_what_loading_would_find(run: Path) -> None:
    content = bytearray((run / "model.medseg3d").read_bytes())
    content[-400] ^= 1
    (run / "model.medseg3d").write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.safetensors does not match its SHA-256"):
        api.info(run)


def test_the_command_info_prints_lines(run: Path) -> None:
    result = command("info", run)
    assert result.exit_code == 0, result.output
    lines = dict(line.split("\t") for line in result.stdout.splitlines())
    assert lines["network"] == "unet3d"
    assert lines["options"] == "strides [2], width 2"
    assert lines["labels"] == "0 background, 1 liver, 2 tumor ?[31m"
    assert lines["channels"] == "CT (ct, -9.5 to 99)"
    assert lines["spacing"] == "1 x 1 x 2.5 mm"
    assert lines["Dice"] == "liver 0.9123, mean 0.8000"
    assert lines["training"] == "cases 2, fold 1, minutes 60.5"


def test_the_command_info_prints_json(run: Path) -> None:
    result = command("info", run, "--json")
    assert json.loads(result.stdout) == json.loads(json.dumps(api.info(run)))


def test_the_command_export_prints_the_file(run: Path) -> None:
    result = command("export", run, "-o", "liver.medseg3d")
    assert (result.exit_code, result.stdout) == (0, "liver.medseg3d\n")
    result = command("export", run, "-o", "liver.medseg3d")
    assert result.exit_code == 1
    assert result.stderr == (
        "medseg3d export: liver.medseg3d exists already; give --overwrite to replace it\n"
    )
    assert command("export", run, "-o", "liver.medseg3d", "--overwrite").exit_code == 0


def test_options_are_taken_as_a_whole_too(run: Path) -> None:
    assert api.export(ExportConfig(run=run, out=Path("a.medseg3d"))) == Path("a.medseg3d")
