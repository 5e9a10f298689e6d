"""The command line: what it hands to the api, and how it speaks when something is wrong."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer
from pydantic import BaseModel, ConfigDict, Field
from typer.testing import CliRunner, Result

import medseg3d
from medseg3d import cli
from medseg3d.cli_options import command, given_options, merged, option_rows
from medseg3d.config import (
    FitConfig,
    NetworkPart,
    Options,
    Part,
    PredictConfig,
    ReviewConfig,
    ScoreConfig,
)
from medseg3d.errors import ConfigError, DataError, Terminated, UnknownNameError

ROOT = Path(__file__).parents[1]


class Recorder(ModuleType):
    """Stands in for the api: keeps the options it is called with, raises ``error`` if set."""

    def __init__(self, folder: Path) -> None:
        super().__init__("medseg3d.api")
        self.folder = folder
        self.error: BaseException | None = None
        self.calls: list[Any] = []

    def _record(self, config: Any) -> None:
        self.calls.append(config)
        if self.error is not None:
            raise self.error

    def fit(self, config: FitConfig) -> SimpleNamespace:
        self._record(config)
        bundle = self.folder / "model.medseg3d"
        scores = SimpleNamespace(summary="summary of the held-out cases")
        return SimpleNamespace(folder=self.folder, bundle=bundle, scores=scores)

    def predict(self, config: PredictConfig) -> list[SimpleNamespace]:
        self._record(config)
        path = self.folder / "case_seg.nii.gz"
        return [SimpleNamespace(path=path, volumes_ml={"liver": 1512.34, "tumor": 8.25})]

    def score(self, config: ScoreConfig) -> SimpleNamespace:
        self._record(config)
        return SimpleNamespace(summary="summary of the scores", csv=config.out)

    def review(self, config: ReviewConfig) -> SimpleNamespace:
        self._record(config)
        return SimpleNamespace(page=config.out and config.out / "index.html")


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    yield
    for handler in list(cli.LOGGER.handlers):
        if isinstance(handler, cli.StderrHandler):
            cli.LOGGER.removeHandler(handler)
    cli.LOGGER.setLevel(logging.NOTSET)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "medseg3d.api", recorder)
    monkeypatch.setattr(medseg3d, "api", recorder, raising=False)
    monkeypatch.setattr(cli, "show_summary", lambda summary: typer.echo(summary))
    return recorder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_commands_are_these() -> None:
    assert {c.name for c in cli.app.registered_commands} == {
        *("fit", "predict", "score", "compare", "review"),
        *("check", "export", "download", "bakeoff", "info", "list", "demo"),
    }


def test_flags_are_these() -> None:
    flags = {
        name: [option for option, field in model.model_fields.items() if field.json_schema_extra]
        for name, model in cli.COMMANDS.items()
    }
    assert flags == {
        "fit": [
            *("data", "out", "network", "dims", "loss", "epochs", "max_minutes"),
            *("fold", "folds", "device", "seed", "workers", "mirror", "resume", "start_from"),
            *("dry_run", "target_domain", "skip_unpaired", "postprocess"),
        ],
        "predict": [
            *("inputs", "model", "out", "overlap", "fast", "accurate", "crop", "roi", "roi_mask"),
            *("backend", "precision", "threads", "max_memory", "device", "probabilities"),
            *("uncertainty", "samples", "shard", "cluster", "overwrite", "skip_existing", "format"),
            *("replace_nonfinite", "mirror", "postprocess"),
        ],
        "score": [
            *("predictions", "references", "also", "out", "layout", "metrics", "tolerance_mm"),
            *("surface", "regions", "resample", "patients", "skip_unpaired", "threads"),
            *("overwrite", "shard", "cluster"),
        ],
        "compare": [
            *("tables", "out", "columns", "baseline", "attributes", "figure", "overwrite"),
        ],
        "review": ["predictions", "images", "references", "scores", "out", "title", "overwrite"],
        "check": [
            *("data", "as_json", "html", "overwrite", "fix", "dry_run", "resample_labels"),
            *("ignore_geometry", "resample_channels", "map", "onehot", "replace_nonfinite"),
        ],
        "export": ["run", "out", "format", "overwrite"],
        "download": ["task", "out"],
        "bakeoff": ["data", "networks", "max_minutes", "out"],
    }


def test_fit_without_flags_takes_the_defaults(api: Recorder) -> None:
    result = run("fit", "cases")
    assert result.exit_code == 0, result.output
    assert api.calls == [FitConfig(data=Path("cases"))]
    assert api.calls[0].model_fields_set == {"data"}
    assert result.stdout.splitlines() == [
        "summary of the held-out cases",
        str(api.folder / "model.medseg3d"),
    ]


def test_fit_hands_its_flags_on(api: Recorder) -> None:
    result = run(
        *("fit", "cases", "-o", "out", "--network", "vnet", "--loss", "focal", "--epochs", "7"),
        *("--fold", "2", "--device", "cpu", "--seed", "3", "--workers", "1", "--resume"),
        *("--dims", "2"),
    )
    assert result.exit_code == 0, result.output
    assert api.calls == [
        FitConfig(
            data=Path("cases"),
            out=Path("out"),
            network=NetworkPart(name="vnet"),
            dims=2,
            loss=Part(name="focal"),
            epochs=7,
            fold=2,
            device="cpu",
            seed=3,
            workers=1,
            resume=True,
        )
    ]


def test_predict_takes_several_inputs_and_prints_volumes(api: Recorder) -> None:
    result = run("predict", "a.nii.gz", "b", "-m", "runs/a", "--overlap", "0.25", "--probabilities")
    assert result.exit_code == 0, result.output
    assert api.calls == [
        PredictConfig(
            inputs=(Path("a.nii.gz"), Path("b")),
            model=(Path("runs/a"),),
            overlap=0.25,
            probabilities=True,
        )
    ]
    assert result.stdout == f"{api.folder / 'case_seg.nii.gz'}\tliver 1512 mL, tumor 8.25 mL\n"


def test_score_hands_its_flags_on(api: Recorder) -> None:
    result = run(
        *("score", "predicted", "expert", "--also", "b", "--also", "c", "-o", "t.csv"),
        *("--tolerance-mm", "2", "--tolerance-mm", "3.5", "--metrics", "dice,assd"),
        *("--metrics", "recall", "--layout", "long", "--surface", "mesh", "--resample"),
    )
    assert result.exit_code == 0, result.output
    assert api.calls == [
        ScoreConfig(
            predictions=Path("predicted"),
            references=Path("expert"),
            also=(Path("b"), Path("c")),
            out=Path("t.csv"),
            tolerance_mm=(2, 3.5),
            metrics=(Part(name="dice"), Part(name="assd"), Part(name="recall")),
            layout="long",
            surface="mesh",
            resample=True,
        )
    ]
    assert result.stdout.splitlines()[-1] == "t.csv"


def test_file_lies_under_flags_and_settings_above_the_file(api: Recorder, tmp_path: Path) -> None:
    file = write(
        tmp_path / "choices.yaml",
        "epochs: 3\nseed: 4\nbatch_size: 2\nresume: true\nlearning_rate: 1e-4\n",
    )
    result = run(
        *("fit", "cases", "--config", file, "--seed", "5", "--no-resume", "--set", "batch_size=8")
    )
    assert result.exit_code == 0, result.output
    [config] = api.calls
    found = (config.epochs, config.seed, config.batch_size, config.resume, config.learning_rate)
    assert found == (3, 5, 8, False, 1e-4)


def test_file_may_name_the_data(api: Recorder, tmp_path: Path) -> None:
    file = write(tmp_path / "choices.yaml", "data: cases\n")
    assert run("fit", "--config", file).exit_code == 0
    assert api.calls[0].data == Path("cases")


@pytest.mark.parametrize(
    ("file", "arguments", "expected"),
    [
        ("network: vnet", [], NetworkPart(name="vnet")),
        ("network: {name: vnet, options: {width: 8}}", ["--seed", "1"], {"width": 8}),
        ("network: {name: vnet, options: {width: 8}}", ["--network", "vnet"], {"width": 8}),
        ("network: {name: vnet, options: {width: 8}}", ["--network", "unet3d"], {}),
        ("network: vnet", ["--set", "network.options.width=8"], {"width": 8}),
        ("seed: 1", ["--set", "network.options.width=8"], {"width": 8}),
        ("seed: 1", ["--network", "vnet", "--set", "network.options.width=8"], {"width": 8}),
        ("network: {name: vnet, options: {width: 8}}", ["--set", "network.options={}"], {}),
        ("seed: 1", ["--set", "network.options.width=8", "--set", "network=vnet"], {"width": 8}),
        ("seed: 1", ["--set", "network=vnet", "--set", "network.options.width=8"], {"width": 8}),
        ("network: vnet", ["--set", "network={name: unet3d, options: {width: 4}}"], {"width": 4}),
    ],
)
def test_options_stay_with_the_network_that_they_were_given_for(
    api: Recorder, tmp_path: Path, file: str, arguments: list[str], expected: Any
) -> None:
    result = run("fit", "cases", "--config", write(tmp_path / "a.yaml", file), *arguments)
    assert result.exit_code == 0, result.output
    network = api.calls[0].network
    assert expected == (network if isinstance(expected, Part) else network.options)
    named = [word for word in ("unet3d", "vnet") if word in " ".join(arguments)]
    assert network.name == (named or ["vnet" if "vnet" in file else "unet3d"])[0]


def test_nested_setting_leaves_its_neighbors(api: Recorder, tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "augmentation:\n  rotation_degrees: 5\n")
    result = run("fit", "cases", "--config", file, "--set", "augmentation.mirror_axes=[1]")
    assert result.exit_code == 0, result.output
    augmentation = api.calls[0].augmentation
    assert (augmentation.rotation_degrees, augmentation.mirror_axes) == (5, (1,))
    assert augmentation.scale == FitConfig(data=Path()).augmentation.scale


def test_null_setting_takes_a_value_of_the_file_back(api: Recorder, tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "max_minutes: 3\n")
    arguments = ["--epochs", "2", "--set", "max_minutes=null"]
    assert run("fit", "cases", "--config", file, *arguments).exit_code == 0
    assert (api.calls[0].epochs, api.calls[0].max_minutes) == (2, None)


def test_a_budget_on_the_command_line_replaces_the_one_in_the_file(
    api: Recorder, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.yaml", "max_minutes: 3\n")
    assert run("fit", "cases", "--config", file, "--epochs", "2").exit_code == 0
    assert (api.calls[0].epochs, api.calls[0].max_minutes) == (2, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "patchsize=[8,8,8]"],
            "--set: unknown key 'patchsize'; did you mean patch_size?",
        ),
        (
            ["--set", "augmentation.rotation_degree=3"],
            "--set: unknown key 'augmentation.rotation_degree'; did you mean rotation_degrees?",
        ),
        (["--device", "gpu"], "command line: device: 'gpu' does not fit (auto, cpu, cuda or"),
        (["--set", "batch_size"], "--set expects KEY=VALUE, such as batch_size=2"),
        (["--set", "batch_size=[1"], "--set batch_size: '[1' is not a YAML value"),
        (["--seed", "1", "--set", "seed=2"], "seed is given twice, as a flag and with --set"),
        (["--epochs", "0"], "command line: epochs: input should be greater than 0, got 0"),
        (["--fold", "9"], "options: fold 9 does not exist; folds are 0 to 4"),
        (["--set", "stages=[{}]"], "--set: stages.0.name is missing; stages.0.share is missing"),
    ],
)
def test_wrong_option_is_one_line_and_exit_code_2(
    api: Recorder, arguments: list[str], message: str
) -> None:
    result = run("fit", "cases", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"medseg3d fit: {message}")
    assert result.stderr.count("\n") == 1
    assert api.calls == []


def test_wrong_key_of_a_file_is_named_with_its_line(api: Recorder, tmp_path: Path) -> None:
    file = write(tmp_path / "broken.yaml", "# choices\nepochs: 3\npatchsize: [8, 8, 8]\n")
    result = run("fit", "cases", "--config", file)
    expected = f"medseg3d fit: {file}:3: unknown key 'patchsize'; did you mean patch_size?\n"
    assert (result.exit_code, result.stderr) == (1, expected)


@pytest.mark.parametrize(
    ("text", "arguments", "code"),
    [
        ("epochs: 0", ["cases"], 1),
        ("epochs: 0", ["cases", "--seed", "3", "--set", "batch_size=2"], 1),
        ("epochs: 0\ndata: cases", [], 1),
        ("fold: 9", ["cases"], 1),
        ("[epochs", ["cases"], 1),
        ("epochs: 3", ["cases", "--seed", "-1"], 2),
        ("data: cases", ["--seed", "-1"], 2),
        ("epochs: 3", ["cases", "--fold", "9"], 2),
        ("epochs: 0", ["cases", "--set", "batchsize=1"], 2),
    ],
)
def test_what_is_typed_wrong_is_misuse_and_what_is_in_a_file_is_not(
    api: Recorder, tmp_path: Path, text: str, arguments: list[str], code: int
) -> None:
    result = run("fit", *arguments, "--config", write(tmp_path / "a.yaml", text))
    assert (result.exit_code, api.calls) == (code, [])
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "perhaps"),
    [
        ("label_smoothing", "network.options.label_smoothing or loss.options.label_smoothing"),
        ("loss.gamma", "loss.options.gamma"),
    ],
)
def test_an_option_of_a_part_is_pointed_to(api: Recorder, key: str, perhaps: str) -> None:
    result = run("fit", "cases", "--set", f"{key}=3")
    assert (result.exit_code, api.calls) == (2, [])
    assert result.stderr.endswith(f"; perhaps {perhaps}\n")


def test_a_file_that_is_not_there_is_no_misuse(api: Recorder) -> None:
    result = run("fit", "cases", "--config", "nowhere.yaml")
    assert (result.exit_code, api.calls) == (1, [])
    assert result.stderr.startswith("medseg3d fit: nowhere.yaml: cannot be read")


def test_two_presets_are_misuse(api: Recorder) -> None:
    result = run("predict", "a.nii.gz", "--fast", "--accurate")
    assert (result.exit_code, api.calls) == (2, [])
    told = "medseg3d predict: options: fast and accurate exclude each other; give one of them\n"
    assert result.stderr == told


def test_several_problems_are_told_at_once(api: Recorder, tmp_path: Path) -> None:
    file = write(tmp_path / "broken.yaml", "epochs: many\n")
    result = run("fit", "cases", "--config", file, "--seed", "-1")
    assert result.exit_code == 2
    assert f"{file}:1, command line: epochs: " in result.stderr
    assert "seed: input should be greater than or equal to 0" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["fit"], ["score", "a"], ["fit", "a", "--epochs", "x"], ["fit", "a", "--speed"], ["fly"]],
)
def test_misuse_is_exit_code_2(api: Recorder, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage" in result.stderr
    assert api.calls == []


@pytest.mark.parametrize(
    "typed",
    [
        ["--network", "unet4"],
        ["--loss", "dice+0.5*unet4"],
        ["--set", "network.options.wdith=8"],
        ["--resume"],
    ],
)
def test_what_only_the_verb_can_refuse_is_no_misuse(api: Recorder, typed: list[str]) -> None:
    api.error = UnknownNameError("unknown network 'unet4'; did you mean unet?")
    result = run("fit", "cases", *typed)
    assert result.exit_code == 1
    assert result.stderr == "medseg3d fit: unknown network 'unet4'; did you mean unet?\n"


def test_deliberate_error_is_one_line_without_traceback(api: Recorder) -> None:
    api.error = DataError("case a: the image is empty")
    result = run("predict", "a.nii.gz")
    expected = (1, "medseg3d predict: case a: the image is empty\n")
    assert (result.exit_code, result.stderr) == expected


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "terminated"),
        (MemoryError(), 1, "the memory is used up; close other programs or use a larger machine"),
        (PermissionError(13, "Permission denied", "a.csv"), 1, "a.csv: Permission denied"),
        (OSError(28, "No space left"), 1, "the system reports: No space left"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "unexpected ZeroDivisionError: division by zero; this is a bug, run with --verbose for "
            "the traceback",
        ),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_an_exit_code(
    api: Recorder, error: BaseException, code: int, told: str
) -> None:
    api.error = error
    result = run("fit", "cases")
    assert (result.exit_code, result.stderr) == (code, f"medseg3d fit: {told}\n")


def test_bug_shows_its_traceback_to_those_who_ask(api: Recorder) -> None:
    api.error = ZeroDivisionError("division by zero")
    result = run("fit", "cases", "--verbose")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("medseg3d fit: unexpected ZeroDivisionError")


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [([], [], "INFO"), ([], ["-v"], "DEBUG"), (["-q"], [], "WARNING"), ([], ["-q"], "WARNING")],
)
def test_loudness_is_set_before_or_after_the_command(
    api: Recorder, before: list[str], after: list[str], level: str
) -> None:
    assert run(*before, "fit", "cases", *after).exit_code == 0
    assert logging.getLevelName(cli.LOGGER.level) == level


def test_log_goes_to_stderr_and_says_what_is_a_warning(api: Recorder) -> None:
    def fit(config: FitConfig) -> Any:
        cli.LOGGER.info("8 cases")
        cli.LOGGER.warning("case a has no labels")
        return Recorder.fit(api, config)

    vars(api)["fit"] = fit
    result = run("fit", "cases")
    assert result.stderr.splitlines()[:2] == ["8 cases", "warning: case a has no labels"]


def test_version() -> None:
    assert run("--version").stdout == f"medseg3d {medseg3d.__version__}\n"


@pytest.mark.parametrize(
    "name",
    [
        *("fit", "predict", "score", "review", "check", "export", "download", "bakeoff"),
        *("info", "list", "demo"),
    ],
)
def test_help_of_each_command_has_examples(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"medseg3d {name}" in result.stdout


def test_help_shows_what_the_options_say() -> None:
    text = " ".join(run("predict", "--help").stdout.replace("│", " ").split())
    assert "Fraction of a window shared with its neighbor. [default: 0.5]" in text


def test_list_of_options_covers_every_field() -> None:
    rows = json.loads(run("list", "options", "--json").stdout)
    names = {row["name"] for row in rows if row["command"] == "fit"}
    assert {"data", "patch_size", "augmentation.mirror_axes", "network"} <= names
    flags = {row["name"]: row["flag"] for row in rows if row["command"] == "fit"}
    assert [flags[name] for name in ("data", "start_from", "loss", "width")] == [
        "",
        "--from",
        "--loss",
        "",
    ]
    assert all(row["description"] for row in rows)


def test_list_without_terminal_is_tab_separated() -> None:
    lines = run("list", "options").stdout.splitlines()
    assert lines[0].split("\t") == ["command", "name", "flag", "type", "default", "description"]
    assert {line.count("\t") for line in lines} == {5}


@pytest.mark.parametrize("kind", ["networks", "losses", "metrics"])
def test_list_of_parts_has_names_and_facts(kind: str) -> None:
    rows = json.loads(run("list", kind, "--json").stdout)
    names = [row["name"] for row in rows]
    assert names
    assert names == sorted(names)


def test_demo_fits_predicts_and_scores_in_one_run_folder(api: Recorder) -> None:
    result = run("demo", "-o", api.folder)
    assert result.exit_code == 0, result.output
    fit, predict, score, review = api.calls
    sample = ROOT / "sample_data"
    assert (fit.data, fit.out) == (sample, api.folder)
    assert (predict.inputs, predict.model) == ((sample / "imagesTs",), (api.folder,))
    assert (score.predictions, score.references) == (predict.out, sample / "labelsTs")
    assert (review.predictions, review.images) == (predict.out, predict.inputs)
    assert (review.references, review.scores) == (score.references, score.out)
    assert f"scores      {api.folder / 'scores.csv'}" in result.stdout
    assert f"review      {api.folder / 'review' / 'index.html'}" in result.stdout


def test_fit_and_predict_say_how_to_look_at_what_they_made(api: Recorder) -> None:
    api.folder = api.folder.parent / "my run"
    offer = f"look at the held-out cases: medseg3d review '{api.folder}'"
    assert offer in run("fit", "cases").stderr.splitlines()
    told = run("predict", "ct_0000.nii.gz", "ct_0001.nii.gz").stderr.splitlines()
    path = api.folder / "case_seg.nii.gz"
    images = "--images ct_0000.nii.gz --images ct_0001.nii.gz"
    assert f"look at the result: medseg3d review '{path}' {images}" in told


def test_review_prints_the_page(api: Recorder) -> None:
    result = run("review", "predictions", "--images", "a", "--images", "b", "-o", "page")
    assert (result.exit_code, result.stdout) == (0, "page/index.html\n")
    [config] = api.calls
    assert config.images == (Path("a"), Path("b"))


def test_demo_without_checkout_says_what_it_needs(
    api: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "medseg3d" / "cli.py"))
    result = run("demo")
    assert result.exit_code == 1
    assert result.stderr.startswith("medseg3d demo: the demo needs the source checkout")


def checkout_with(script: str, folder: Path) -> Path:
    """A checkout whose sample cases are not all there, and what would make them."""
    (folder / "sample_data" / "labelsTs").mkdir(parents=True)
    write(folder / "sample_data" / "make_sample_data.py", script)
    return folder


def test_demo_makes_sample_cases_that_are_half_made(tmp_path: Path) -> None:
    done = "from pathlib import Path; Path(__file__).with_name('dataset.json').write_text('{}')"
    sample = cli._sample_data(checkout_with(done, tmp_path))
    assert (sample / "dataset.json").read_text() == "{}"
    write(sample / "make_sample_data.py", "raise SystemExit('they are there')")
    assert cli._sample_data(tmp_path) == sample


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise PermissionError(13, 'may not write', 'x')", "PermissionError: [Errno 13] may"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_demo_says_in_a_sentence_why_there_are_no_sample_cases(
    script: str, reason: str, api: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = checkout_with(script, tmp_path)
    monkeypatch.setattr(cli, "__file__", str(checkout / "medseg3d" / "cli.py"))
    result = run("demo")
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    path = checkout / "sample_data" / "make_sample_data.py"
    assert told[-1].startswith(f"medseg3d demo: {path} cannot make the sample cases ({reason}")
    assert not api.calls


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from medseg3d import cli\n"
        "try:\n    cli.app(['fit', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'monai', 'torchio', 'lightning', 'scipy', 'nibabel'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    found = python("-c", code)
    assert found.returncode == 0, found.stderr


def test_package_runs_as_a_module() -> None:
    assert python("-m", "medseg3d", "--version").stdout == f"medseg3d {medseg3d.__version__}\n"


def test_reader_that_leaves_early_is_no_error() -> None:
    for what in ("options", "options --json"):
        line = f"{sys.executable} -m medseg3d list {what} | head -n 1"
        found = subprocess.run(
            line, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (found.stdout.count("\n"), found.stderr) == (1, "")


def test_closed_pipe_is_the_exit_code_of_pipes() -> None:
    line = f"({sys.executable} -m medseg3d list options; echo $? >&2) | true"
    found = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stderr in ("141\n", "0\n")  # 0 if all was written before the reader left


def test_full_disk_behind_the_output_is_one_line() -> None:
    line = f"{sys.executable} -m medseg3d list options > /dev/full"
    found = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr == "medseg3d list: the system reports: No space left on device\n"


def test_output_that_lacks_characters_shows_others() -> None:
    name = os.fsencode("naïve-図.nii")
    found = subprocess.run(
        [sys.executable, "-m", "medseg3d", "score", name, b"\xe9.nii"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert found.returncode == 1
    assert found.stderr.startswith(b"medseg3d score: na")
    assert found.stderr.count(b"\n") == 1


class Blend(StrEnum):
    GAUSS = "gauss"
    FLAT = "flat"


class Everything(Options):
    """One field of every kind that can stand on the command line."""

    place: Path = Field(description="Where.", json_schema_extra={"cli": True, "positional": True})
    blend: Blend = Field(Blend.GAUSS, description="How.", json_schema_extra={"cli": True})
    sizes: tuple[int, ...] = Field((1, 2), description="Sizes.", json_schema_extra={"cli": True})
    patch: tuple[int, int, int] | None = Field(
        None, description="Voxels [I, J, K].", json_schema_extra={"cli": True}
    )
    sure: bool = Field(True, description="Sure.", json_schema_extra={"cli": True})
    hidden: dict[int, str] | None = Field(None, description="Only in files.")


def everything(*arguments: str) -> tuple[Result, list[Everything]]:
    taken: list[Everything] = []
    app = typer.Typer(add_completion=False)
    app.command()(command(Everything, taken.append))
    return CliRunner().invoke(app, arguments), taken


def test_every_kind_of_field_becomes_a_parameter() -> None:
    result, taken = everything(
        *("here", "--blend", "flat", "--sizes", "3", "--sizes", "4", "--patch", "8", "9", "10"),
        "--no-sure",
    )
    assert result.exit_code == 0, result.output
    assert taken == [
        Everything(place=Path("here"), blend=Blend.FLAT, sizes=(3, 4), patch=(8, 9, 10), sure=False)
    ]


def test_field_without_mark_is_no_flag() -> None:
    assert everything("here", "--hidden", "1")[0].exit_code == 2


def test_choices_are_checked_by_the_command_line() -> None:
    assert everything("here", "--blend", "square")[0].exit_code == 2


def test_brackets_of_a_description_are_shown() -> None:
    assert "[I, J, K]" in everything("--help")[0].stdout


def test_types_and_defaults_are_told_in_words() -> None:
    rows = {row["name"]: (row["type"], row["default"]) for row in option_rows(Everything)}
    assert rows == {
        "place": ("path", ""),
        "blend": ("Blend", "gauss"),
        "sizes": ("[int, ...]", "[1, 2]"),
        "patch": ("[int, int, int] | null", ""),
        "sure": ("true | false", "true"),
        "hidden": ("{int: text} | null", ""),
    }


def test_model_outside_the_command_line_can_be_merged(tmp_path: Path) -> None:
    class Loose(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size: int = 1

    file = write(tmp_path / "a.yaml", "size: 2\n")
    assert merged(Loose, given_options({"size": None}, file=file)).size == 2
    with pytest.raises(ConfigError, match=r"a\.yaml:1: size"):
        merged(Loose, given_options({}, file=write(file, "size: big\n")))


@pytest.mark.parametrize("arguments", [("predict", ""), ("score", "a", ""), ("fit", "a", "-o", "")])
def test_an_empty_name_is_not_the_current_folder(api: Recorder, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "is an empty text" in result.stderr
    assert api.calls == []


@pytest.mark.parametrize(
    ("file", "arguments", "expected"),
    [
        ("regions: {a: [1], b: [2]}", ["--set", "regions={}"], {}),
        ("regions: {a: [1], b: [2]}", ["--set", "regions={c: [3]}"], {"c": (3,)}),
        ("regions: {a: [1]}", ["--set", "regions.c=[3]"], {"a": (1,), "c": (3,)}),
        ("seed: 1", ["--set", "regions.a=[1]", "--set", "regions.b=[2]"], {"a": (1,), "b": (2,)}),
        ("seed: 1", ["--set", "regions.b=[2]", "--set", "regions={a: [1]}"], {"a": (1,)}),
    ],
)
def test_a_mapping_is_replaced_unless_one_of_its_keys_is_named(
    api: Recorder, tmp_path: Path, file: str, arguments: list[str], expected: Any
) -> None:
    result = run("fit", "cases", "--config", write(tmp_path / "a.yaml", file), *arguments)
    assert result.exit_code == 0, result.output
    assert api.calls[0].regions == expected


def test_regions_of_a_file_may_be_those_of_a_run_instead(api: Recorder, tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "regions: {whole: [1, 2]}\n")
    result = run("score", "a", "b", "--config", file, "--regions", "runs/brats")
    assert result.exit_code == 0, result.output
    assert api.calls[0].regions == Path("runs/brats")


def test_what_is_typed_replaces_what_excludes_it_in_the_file(api: Recorder, tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "fast: true\nroi: '0:4,0:4,0:4'\n")
    assert run("predict", "a.nii", "--config", file, "--accurate").exit_code == 0
    assert run("predict", "a.nii", "--config", file, "--roi-mask", "b.nii").exit_code == 0
    assert run("predict", "a.nii", "--config", file, "--no-accurate").exit_code == 0
    write(file, "accurate: true\n")
    assert run("predict", "a.nii", "--config", file, "--set", "fast=no").exit_code == 0
    accurate, masked, fast, still = api.calls
    assert (still.fast, still.accurate) == (False, True)
    assert (accurate.fast, accurate.accurate, accurate.mirror) == (False, True, True)
    assert (masked.roi, masked.roi_mask) == (None, Path("b.nii"))
    assert (fast.fast, fast.overlap) == (True, 0.25)


@pytest.mark.parametrize("off", ["no", "off", "false", "'false'", "0"])
def test_a_preset_that_is_off_in_a_file_is_off(api: Recorder, tmp_path: Path, off: str) -> None:
    file = write(tmp_path / "a.yaml", f"fast: {off}\naccurate: {off}\n")
    assert run("predict", "a.nii.gz", "--config", file).exit_code == 0
    [config] = api.calls
    assert (config.fast, config.accurate, config.mirror, config.overlap) == (
        False, False, False, 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["no", "'off'", "'True'"])
@pytest.mark.parametrize("place", ["network", "loss"])
def test_a_text_is_no_switch_of_a_part(
    api: Recorder, tmp_path: Path, place: str, text: str
) -> None:
    file = write(tmp_path / "a.yaml", f"{place}: {{name: x, options: {{y: {{z: {text}}}}}}}\n")
    result = run("fit", "cases", "--config", file)
    assert (result.exit_code, api.calls) == (1, [])
    assert f"z is the text {text.strip(chr(39))!r}; expected true or false" in result.stderr


def test_home_is_where_a_shell_finds_it(
    api: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write(tmp_path / "a.yaml", "out: ~/scores.csv\n")
    assert run("score", "~/a", "b", "--config", file).exit_code == 0
    assert api.calls[0].out == tmp_path / "scores.csv"
    assert run("predict", "--out=~/o", "~/a.nii.gz", "~b.nii.gz").exit_code == 0
    assert api.calls[1].inputs == (tmp_path / "a.nii.gz", Path("~b.nii.gz"))
    assert api.calls[1].out == tmp_path / "o"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: 2", "unknown key '1'"),
        ("~: 3", "unknown key 'None'"),
        ("base: &b {epoch: 3}\n<<: *b", "unknown key"),
        ("out: 2024-02-30", "not valid YAML: day is out of range for month"),
        ("cleaning: {liver: {keep_larges: true}}", "'cleaning.liver.keep_larges'; did you mean"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line_and_no_bug(
    api: Recorder, tmp_path: Path, text: str, message: str
) -> None:
    file = write(tmp_path / "a.yaml", f"{text}\n")
    result = run("predict", "a.nii.gz", "--config", file)
    assert (result.exit_code, api.calls) == (1, [])
    assert message in result.stderr
    assert result.stderr.startswith(f"medseg3d predict: {file}")
    assert result.stderr.count("\n") == 1


def test_all_places_that_a_wrong_value_may_stand_in_are_named(
    api: Recorder, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.yaml", "augmentation: {rotation_degres: 3}\n")
    result = run("fit", "cases", "--config", file, "--set", "augmentation.scale=[1, 1]")
    assert f"{file}:1, --set: unknown key 'augmentation.rotation_degres'" in result.stderr


@pytest.mark.parametrize("text", ["splits=", "splits=  ", "out=2024-02-30"])
def test_a_setting_without_a_value_is_misuse(api: Recorder, text: str) -> None:
    result = run("fit", "cases", "--set", text)
    assert (result.exit_code, api.calls) == (2, [])
    assert result.stderr.count("\n") == 1


def test_examples_of_help_name_pipelines_that_are_there() -> None:
    examples = " ".join(command.epilog or "" for command in cli.app.registered_commands)
    named = re.findall(r"pipelines/\S+", examples)
    assert named
    assert all((ROOT / name).is_file() for name in named)
