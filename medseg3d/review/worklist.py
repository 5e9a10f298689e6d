"""The work list of the page: scores, volumes and reasons to look, case by case."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from medseg3d.drawing import color_of
from medseg3d.review.columns import column_facts
from medseg3d.review.outliers import Measures, strangeness

FORMAT = 1
DECIMALS = 6

BAD_FIRST = ("missed", "spurious", "ok", "both_empty")
"""States of a label, the worst first."""

UNSCORED = "unscored"
STRANGEST = "outlier"
"""What the list is sorted by where no case has scores."""


class Scored(Protocol):
    """Scores of one label in one case."""

    @property
    def label(self) -> int:
        """Its value."""

    @property
    def scores(self) -> Mapping[str, float]:
        """Values by column."""

    @property
    def prediction_ml(self) -> float:
        """Volume in the prediction."""

    @property
    def reference_ml(self) -> float:
        """Volume in the reference."""

    @property
    def status(self) -> str:
        """``ok``, ``missed``, ``spurious`` or ``both_empty``."""


@dataclass(frozen=True)
class Entry:
    """One case of the list.

    Attributes:
        id: Its name.
        patient: Whom it is of.
        has_reference: Whether the page shows a reference.
        measures: What is known of the prediction alone.
        rows: Scores of its labels; nothing if it has none.
        digest: Of the files of the prediction.
    """

    id: str
    patient: str
    has_reference: bool
    measures: Measures
    rows: Sequence[Scored] = ()
    digest: str = ""


def script_name(number: int) -> str:
    """Where the script of the case lies in the folder, counted from 1."""
    return f"cases/{number:04d}.js"


def thumbnail_name(number: int) -> str:
    """Where its picture lies."""
    return f"thumbnails/{number:04d}.png"


def work_list(
    entries: Sequence[Entry],
    *,
    title: str,
    names: Mapping[int, str],
    regions: Collection[int] = (),
    failed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What ``cases.js`` holds, for ``window.REVIEW``.

    Args:
        entries: The cases, in the order of their scripts.
        title: Heading of the page.
        names: Every label of any case, with its name.
        regions: Those that are unions of labels, which the means leave out.
        failed: Why, for each case that could not be shown.
    """
    named = dict.fromkeys(name for entry in entries for row in entry.rows for name in row.scores)
    columns = [facts for name in named if (facts := column_facts(name)) is not None]
    known = [facts["name"] for facts in columns]
    sortable = [facts["name"] for facts in columns if facts["better"] != "zero"]
    strange = strangeness({entry.id: entry.measures for entry in entries}, names)
    cases = []
    for number, entry in enumerate(entries, start=1):
        found = strange[entry.id]
        of_labels = [row for row in entry.rows if row.label not in regions]
        cases.append(
            {
                "id": entry.id,
                "patient": entry.patient,
                "file": script_name(number),
                "thumbnail": thumbnail_name(number),
                "has_reference": entry.has_reference,
                "status": _worst(entry.rows),
                "mean": {facts["name"]: _mean(of_labels, facts) for facts in columns},
                "labels": _labels(entry, [each for each in names if each not in regions], known),
                "outlier": found.distance,
                "reasons": list(found.reasons),
            }
        )
    return {
        "format": FORMAT,
        "title": title,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "id": _identity(entries),
        "sort": "dice" if "dice" in known else (sortable or [STRANGEST])[0],
        "columns": columns,
        "labels": [
            {"value": label, "name": name, "color": list(color_of(label))}
            for label, name in names.items()
        ],
        "cases": cases,
        "failed": [{"id": case, "reason": why} for case, why in (failed or {}).items()],
    }


def _labels(
    entry: Entry, labels: Sequence[int], columns: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Scores and volumes of the labels of a case; without scores, volumes of those given."""
    if entry.rows:
        return {
            str(row.label): {
                "scores": {name: _number(row.scores.get(name, math.nan)) for name in columns},
                "prediction_ml": _number(row.prediction_ml),
                "reference_ml": _number(row.reference_ml),
                "status": row.status,
            }
            for row in entry.rows
        }
    return {
        str(label): {
            "scores": {},
            "prediction_ml": _number(entry.measures.volumes_ml.get(label, 0.0)),
            "reference_ml": None,
            "status": UNSCORED,
        }
        for label in labels
    }


def _worst(rows: Sequence[Scored]) -> str:
    return min((row.status for row in rows), key=BAD_FIRST.index, default=UNSCORED)


def _mean(rows: Sequence[Scored], facts: Mapping[str, Any]) -> float | None:
    """Over the labels where the score is defined; without sign where 0 is best."""
    found = (row.scores.get(facts["name"], math.nan) for row in rows)
    values = [value for value in found if not math.isnan(value)]
    if facts["better"] == "zero":
        values = [abs(value) for value in values]
    return _number(math.fsum(values) / len(values)) if values else None


def _number(value: float) -> float | None:
    """As JSON can hold it."""
    return round(value, DECIMALS) if math.isfinite(value) else None


def _identity(entries: Sequence[Entry]) -> str:
    """Stands for these predictions of these cases; verdicts are kept under it."""
    told = "\n".join(f"{entry.digest} {entry.id}" for entry in entries)
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]
