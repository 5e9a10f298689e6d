"""A summary of scores in a JSON file that says its conventions, and on the terminal."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from medseg3d.io.atomic import write_text
from medseg3d.scoring.bootstrap import LEVEL, RESAMPLES
from medseg3d.scoring.columns import Column
from medseg3d.scoring.statistics import Group, Statistics, Summary
from medseg3d.scoring.table import VOLUMES

CONVENTION = (
    "missed (only the reference has the label) and spurious (only the prediction has it) enter "
    "the means with the worst value, unless a column's definition says otherwise: 0 for ratios "
    "such as Dice and surface Dice, the image diagonal in mm for distances; both_empty (neither "
    "has it) is undefined, leaves the means of all but volumes and their differences, and is "
    "counted apart; mean_where_ok looks only at cases where both have the label"
)

INTERVAL = (
    f"bootstrap interval of the mean at the level {LEVEL:g}, from {RESAMPLES} resamples of whole "
    "patients with all their cases (bias-corrected and accelerated); null with fewer than two "
    "patients"
)

VOLUME_FACTS = {
    f"{role}_ml": {
        "unit": "mL",
        "better": "none",
        "definition": f"volume of the label in the {role}: voxels times |det| of the affine",
        "source": "geometry of the image",
    }
    for role in ("prediction", "reference")
}

SHOWN = {
    "dice": ("Dice", 3),
    "hausdorff_95_mm": ("HD95 mm", 1),
    "assd_mm": ("ASSD mm", 2),
    "surface_dice_1mm": ("NSD 1 mm", 3),
}
"""Heading and decimals of the columns on the terminal; the files hold all columns."""

MOST_SHOWN = 4


def as_dict(summary: Summary) -> dict[str, Any]:
    """The summary as JSON can hold it; numbers that are not finite are ``None``."""
    return {
        "convention": CONVENTION,
        "interval": INTERVAL,
        "models": [
            {
                "model": one.model,
                "labels": [_group_as_dict(group) for group in one.labels],
                "mean_over_labels": _group_as_dict(one.mean_over_labels),
            }
            | (
                {"mean_over_regions": _group_as_dict(one.mean_over_regions)}
                if one.mean_over_regions
                else {}
            )
            for one in summary.models
        ],
    }


def column_facts(columns: Iterable[Column]) -> dict[str, dict[str, Any]]:
    """Metric, options, unit, better direction, definition and source of every numeric column."""
    facts: dict[str, dict[str, Any]] = {
        column.name: {
            "metric": column.metric,
            "options": dict(column.options),
            "unit": column.unit,
            "better": column.better,
            "definition": column.definition,
            "source": column.source,
        }
        for column in columns
    }
    return facts | VOLUME_FACTS


def write_json(summary: Summary, path: Path, *, about: Mapping[str, Any]) -> None:
    """Write the summary with its conventions; the file appears complete or not at all.

    Args:
        summary: What to write.
        path: File to write or replace.
        about: What else there is to say, above the summary; paths and the like become texts.
    """
    facts = {**about, **as_dict(summary)}
    text = json.dumps(facts, indent=2, allow_nan=False, ensure_ascii=False, default=str)
    write_text(path, f"{text}\n")  # escapes of bytes that are no UTF-8 are JSON's own


def summary_table(summary: Summary) -> Table:
    """Means and intervals of the main scores, for the terminal."""
    shown = _shown(summary.columns)
    table = Table(
        caption=f"mean [{LEVEL:.0%} interval over patients]; missed and spurious labels count as "
        "the worst value, labels empty in both maps are left out"
    )
    has_models = len(summary.models) > 1
    for heading in (*(["model"] if has_models else []), "label"):
        table.add_column(heading, overflow="fold")
    titles = [title for title, _ in shown.values()]
    for heading in ("n", *titles, "missed", "spurious", "empty"):
        table.add_column(heading, justify="right", overflow="fold")
    for one in summary.models:
        first = [Text(one.model)] if has_models else []
        for group in one.labels:
            table.add_row(*first, *_cells(group, shown))
        if not has_models:
            table.add_section()
        for mean in (one.mean_over_labels, one.mean_over_regions):
            if mean is not None:
                table.add_row(*first, *_cells(mean, shown), style="bold")
        table.add_section()
    return table


def _group_as_dict(group: Group) -> dict[str, Any]:
    scores = {
        column: {key: _as_json(value) for key, value in vars(statistics).items()}
        for column, statistics in group.scores.items()
    }
    return {**vars(group), "scores": scores}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return None if math.isnan(value[0]) else list(value)
    return value if math.isfinite(value) else None


def _shown(columns: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Heading and decimals of those columns that go on the terminal, the usual ones first."""
    known = {name: SHOWN[name] for name in SHOWN if name in columns}
    others = {name: (name, 3) for name in columns if name not in (*SHOWN, *VOLUMES)}
    fitting = known if len(known) == len(SHOWN) else known | others
    return dict(list(fitting.items())[:MOST_SHOWN])


def _cells(group: Group, shown: Mapping[str, tuple[str, int]]) -> list[Text]:
    texts = [
        group.name if group.label is None else f"{group.label} {group.name}",
        str(group.n),
        *(_mean_in_words(group.scores[column], digits) for column, (_, digits) in shown.items()),
        str(group.n_missed),
        str(group.n_spurious),
        str(group.n_both_empty),
    ]
    return [Text(text) for text in texts]


def _mean_in_words(statistics: Statistics, digits: int) -> str:
    if math.isnan(statistics.mean):
        return "-"
    low, high = statistics.interval
    bounds = "" if math.isnan(low) else f" [{low:.{digits}f}; {high:.{digits}f}]"
    return f"{statistics.mean:.{digits}f}{bounds}"
