"""``score``: label maps against references, case by case."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.api.batch import Failures
from medseg3d.api.outputs import expect_writable
from medseg3d.config import ScoreConfig, validated
from medseg3d.data.canonical import labels_on
from medseg3d.data.cases import label_names_near, pair_by_id
from medseg3d.errors import DataError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.io import LabelVolume, read_labels
from medseg3d.io.atomic import sweep
from medseg3d.progress import track
from medseg3d.scoring import Row, Summary, score_case, summarize, write_csv, write_json
from medseg3d.types import LabelMap

log = logging.getLogger("medseg3d")

MOST_LABELS = 1000
"""Without names for them, more labels in a case than any atlas has mean that it is an image."""

SHOWN = 10


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
    pairs = pair_by_id(config.predictions, config.references, skip_unpaired=config.skip_unpaired)
    _expect_free(config)
    failures = Failures(len(pairs), config.out.parent)
    names = config.labels or _known_names(config.references)
    options = {
        "tolerance_mm": config.tolerance_mm,
        "border_is_surface": config.border_is_surface,
    }
    scored: dict[str, list[Row]] = {}
    for case_id, prediction_path, reference_path in track(pairs, "Scoring", unit="case"):
        with failures.of(case_id, prediction_path):
            prediction, reference = _pair(prediction_path, reference_path)
            found = names if config.labels else _named(names, prediction, reference.labels)
            scored[case_id] = score_case(
                case_id, prediction, reference.labels, reference.grid, labels=found, **options
            )
    if not scored:
        failures.end("cases could not be scored")
    rows = list(_completed(scored))
    if not rows:
        raise DataError(
            "the label maps hold background only, so there is no label to score; name the labels "
            "that are meant: --set 'labels={1: liver}'"
        )
    _warn_of_other_values(rows)
    result = write_scores(rows, config.out, **options)
    failures.end(f"cases could not be scored, the others are in {config.out}")
    return result


def write_scores(
    rows: list[Row], csv: Path, *, tolerance_mm: float = 1.0, border_is_surface: bool = True
) -> ScoreResult:
    """Write the table and, beside it, the summary as JSON."""
    summary = summarize(rows, tolerance_mm=tolerance_mm, border_is_surface=border_is_surface)
    write_csv(rows, csv)
    write_json(summary, csv.with_suffix(".json"))
    return ScoreResult(tuple(rows), summary, csv, csv.with_suffix(".json"))


def _expect_free(config: ScoreConfig) -> None:
    """Refuse to replace files or to write where that is impossible, before the work."""
    files = (config.out, config.out.with_suffix(".json"))
    existing = [str(file) for file in files if os.path.lexists(file)]
    if existing and not config.overwrite:
        raise RunError(
            f"{' and '.join(existing)} exist already; give --overwrite to replace them, or choose "
            "another -o"
        )
    expect_writable([config.out.parent])
    sweep(config.out.parent)


def _pair(prediction_path: Path, reference_path: Path) -> tuple[LabelMap, LabelVolume]:
    """Predicted labels in the voxel order of the reference, and the reference."""
    prediction, reference = read_labels(prediction_path), read_labels(reference_path)
    for volume in (prediction, reference):
        for note in volume.notes:
            log.warning("%s", note)
    try:
        return labels_on(prediction, reference.grid), reference
    except DataError:
        raise DataError(
            f"{prediction_path} and {reference_path} lie on different grids: "
            f"{reference.grid.difference(prediction.grid)}; predict again on the image that the "
            "reference was drawn on"
        ) from None


def _warn_of_other_values(rows: Sequence[Row]) -> None:
    """Values that only ever occur on one side are more likely a coding than a miss."""
    ours = {row.label for row in rows if row.prediction_ml > 0}
    theirs = {row.label for row in rows if row.reference_ml > 0}
    if ours - theirs and theirs - ours:
        log.warning(
            "only the predictions hold %s and only the references hold %s; if these mean the "
            "same, map the values to each other before scoring",
            _listed(ours - theirs),
            _listed(theirs - ours),
        )


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)[:SHOWN]))


def _known_names(references: Path) -> dict[int, str]:
    return {value: name for value, name in label_names_near(references).items() if value != 0}


def _named(known: Mapping[int, str], *label_maps: LabelMap) -> dict[int, str]:
    """Names of the labels that are known or found, in ascending order."""
    values = set(known).union(*(np.unique(labels).tolist() for labels in label_maps)) - {0}
    if len(values) > MOST_LABELS:
        some = ", ".join(map(str, sorted(values)[:SHOWN]))
        raise DataError(
            f"{len(values)} different labels found ({some}, ...), as many as in an image; name "
            "the label map, or the labels with --set labels="
        )
    return {value: known.get(value, f"label {value}") for value in sorted(values)}


def _completed(scored: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """The rows of all cases, with a row for every label that any case has."""
    names = {row.label: row.name for rows in scored.values() for row in rows}
    nothing = np.zeros((1, 1, 1), np.uint8)
    nowhere = Grid((1, 1, 1), np.eye(4))
    for case_id, rows in scored.items():
        there = {row.label for row in rows}
        lacking = {label: name for label, name in names.items() if label not in there}
        if not lacking:
            yield from rows
            continue
        empty = score_case(case_id, nothing, nothing, nowhere, labels=lacking)
        yield from sorted([*rows, *empty], key=lambda row: row.label)
