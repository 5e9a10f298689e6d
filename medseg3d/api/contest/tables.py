"""What the run folders of a bake-off tell, and the table and figure of it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medseg3d.api.contest.contestant import FAULT, Facts
from medseg3d.bundle import FILE_NAME, read_bundle
from medseg3d.io.atomic import atomic, write_text
from medseg3d.report.bakeoff_figure import draw_bakeoff
from medseg3d.report.bakeoff_table import Contestant, as_markdown, write_numbers
from medseg3d.runs import HELD_OUT, SCORES, is_finished
from medseg3d.scoring import read_table, summarize

CSV, MARKDOWN, FIGURE = "bakeoff.csv", "bakeoff.md", "bakeoff.{}"


def is_measured(place: Path) -> bool:
    """Whether a network is trained and measured, by processes that ended well."""
    return is_finished(place) and Facts.of(place).parameters > 0 and not (place / FAULT).is_file()


def fault_of(place: Path) -> str:
    """Why a network failed."""
    return (place / FAULT).read_text(encoding="utf-8")


def contestant(name: str, place: Path) -> Contestant:
    """One network, as far as it is.

    Args:
        name: Of the network.
        place: Its run folder, which may be absent.
    """
    if (place / FAULT).is_file():
        return Contestant(network=name, status="failed", note=fault_of(place))
    return _found(name, place) if is_measured(place) else Contestant(network=name, status="waiting")


def write_tables(
    rows: Sequence[Contestant], folder: Path, *, data: Path, form: Literal["png", "svg", "none"]
) -> Path | None:
    """Write table, page and figure into the folder of a bake-off.

    Args:
        rows: Networks, the best first.
        folder: Where they go.
        data: Folder of the cases.
        form: Kind of the figure.

    Returns:
        The figure; None if none is wanted, or no network is done.

    Raises:
        RunError: If one cannot be written.
    """
    done = [one for one in rows if one.status == "done"]
    figure = None
    write_numbers(rows, folder / CSV)
    if done and form != "none":
        figure = folder / FIGURE.format(form)
        with atomic(figure) as beside:
            beside.write_bytes(draw_bakeoff(done, form=form))
    title = f"{len(done)} of {len(rows)} networks on {data.resolve().name}"
    page = as_markdown(rows, title=title, figure=None if figure is None else figure.name)
    write_text(folder / MARKDOWN, page)
    return figure


def remove_tables(folder: Path) -> None:
    """Remove what :func:`write_tables` wrote."""
    for name in (CSV, MARKDOWN, *map(FIGURE.format, ("png", "svg"))):
        (folder / name).unlink(missing_ok=True)


def _found(name: str, place: Path) -> Contestant:
    """What the run folder of a finished network tells."""
    bundle, facts = read_bundle(place / FILE_NAME), Facts.of(place)
    table, scored = read_table(place / HELD_OUT / SCORES), bundle.plan.scored
    rows = [row for row in table if row.label in scored and row.name in bundle.scores]
    columns = ["dice", "hausdorff_95_mm"]
    scores = summarize(rows, columns=columns).models[0].mean_over_labels.scores
    low, high = scores["dice"].interval
    return Contestant(
        network=name,
        dice=scores["dice"].mean,
        dice_low=low,
        dice_high=high,
        hausdorff_95_mm=scores["hausdorff_95_mm"].mean,
        parameters=facts.parameters,
        gflop_per_patch=facts.gflop_per_patch,
        seconds_per_case=facts.seconds_per_case,
        training_memory=facts.training_memory,
        prediction_memory=facts.prediction_memory,
        steps=int(bundle.training.get("steps", 0)),
        minutes=float(bundle.training.get("minutes", math.nan)),
    )
