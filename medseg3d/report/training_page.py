"""A run as one page that looks again by itself, from the disk and without a server."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from medseg3d.drawing import color_of
from medseg3d.io.atomic import write_text
from medseg3d.report.curves import Points, curves

Rows = Sequence[Mapping[str, Any]]

SECONDS_BETWEEN_LOOKS = 10
MOST_CURVES = 8
"""Labels that have a curve of their own; the table has all."""

LAYOUT = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 18px; }
.charts svg { margin: 0; }
.charts h2 { margin-top: 10px; }
.facts { width: auto; }
.facts tbody th { border-bottom: 0; }
.facts tbody tr + tr th { border-top: 1px solid var(--line); }
.slice { display: inline-block; }
.slice img { height: auto; max-width: 100%; width: auto; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
"""


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What the page shows.

    Attributes:
        title: Name of the run.
        verdict: How it stands, in a sentence.
        facts: Names and values of the table at the top.
        labels: Names of the foreground labels, by their values.
        rows: History, one row per epoch; Dice only where it was validated.
        picture: PNG of a held-out case, if there is one yet.
        caption: What it shows.
        goes_on: Whether there will be more to see, so that the page looks again.
    """

    title: str
    verdict: str
    facts: Sequence[tuple[str, str]]
    labels: Mapping[int, str]
    rows: Rows
    picture: bytes | None = None
    caption: str = ""
    goes_on: bool = True


def write_training_page(path: Path, state: TrainingState) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        RunError: If the file cannot be written.
    """
    write_text(path, training_page(state))


def training_page(state: TrainingState) -> str:
    """The page as HTML."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    again = f'<meta http-equiv="refresh" content="{SECONDS_BETWEEN_LOOKS}">\n'
    facts = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in state.facts
    )
    kind = "note" if state.goes_on else "sound"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{again if state.goes_on else ''}"
        f"<title>{escape(state.title)}: training</title>\n"
        f"<style>\n{style}{LAYOUT}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(state.title)}</h1>\n<p class="{kind} verdict">{escape(state.verdict)}</p>\n'
        f'<div class="wide"><table class="facts"><tbody>\n{facts}\n</tbody></table></div>\n'
        f'<div class="charts">\n{_charts(state)}\n{_picture(state)}</div>\n'
        f"{_label_table(state)}</main>\n</body>\n</html>\n"
    )


def _charts(state: TrainingState) -> str:
    validated = [row for row in state.rows if row.get("dice") is not None]
    dice: dict[str, tuple[str, Points]] = {
        name: (_color(label), _points(validated, f"dice_{name}"))
        for label, name in islice(state.labels.items(), MOST_CURVES)
    }
    if len(state.labels) > 1:
        dice["mean"] = ("currentColor", _points(validated, "dice"))
    top = max((y for _, line in dice.values() for _, y in line if math.isfinite(y)), default=1.0)
    losses = {"loss": (_color(1), _points(state.rows, "loss"))}
    rates = {"learning rate": (_color(4), _points(state.rows, "learning_rate"))}
    limits = (0.0, max(1.0, top))
    return "\n".join(
        f"<section><h2>{escape(title)}</h2>{chart}</section>"
        for title, chart in {
            "Dice of held-out cases": curves("Dice", dice, across="minutes", limits=limits),
            "Training loss": curves("loss", losses, across="minutes"),
            "Learning rate": curves("learning rate", rates, across="minutes"),
        }.items()
    )


def _points(rows: Rows, column: str) -> Points:
    return [(row["minutes"], row.get(column, math.nan)) for row in rows]


def _picture(state: TrainingState) -> str:
    if state.picture is None:
        return ""
    data = base64.b64encode(state.picture).decode("ascii")
    return (
        "<section><h2>Latest validation</h2>"
        f'<figure class="slice"><img alt="{escape(state.caption)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(state.caption)}</figcaption>'
        "</figure></section>\n"
    )


def _label_table(state: TrainingState) -> str:
    """Last and best Dice of each label, and which color it has."""
    keys = {f"dice_{name}": (name, _color(label)) for label, name in state.labels.items()}
    lines = []
    for column, (name, color) in (keys | {"dice": ("mean", "currentColor")}).items():
        known = [row[column] for row in state.rows if not math.isnan(row.get(column, math.nan))]
        cells = [f"{known[-1]:.4f}", f"{max(known):.4f}"] if known else ["", ""]
        lines.append(
            f'<tr><td><span class="key" style="background: {color}"></span>{escape(name)}</td>'
            + "".join(f'<td class="number">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    head = '<th>label</th><th class="number">last Dice</th><th class="number">best Dice</th>'
    return (
        f'<h2>Labels</h2>\n<div class="wide"><table class="facts"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>\n"
    )


def _color(label: int) -> str:
    """Color of a label, as CSS has it."""
    return f"rgb{color_of(label)}"
