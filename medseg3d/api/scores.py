"""``score``: label maps against references, case by case."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.api.batch import FAILED_CSV, Failures
from medseg3d.api.outputs import expect_writable
from medseg3d.api.pairs import SHOWN, Pair, Rules, score_pair
from medseg3d.cluster.runner import Cluster
from medseg3d.cluster.shard import Shard, parse_shard
from medseg3d.config import ScoreConfig, validated
from medseg3d.data.cases import label_names_near, pair_by_id
from medseg3d.errors import DataError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.io.atomic import sweep
from medseg3d.progress import Progress, track
from medseg3d.scoring import Row, Summary, score_case, summarize, write_csv, write_json

log = logging.getLogger("medseg3d")

Scored = dict[str, list[Row]]
"""The rows of each case."""


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
        ConfigError: If ``shard`` or ``cluster`` cannot be understood.
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
    shard = parse_shard(config.shard) if config.shard else Shard(1, 1)
    found = pair_by_id(config.predictions, config.references, skip_unpaired=config.skip_unpaired)
    pairs = shard.of((Pair(*one) for one in found), key=lambda pair: pair.case)
    if shard.count > 1:
        log.info("part %s: %d of %d cases", shard, len(pairs), len(found))
    csv = config.out.with_name(shard.name(config.out.name))
    _expect_free(csv, overwrite=config.overwrite)
    failures = Failures(len(pairs), csv.parent, name=shard.name(FAILED_CSV))
    rules = Rules(
        names=config.labels or _known_names(config.references),
        all_named=bool(config.labels),
        tolerance_mm=config.tolerance_mm,
        border_is_surface=config.border_is_surface,
    )
    scored = _score(partial(score_pair, rules), pairs, failures, config.cluster)
    if not scored:
        failures.end("cases could not be scored")
    rows = list(_completed({pair.case: scored[pair.case] for pair in pairs if pair.case in scored}))
    if not rows and shard.count == 1:
        raise DataError(
            "the label maps hold background only, so there is no label to score; name the labels "
            "that are meant: --set 'labels={1: liver}'"
        )
    _warn_of_other_values(rows)
    result = write_scores(
        rows,
        csv,
        tolerance_mm=config.tolerance_mm,
        border_is_surface=config.border_is_surface,
    )
    failures.end(f"cases could not be scored, the others are in {csv}")
    return result


def _score(
    score_one: Callable[[Pair], list[Row]],
    pairs: Sequence[Pair],
    failures: Failures,
    cluster: str | None,
) -> Scored:
    """The rows of each case that can be scored, in any order."""
    if cluster is not None:
        return _score_in_workers(score_one, pairs, failures, cluster)
    scored: Scored = {}
    for pair in track(pairs, "Scoring", unit="case"):
        with failures.of(pair.case, pair.prediction):
            scored[pair.case] = score_one(pair)
    return scored


def _score_in_workers(
    score_one: Callable[[Pair], list[Row]],
    pairs: Sequence[Pair],
    failures: Failures,
    address: str,
) -> Scored:
    """The same in the workers of a cluster, to which paths are sent and nothing else."""
    if not pairs:
        return {}
    scored: Scored = {}
    jobs = [Pair(one.case, one.prediction.absolute(), one.reference.absolute()) for one in pairs]
    with (
        Progress("Scoring", total=len(jobs), unit="case") as bar,
        Cluster(address, at_most=len(jobs)) as cluster,
    ):

        def on_result(pair: Pair, rows: list[Row]) -> None:
            scored[pair.case] = rows
            bar.advance()

        def on_failure(pair: Pair, error: RunError) -> None:
            bar.advance()
            with failures.of(pair.case, pair.prediction):
                raise error

        cluster.run(score_one, jobs, on_result=on_result, on_failure=on_failure)
    return scored


def write_scores(
    rows: list[Row], csv: Path, *, tolerance_mm: float = 1.0, border_is_surface: bool = True
) -> ScoreResult:
    """Write the table and, beside it, the summary as JSON."""
    summary = summarize(rows, tolerance_mm=tolerance_mm, border_is_surface=border_is_surface)
    write_csv(rows, csv)
    write_json(summary, csv.with_suffix(".json"))
    return ScoreResult(tuple(rows), summary, csv, csv.with_suffix(".json"))


def _expect_free(csv: Path, *, overwrite: bool) -> None:
    """Refuse to replace files or to write where that is impossible, before the work."""
    files = (csv, csv.with_suffix(".json"))
    existing = [str(file) for file in files if os.path.lexists(file)]
    if existing and not overwrite:
        raise RunError(
            f"{' and '.join(existing)} exist already; give --overwrite to replace them, or choose "
            "another -o"
        )
    expect_writable([csv.parent])
    sweep(csv.parent)


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
