"""``score``: label maps against references, case by case."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from medseg3d.api.batch import Failures, failed_csv
from medseg3d.api.places import expect_absent, expect_no_input, expect_writable
from medseg3d.api.scoring.inputs import find_pairs
from medseg3d.api.scoring.origin import (
    REGION_ROWS,
    files_scored,
    label_maps_scored,
    options_scored,
    origin,
)
from medseg3d.api.scoring.pairs import Pair, Rules, Scored, score_pair
from medseg3d.api.scoring.regions import (
    ignored_label,
    plan_near,
    regions_to_score,
    with_regions,
)
from medseg3d.api.scoring.rows import completed, warn_of_other_values
from medseg3d.cluster.runner import Cluster
from medseg3d.cluster.shard import Shard, parse_shard
from medseg3d.config import ScoreConfig, given
from medseg3d.data.cases import description_near, label_names_near
from medseg3d.data.threads import in_threads
from medseg3d.errors import DataError, RunError
from medseg3d.io.atomic import stops_all, sweep
from medseg3d.machine import num_processors
from medseg3d.progress import Progress, track
from medseg3d.scoring import (
    Column,
    Layout,
    Row,
    Summary,
    expect_format,
    summarize,
    write_json,
    write_table,
)
from medseg3d.scoring.columns import columns as usual_columns

log = logging.getLogger("medseg3d")

MOST_AT_ONCE = 8
"""Cases in memory at once; with more processors, each case gets several."""

Found: TypeAlias = dict[tuple[str, str], Scored]
"""What came of each pair, by its key."""


@dataclass(frozen=True)
class ScoreResult:
    """Scores of a set of cases.

    Attributes:
        rows: One per model, case and label.
        summary: Mean, interval, sd, median and counts per model and label.
        csv: Table that was written, a CSV unless another suffix was asked for.
        json: Summary that was written, with definitions, versions and digests.
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
        ConfigError: If a metric, ``regions``, ``shard`` or ``cluster`` cannot be understood.
        DataError: If partners are missing.
        RunError: If some cases could not be scored, as when their label maps lie on different
            grids; the others are in the table. If outputs exist or cannot be written.
    """
    config = given(ScoreConfig, "predictions", predictions, {"references": references} | options)
    asked = usual_columns(config.metrics, tolerances_mm=config.tolerance_mm)
    chosen = [column for column in asked if not column.is_of_case]
    of_cases = [column for column in asked if column.is_of_case]
    expect_format(config.out)
    shard = parse_shard(config.shard) if config.shard else Shard(1, 1)
    pairs = _of_shard(shard, find_pairs(config))
    table = config.out.with_name(shard.name(config.out.name))
    files = (table, table.with_suffix(".json"))
    expect_no_input(files, [config.patients, config.regions])
    expect_absent(files, overwrite=config.overwrite)
    expect_writable([table.parent])
    sweep(table.parent)
    failures = Failures(len(pairs), table.parent, name=failed_csv(table.stem))
    plans = (plan_near(folder) for folder in (config.predictions, *config.also))
    plan = next((plan for plan in plans if plan is not None), None)
    rules = Rules(
        names=config.labels or _known_names(config.references),
        all_named=bool(config.labels),
        columns=asked,
        surface=config.surface,
        border_is_surface=config.border_is_surface,
        resample=config.resample,
        ignore_label=config.ignore_label
        or ignored_label(description_near(config.references), plan),
        regions=regions_to_score(config, plan),
    )
    if config.ignore_label is None and rules.ignore_label in (config.labels or {}):
        rules = replace(rules, ignore_label=None)
    if rules.ignore_label is not None:
        log.info("label %d counts as voxels that nobody annotated", rules.ignore_label)
    found = _score(rules, pairs, failures, config)
    kind = "label maps" if config.also else "cases"
    if not found:
        failures.end(f"{kind} could not be scored")
    done = [(pair, found[pair.key]) for pair in pairs if pair.key in found]
    rows = list(completed(done, chosen))
    if not rows and shard.count == 1:
        raise DataError(
            "the label maps hold background only, so there is no label to score; name the labels "
            "that are meant: --set 'labels={1: liver}'"
        )
    warn_of_other_values(rows)
    about = {"options": options_scored(config), "files": files_scored(done)}
    if rules.regions:
        about["regions"] = rules.regions
    if of_cases:
        about["label_maps"] = label_maps_scored(done, of_cases)
        named = ", ".join(column.name for column in of_cases)
        log.info("%s of whole label maps: in %s", named, table.with_suffix(".json"))
    labels = {row.label for row in rows}
    rows = list(with_regions(rows, done, rules.regions))
    regions = {row.label for row in rows} - labels
    result = write_scores(
        rows, table, columns=chosen, layout=config.layout, regions=regions, about=about
    )
    failures.end(f"{kind} could not be scored, the others are in {table}")
    return result


def write_scores(
    rows: Iterable[Row],
    table: Path,
    *,
    columns: Sequence[Column] | None = None,
    layout: Layout = "wide",
    regions: Collection[int] = (),
    about: Mapping[str, Any] | None = None,
) -> ScoreResult:
    """Write the table and, beside it, the summary with definitions and versions as JSON.

    The JSON file tells the digest of the table, and one of an earlier table is removed first, so
    that never one stands beside the other's.

    Args:
        rows: Scores, one per model, case and label.
        table: File to write or replace; its suffix is the format.
        columns: Of the scores; by default the usual ones.
        layout: A column for each metric, or a row.
        regions: Numbers of rows that are unions of labels.
        about: What else the JSON file tells.

    Raises:
        RunError: If one cannot be written.
    """
    rows, chosen = tuple(rows), usual_columns() if columns is None else columns
    names = [column.name for column in chosen]
    summary = summarize(rows, columns=names, regions=regions)
    json = table.with_suffix(".json")
    with suppress(OSError):  # writing it says what is wrong
        json.unlink()
    write_table(rows, table, layout=layout, columns=names)
    named = {REGION_ROWS: {row.label: row.name for row in rows if row.label in regions}}
    write_json(summary, json, about=origin(table, chosen) | named | dict(about or {}))
    return ScoreResult(rows, summary, table, json)


def _of_shard(shard: Shard, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of this part; all models of a case are in the same part."""
    cases = {pair.case for pair in pairs}
    chosen = shard.of(cases, key=str)
    if shard.count > 1:
        log.info("part %s: %d of %d cases", shard, len(chosen), len(cases))
    wanted = set(chosen)
    return [pair for pair in pairs if pair.case in wanted]


