"""The command ``medseg3d``: a thin layer over :mod:`medseg3d.api`.

Everything heavy is imported inside the commands, so that help and typing errors are instant.
"""

import json
import logging
import shlex
import subprocess
import sys
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

import medseg3d
from medseg3d.cli_options import (
    FLAGS,
    Quiet,
    Verbose,
    command,
    merged,
    option_rows,
)
from medseg3d.cli_program import Program, told
from medseg3d.cli_tables import show, show_predictions, show_rows, show_summary
from medseg3d.config import (
    BakeoffConfig,
    CheckConfig,
    CompareConfig,
    DownloadConfig,
    ExportConfig,
    FitConfig,
    PredictConfig,
    ReviewConfig,
    ScoreConfig,
    read_yaml,
)
from medseg3d.errors import IncompleteError, RunError
from medseg3d.process import (
    FAILED,
    PIPE_CLOSED,
    flush_output,
    forgive_characters,
    handle_signals,
)
from medseg3d.progress import LOGGER, StderrHandler
from medseg3d.ranks import own_rank

if TYPE_CHECKING:
    from medseg3d.registry import Registry

COMMANDS: dict[str, type[BaseModel]] = {
    "fit": FitConfig,
    "predict": PredictConfig,
    "score": ScoreConfig,
    "compare": CompareConfig,
    "review": ReviewConfig,
    "check": CheckConfig,
    "export": ExportConfig,
    "download": DownloadConfig,
    "bakeoff": BakeoffConfig,
}


