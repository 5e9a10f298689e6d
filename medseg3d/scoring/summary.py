"""Summary of a table of scores: per label, and for the mean over the labels of each case."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from medseg3d.io.atomic import atomic
from medseg3d.metrics import METRICS
from medseg3d.scoring.case import Row, Status
from medseg3d.scoring.table import SCORES

CONVENTION = (
    "missed (only the reference has the label) and spurious (only the prediction has it) enter "
    "every mean with the worst value: 0 for overlap and surface Dice, the image diagonal in mm "
    "for distances; both_empty (neither has it) is undefined, leaves the means of the metrics "
    "and is counted apart; mean_where_ok looks only at cases where both have the label"
)

METRIC_OF = {
    "dice": "dice",
    "iou": "iou",
    "precision": "precision",
    "recall": "recall",
    "hausdorff_mm": "hausdorff",
    "hausdorff_95_mm": "hausdorff_95",
    "assd_mm": "assd",
    "surface_dice": "surface_dice",
}
"""The metric behind each column of the table."""

VOLUMES = {
    "prediction_ml": {
        "unit": "mL",
        "better": "none",
        "definition": "volume of the label in the prediction: voxels times |det| of the affine",
    },
    "reference_ml": {
        "unit": "mL",
        "better": "none",
        "definition": "volume of the label in the reference: voxels times |det| of the affine",
    },
}

SHOWN = {
    "dice": ("Dice", 3),
    "hausdorff_95_mm": ("HD95 mm", 1),
    "assd_mm": ("ASSD mm", 2),
    "surface_dice": ("NSD", 3),
}
"""Heading and decimals of the columns on the terminal; the files hold all columns."""


@dataclass(frozen=True)
class Statistics:
    """Distribution of one column over the cases where it is defined.

    ``sd`` is that of a sample (``n - 1``), ``nan`` below two cases.
    """

    mean: float
    sd: float
    median: float
    n: int
    mean_where_ok: float


@dataclass(frozen=True)
class Group:
    """Statistics of one label, or of the mean over labels (``label`` is ``None``).

    ``n`` counts its rows, one per case; for the mean over labels the cases, while the other
    counts stay those of cases and labels.
    """

    label: int | None
    name: str
    n: int
    n_missed: int
    n_spurious: int
    n_both_empty: int
    scores: Mapping[str, Statistics]


@dataclass(frozen=True)
class Summary:
    """What a table of scores says, with the conventions needed to read it."""

    labels: tuple[Group, ...]
    mean_over_labels: Group
    tolerance_mm: float | None
    border_is_surface: bool

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON can hold it; undefined numbers are ``None``."""
        return {
            "convention": CONVENTION,
            "tolerance_mm": self.tolerance_mm,
            "border_is_surface": self.border_is_surface,
            "columns": column_facts(),
            "labels": [_group_as_dict(group) for group in self.labels],
            "mean_over_labels": _group_as_dict(self.mean_over_labels),
        }


def column_facts() -> dict[str, dict[str, str]]:
    """Unit, better direction and definition of every numeric column."""
    facts = {}
    for column in SCORES:
        source = METRICS.facts(METRIC_OF[column]) if column in METRIC_OF else VOLUMES[column]
        facts[column] = {key: str(source[key]) for key in ("unit", "better", "definition")}
    return facts


def summarize(
    rows: Iterable[Row], *, tolerance_mm: float | None = None, border_is_surface: bool = True
) -> Summary:
    """Describe a table by label, and by the mean over labels of each case.

    Args:
        rows: Scores, one per case and label.
        tolerance_mm: Tolerance the surface Dice was computed with, for the record.
        border_is_surface: Whether voxels at the volume's border were surface, likewise.
    """
    by_label: dict[int, list[Row]] = {}
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
        by_case.setdefault(row.case, []).append(row)
    return Summary(
        labels=tuple(
            _group(label, of_label[0].name, [[row] for row in of_label])
            for label, of_label in sorted(by_label.items())
        ),
        mean_over_labels=_group(None, "mean over labels", list(by_case.values())),
        tolerance_mm=tolerance_mm,
        border_is_surface=border_is_surface,
    )


def write_json(summary: Summary, path: Path) -> None:
    """Write the summary with its conventions; the file appears complete or not at all."""
    text = json.dumps(summary.as_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    with atomic(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def summary_table(summary: Summary) -> Table:
    """Mean and standard deviation of the main scores, for the terminal."""
    table = Table(
        caption="mean (sd) over cases; missed and spurious labels count as the worst value, "
        "labels empty in both maps are left out"
    )
    table.add_column("label", overflow="fold")
    for heading in ("n", *(title for title, _ in SHOWN.values()), "missed", "spurious", "empty"):
        table.add_column(heading, justify="right", overflow="fold")
    for group in summary.labels:
        table.add_row(*_cells(group))
    table.add_section()
    table.add_row(*_cells(summary.mean_over_labels), style="bold")
    return table


def _group(label: int | None, name: str, cases: Sequence[Sequence[Row]]) -> Group:
    """Statistics over cases of the mean over each case's rows."""
    statuses: list[Status] = [row.status for rows in cases for row in rows]
    return Group(
        label=label,
        name=name,
        n=len(cases),
        n_missed=statuses.count("missed"),
        n_spurious=statuses.count("spurious"),
        n_both_empty=statuses.count("both_empty"),
        scores={column: _statistics(column, cases) for column in SCORES},
    )


def _statistics(column: str, cases: Sequence[Sequence[Row]]) -> Statistics:
    values = _defined(_mean([getattr(row, column) for row in rows]) for rows in cases)
    where_ok = _defined(
        _mean([getattr(row, column) for row in rows if row.status == "ok"]) for rows in cases
    )
    return Statistics(
        mean=_mean(values),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
        median=float(np.median(values)) if values else float("nan"),
        n=len(values),
        mean_where_ok=_mean(where_ok),
    )


def _mean(values: Sequence[float]) -> float:
    defined = _defined(values)
    return math.fsum(defined) / len(defined) if defined else float("nan")


def _defined(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _group_as_dict(group: Group) -> dict[str, Any]:
    scores = {
        column: {
            key: None if math.isnan(value) else value for key, value in vars(statistics).items()
        }
        for column, statistics in group.scores.items()
    }
    return {**vars(group), "scores": scores}


def _cells(group: Group) -> list[str]:
    return [
        escape(group.name if group.label is None else f"{group.label} {group.name}"),
        str(group.n),
        *(_mean_and_sd(group.scores[column], digits) for column, (_, digits) in SHOWN.items()),
        str(group.n_missed),
        str(group.n_spurious),
        str(group.n_both_empty),
    ]


def _mean_and_sd(statistics: Statistics, digits: int) -> str:
    if math.isnan(statistics.mean):
        return "-"
    sd = "" if math.isnan(statistics.sd) else f" ({statistics.sd:.{digits}f})"
    return f"{statistics.mean:.{digits}f}{sd}"
