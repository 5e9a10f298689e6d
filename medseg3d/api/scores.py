"""``score``: label maps against references, case by case."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.config import ScoreConfig, validated
from medseg3d.data.cases import label_names_near, pair_by_id
from medseg3d.errors import DataError, MedSeg3DError, RunError, about_case
from medseg3d.io import LabelVolume, read_labels
from medseg3d.progress import track
from medseg3d.scoring import Row, Summary, score_case, summarize, write_csv, write_json

log = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class ScoreResult:
    """Scores of a set of cases.

    Attributes:
        rows: One per case and label.
        summary: Mean, sd, median and counts per label.
        csv: Table that was written.
        json: Summary that was written.
    """

    rows: tuple[Row, ...]
    summary: Summary
    csv: Path
    json: Path


def score(
    predictions: Path | str | ScoreConfig, references: Path | str | None = None, **options: Any
) -> ScoreResult:
    """Compare predicted label maps with references and write ``scores.csv``.

    Args:
        predictions: A label map or a folder of them, paired by case id; or all options.
        references: The same by an expert.
        **options: See :class:`medseg3d.config.ScoreConfig`.

    Raises:
        DataError: If partners are missing or the label maps of a case lie on different grids.
        RunError: If some cases could not be scored; the others are in the table.
    """
    config = (
        predictions
        if isinstance(predictions, ScoreConfig)
        else validated(
            ScoreConfig, {"predictions": predictions, "references": references} | options
        )
    )
    pairs = pair_by_id(config.predictions, config.references)
    values: set[int] = set()
    failures: list[str] = []
    readable = []
    for case_id, prediction_path, reference_path in track(pairs, "Reading", unit="case"):
        try:
            with about_case(case_id):
                prediction, reference = _pair(prediction_path, reference_path)
        except MedSeg3DError as error:
            failures.append(str(error))
            continue
        values |= set(np.unique(prediction.labels).tolist())
        values |= set(np.unique(reference.labels).tolist())
        readable.append((case_id, prediction_path, reference_path))
    names = config.labels or _names(values, config.references)
    rows: list[Row] = []
    for case_id, prediction_path, reference_path in track(readable, "Scoring", unit="case"):
        prediction, reference = _pair(prediction_path, reference_path)
        rows += score_case(
            case_id,
            prediction.labels,
            reference.labels,
            reference.grid,
            labels=names,
            tolerance_mm=config.tolerance_mm,
            border_is_surface=config.border_is_surface,
        )
    if not rows:
        raise DataError("; ".join(failures) or "the label maps hold background only")
    result = write_scores(
        rows,
        config.out,
        tolerance_mm=config.tolerance_mm,
        border_is_surface=config.border_is_surface,
    )
    if failures:
        raise RunError(
            f"{len(failures)} of {len(pairs)} cases could not be scored, the others are in "
            f"{config.out}: {'; '.join(failures)}"
        )
    return result


def write_scores(
    rows: list[Row], csv: Path, *, tolerance_mm: float = 1.0, border_is_surface: bool = True
) -> ScoreResult:
    """Write the table and, beside it, the summary as JSON."""
    summary = summarize(rows, tolerance_mm=tolerance_mm, border_is_surface=border_is_surface)
    write_csv(rows, csv)
    write_json(summary, csv.with_suffix(".json"))
    return ScoreResult(tuple(rows), summary, csv, csv.with_suffix(".json"))


def _pair(prediction_path: Path, reference_path: Path) -> tuple[LabelVolume, LabelVolume]:
    prediction, reference = read_labels(prediction_path), read_labels(reference_path)
    if not prediction.grid.same_as(reference.grid):
        raise DataError(
            f"{prediction_path} and {reference_path} lie on different grids: "
            f"{reference.grid.difference(prediction.grid)}; score the prediction on the grid of "
            "the reference"
        )
    return prediction, reference


def _names(values: set[int], references: Path) -> dict[int, str]:
    known = label_names_near(references)
    foreground = sorted((values | known.keys()) - {0})
    return {value: known.get(value, f"label {value}") for value in foreground}