def _score(rules: Rules, pairs: Sequence[Pair], failures: Failures, config: ScoreConfig) -> Found:
    """What came of each pair that can be scored."""
    if config.cluster is not None:
        rules = replace(rules, threads=config.threads or 1)
        return _score_in_workers(partial(score_pair, rules), pairs, failures, config.cluster)
    threads = config.threads or num_processors()
    at_once = max(1, min(threads, len(pairs), MOST_AT_ONCE))
    rules = replace(rules, threads=max(1, threads // at_once))

    def attempt(pair: Pair) -> Scored | Exception:
        try:
            return score_pair(rules, pair)
        except Exception as error:
            if stops_all(error):
                raise
            return error

    found: Found = {}
    outcomes = in_threads(attempt, pairs, threads=at_once)
    unit = "label map" if config.also else "case"
    outcomes = track(outcomes, "Scoring", total=len(pairs), unit=unit)
    for pair, outcome in zip(pairs, outcomes, strict=True):
        with failures.of(pair.case, pair.prediction):
            if isinstance(outcome, Exception):
                raise outcome
            found[pair.key] = outcome
    return found


def _score_in_workers(
    score_one: Callable[[Pair], Scored],
    pairs: Sequence[Pair],
    failures: Failures,
    address: str,
) -> Found:
    """The same in the workers of a cluster, to which paths are sent and nothing else."""
    if not pairs:
        return {}
    found: Found = {}
    with (
        Progress("Scoring", total=len(pairs), unit="case") as bar,
        Cluster(address, at_most=len(pairs)) as cluster,
    ):

        def on_result(pair: Pair, scored: Scored) -> None:
            found[pair.key] = scored
            bar.advance()

        def on_failure(pair: Pair, error: RunError) -> None:
            bar.advance()
            with failures.of(pair.case, pair.prediction):
                raise error

        jobs = [pair.absolute() for pair in pairs]
        cluster.run(
            score_one,
            jobs,
            on_result=on_result,
            on_failure=on_failure,
            if_lost="no scores are kept, start again",
        )
    return found


def _known_names(references: Path) -> dict[int, str]:
    return {value: name for value, name in label_names_near(references).items() if value != 0}