app = typer.Typer(
    cls=Program,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(given: bool) -> None:
    if given:
        typer.echo(f"medseg3d {medseg3d.__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
]


@app.callback(
    epilog="Start with:  medseg3d fit DATA  then  medseg3d predict IMAGE\n\n"
    "See it work on generated data:  medseg3d demo"
)
def program(
    _version: Version = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Segment 3D medical images: learn from labeled cases, label new images, score the result."""
    if not any(isinstance(handler, StderrHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(StderrHandler())
    if not (verbose or quiet):
        LOGGER.setLevel(logging.INFO)


def fit(config: FitConfig) -> None:
    """Learn to segment from a folder of labeled cases.

    The plan (spacing, patch, network size) is measured from the cases. The run folder holds
    everything the run did; its model.medseg3d is what predict needs.
    """
    from medseg3d import api

    if config.dry_run:
        show_rows(api.rehearse(config).rows())
        return
    run = api.fit(config)
    if own_rank().number:  # the first of several processes tells of all
        return
    show_summary(run.scores.summary)
    folder = shlex.quote(str(run.folder))
    LOGGER.info("look at the held-out cases: medseg3d review %s", folder)
    LOGGER.info("label new images: medseg3d predict IMAGE -m %s", folder)
    typer.echo(run.bundle)


def predict(config: PredictConfig) -> None:
    """Label images with a trained model, on exactly the grid of each image.

    Prints each label map that was written, with the volume of every label.
    """
    from medseg3d import api

    try:
        predictions = api.predict(config)
    except IncompleteError as error:
        show_predictions(error.done)
        raise
    show_predictions(predictions)
    folders = {prediction.path.parent for prediction in predictions}
    if len(folders) == 1:
        written = predictions[0].path if len(predictions) == 1 else folders.pop()
        images = (part for path in config.inputs for part in ("--images", str(path)))
        offer = shlex.join(["medseg3d", "review", str(written), *images])
        LOGGER.info("look at the result: %s", offer)


def score(config: ScoreConfig) -> None:
    """Compare predicted label maps with references, paired by case id.

    Writes one row per case and label, and beside the table a JSON file with the summary: means
    with intervals over patients, definitions, versions and digests of the files.
    """
    from medseg3d import api

    result = api.score(config)
    show_summary(result.summary)
    typer.echo(result.csv)


def _examples(*lines: str) -> str:
    return "\n\n".join(["Examples:", *lines])


app.command(
    "fit",
    epilog=_examples(
        "medseg3d fit DATA",
        "medseg3d fit DATA -o runs/liver --network vnet --max-minutes 120",
        "medseg3d fit DATA --config pipelines/liver_tumor_ct.yaml --set batch_size=1",
        "medseg3d fit DATA --max-minutes 120 --dry-run",
        "medseg3d fit DATA -o runs/liver --resume",
        "medseg3d fit DATA -o runs/liver --folds 5",
        "All options, also those without a flag: medseg3d list options",
    ),
)(command(FitConfig, fit))
app.command(
    "predict",
    epilog=_examples(
        "medseg3d predict IMAGE.nii.gz",
        "medseg3d predict FOLDER -m runs/liver -o predictions",
        "medseg3d predict CASE_0000.nii.gz CASE_0001.nii.gz -o CASE_seg.nii.gz",
        "medseg3d predict IMAGE.nii.gz --roi 100:300,120:320,: --max-memory 4G",
        "medseg3d predict FOLDER -o predictions --shard 1/4 --fast",
        "All options, also those without a flag: medseg3d list options",
    ),
)(command(PredictConfig, predict))
app.command(
    "score",
    epilog=_examples(
        "medseg3d score predictions references",
        "medseg3d score predictions references -o liver.xlsx --tolerance-mm 2",
        "medseg3d score unet references --also vnet --also swin -o models.csv",
        "medseg3d score predictions references --metrics dice,hausdorff_95 --surface mesh",
        "All options, also those without a flag: medseg3d list options",
    ),
)(command(ScoreConfig, score))


def compare(config: CompareConfig) -> None:
    """Compare models by their tables of scores, case by case.

    Writes a table of paired differences with intervals, tests and effects, everything as JSON,
    and a figure.
    """
    from medseg3d import api
    from medseg3d.scoring.comparison_text import comparison_text

    result = api.compare(config)
    show(comparison_text(result.comparison))
    typer.echo(result.csv)


app.command(
    "compare",
    epilog=_examples(
        "medseg3d compare unet.csv vnet.csv",
        "medseg3d compare unet.csv vnet.csv swin.csv --baseline unet -o liver.csv",
        "medseg3d compare scores.csv --attributes patients.csv --columns dice --figure svg",
        "All options, also those without a flag: medseg3d list options",
    ),
)(command(CompareConfig, compare))


def review(config: ReviewConfig) -> None:
    """Make a page to look at predictions with, worst case first.

    The folder opens with a double click on its index.html, without a server. With references it
    shows where the predictions err; without, what is unusual comes first. Prints the page.
    """
    from medseg3d import api

    typer.echo(api.review(config).page)


app.command(
    "review",
    epilog=_examples(
        "medseg3d review predictions --images images --references references",
        "medseg3d review predictions --images images --scores scores.csv -o liver",
        "medseg3d review runs/liver",
        "All options, also those without a flag: medseg3d list options",
    ),
)(command(ReviewConfig, review))


def check(config: CheckConfig) -> None:
    """Examine a data set before learning from it, and repair a copy of it.

    Every image and label map is read to its end. Exit code 1 if anything is found that fit
    would refuse. With --fix, a repaired copy is written and checked again; the originals are
    never changed.
    """
    from medseg3d import api

    report = api.check(config)
    if config.as_json:
        typer.echo(json.dumps(report.as_dict(), indent=1))
    else:
        from medseg3d.report.terminal import report_text

        copied = report.copy.examination if report.copy else None
        show(report_text(report.examination, report.changes, copied, folder=config.fix))
    if not report.is_sound:
        raise typer.Exit(1)


app.command(
    "check",
    epilog=_examples(
        "medseg3d check DATA",
        "medseg3d check DATA --html check.html",
        "medseg3d check DATA --fix REPAIRED --map 255=1 --resample-labels",
        "medseg3d check DATA --json | jq .findings",
    ),
)(command(CheckConfig, check))


def export(config: ExportConfig) -> None:
    """Write the model of a run as one file that is all predict needs.

    It is loaded before and compared after. Of a run that is not finished, these are the best
    weights so far. With --format it is written for other programs, with a JSON file of what
    they must do before and after, and compared with torch.
    """
    from medseg3d import api

    typer.echo(api.export(config))


app.command(
    "export",
    epilog=_examples(
        "medseg3d export runs/liver",
        "medseg3d export runs/liver -o models/liver.medseg3d --overwrite",
        "medseg3d export runs/liver --format onnx",
    ),
)(command(ExportConfig, export))


def download(config: DownloadConfig) -> None:
    """Fetch a task of the Medical Segmentation Decathlon to learn from; needs a network.

    The archive is compared with its MD5 digest and unpacked. Prints the folder.
    """
    from medseg3d import api

    folder = api.download(config).folder
    LOGGER.info("learn from it: medseg3d fit %s", shlex.quote(str(folder)))
    typer.echo(folder)


app.command(
    "download",
    epilog=_examples(
        "medseg3d download hippocampus",
        "medseg3d download Task03_Liver -o data",
    ),
)(command(DownloadConfig, download))


def bakeoff(config: BakeoffConfig) -> None:
    """Train several networks by one recipe and compare them.

    Each is an ordinary run in a process of its own. The table and the figure are written anew
    after each network; the same command goes on after an interruption. Exit code 1 if a network
    failed; the others are compared.
    """
    from medseg3d import api

    result = api.bakeoff(config)
    show_rows([one.in_words() for one in result.contestants])
    typer.echo(result.csv)
    if result.failed:
        raise typer.Exit(FAILED)


app.command(
    "bakeoff",
    epilog=_examples(
        "medseg3d bakeoff DATA --networks unet3d,vnet,unet_plus_plus --max-minutes 30",
        "medseg3d bakeoff DATA --networks all --max-minutes 3 -o runs/bakeoff",
        "medseg3d bakeoff DATA --config pipelines/bakeoff.yaml --set fit.splits=splits.json",
        "All options, also those without a flag: medseg3d list options",
    ),
)(command(BakeoffConfig, bakeoff))


@app.command(
    "info",
    epilog=_examples("medseg3d info runs/liver", "medseg3d info liver.medseg3d --json"),
)
def info(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Run folder or bundle.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    _verbose: Verbose = False,
    _quiet: Quiet = False,
) -> None:
    """Say what is in a model file, after checking every digest in it.

    A table on a terminal, else one line per row with a tab between name and value.
    """
    from medseg3d import api

    facts = api.info(model)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        show_rows(api.info_rows(facts))


class Kind(StrEnum):
    """What can be listed."""

    NETWORKS = "networks"
    LOSSES = "losses"
    METRICS = "metrics"
    BACKENDS = "backends"
    OPTIONS = "options"


@app.command(
    "list",
    epilog=_examples(
        "medseg3d list networks", "medseg3d list metrics --json", "medseg3d list options"
    ),
)
def list_parts(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="What to list.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks, losses, metrics, backends or options that exist.

    A table on a terminal, else one line per row with tabs between the columns.
    """
    rows = _rows(kind)
    if as_json:
        typer.echo(json.dumps(rows, indent=2, default=str))
    else:
        show_rows(rows)


def _rows(kind: Kind) -> list[dict[str, Any]]:
    if kind is Kind.OPTIONS:
        return [
            {"command": name, **row}
            for name, model in COMMANDS.items()
            for row in option_rows(model)
        ]
    if kind is Kind.NETWORKS:
        from medseg3d.api.listing import network_rows

        return network_rows()
    module = "inference.backends" if kind is Kind.BACKENDS else kind
    registry: Registry[Any] = getattr(import_module(f"medseg3d.{module}"), kind.upper())
    return [{"name": name, **registry.facts(name)} for name in registry]


@app.command("demo", epilog=_examples("medseg3d demo", "medseg3d demo -o runs/first"))
def demo(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run folder; default runs/<data>_<network>_<time>."),
    ] = None,
    _verbose: Verbose = False,
    _quiet: Quiet = False,
) -> None:
    """Fit, predict and score on generated abdominal scans, to see the whole way once.

    Needs the source checkout, where sample_data and pipelines lie.
    """
    from medseg3d import api

    checkout = Path(__file__).parents[1]
    sample, pipeline = _sample_data(checkout), checkout / "pipelines" / "demo.yaml"
    given = {"data": sample} | ({} if out is None else {"out": out})
    run = api.fit(merged(FitConfig, {str(pipeline): read_yaml(pipeline), FLAGS: given}))
    predictions = run.folder / "predictions"
    api.predict(PredictConfig(inputs=(sample / "imagesTs",), model=run.folder, out=predictions))
    result = api.score(
        ScoreConfig(
            predictions=predictions,
            references=sample / "labelsTs",
            out=run.folder / "scores.csv",
        )
    )
    page = api.review(
        ReviewConfig(
            predictions=predictions,
            images=(sample / "imagesTs",),
            references=sample / "labelsTs",
            scores=result.csv,
            out=run.folder / "review",
        )
    ).page
    show_summary(result.summary)
    places = {
        "cases": sample,
        "run": run.folder,
        "model": run.bundle,
        "predictions": predictions,
        "scores": result.csv,
        "review": page,
    }
    for what, where in places.items():
        typer.echo(f"{what:12}{where}")


def _sample_data(checkout: Path) -> Path:
    """The generated cases of the checkout; they are made if they are not all there.

    Raises:
        RunError: If they cannot be made, or this is no checkout.
    """
    folder = checkout / "sample_data"
    script = folder / "make_sample_data.py"
    if not script.is_file():
        raise RunError(
            f"the demo needs the source checkout, but {folder} holds no {script.name}; "
            "clone the repository and run make demo in it"
        )
    if not (folder / "dataset.json").is_file():  # which comes last
        LOGGER.info("making the sample cases in %s", folder)
        command_line = [sys.executable, str(script)]
        made = subprocess.run(command_line, stderr=subprocess.PIPE, check=False)
        if made.returncode != 0:
            told = made.stderr.decode(errors="backslashreplace").split("\n")
            reason = next(filter(str.strip, reversed(told)), f"exit code {made.returncode}")
            raise RunError(
                f"{script} cannot make the sample cases ({reason}); mend that, and give the "
                "command again"
            )
    return folder


def main() -> None:
    """Run the command line of this process."""
    try:
        handle_signals()
        forgive_characters()
        app(prog_name="medseg3d")
    except (BrokenPipeError, KeyboardInterrupt) as error:
        sys.exit(PIPE_CLOSED if isinstance(error, BrokenPipeError) else told(error)[0])
    finally:
        flush_output()
