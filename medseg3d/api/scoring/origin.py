"""What a table of scores comes from: definitions, versions, options and the files themselves."""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medseg3d.api.scoring.pairs import Pair, Scored
from medseg3d.api.versions import versions_of
from medseg3d.config import ScoreConfig
from medseg3d.io.digests import sha256_of
from medseg3d.scoring import Column, column_facts

PACKAGES = ("numpy", "scipy", "numba", "connected-components-3d", "nibabel", "SimpleITK")

REGION_ROWS = "region_rows"
"""Where the file beside a table names the rows that are unions of labels."""

NOT_OF_THE_SCORES = {"out", "overwrite", "cluster", "threads", "layout"}
"""Options on which no number depends."""


def origin(table: Path, columns: Iterable[Column]) -> dict[str, Any]:
    """What is so for every table: its digest, the versions, what the columns are."""
    return {
        "table": {"file": table.name, "sha256": sha256_of(table)},
        "versions": versions_of(PACKAGES),
        "columns": column_facts(columns),
    }


def region_rows(table: Path) -> dict[int, str]:
    """Names of regions by their number in a table, as far as the file beside it tells."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        told = _beside(table)[REGION_ROWS]
        return {int(number): name for number, name in told.items()}
    return {}


def predictions_scored(table: Path) -> dict[tuple[str, str], list[str]]:
    """SHA-256 of the files of each prediction, sorted, by case and model, as far as told there."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        told = _beside(table)["files"]
        return {(one["case"], one["model"]): sorted(one["prediction"].values()) for one in told}
    return {}


def _beside(table: Path) -> Any:
    """What stands in the file beside a table."""
    return json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))


def options_scored(config: ScoreConfig) -> dict[str, Any]:
    """The options that the numbers depend on."""
    return config.model_dump(exclude=NOT_OF_THE_SCORES)


def label_maps_scored(
    done: Sequence[tuple[Pair, Scored]], columns: Sequence[Column]
) -> dict[str, Any]:
    """Metrics of whole label maps: each case's, and the means over the cases of each model.

    Args:
        done: What came of each pair.
        columns: The metrics.
    """
    names = [column.name for column in columns]
    cases = [
        {"case": pair.case, "model": pair.model}
        | {
            name: None if math.isnan(scored.of_case[name]) else scored.of_case[name]
            for name in names
        }
        for pair, scored in done
    ]
    means = []
    for model in dict.fromkeys(pair.model for pair, _ in done):
        of_model = [scored.of_case for pair, scored in done if pair.model == model]
        for name in names:
            known = [of_case[name] for of_case in of_model if not math.isnan(of_case[name])]
            mean = math.fsum(known) / len(known) if known else None
            means.append({"model": model, "metric": name, "mean": mean, "n": len(known)})
    return {
        "labels": "those of the table and the background (0), to which all others belong",
        "definitions": {column.name: column.definition for column in columns},
        "cases": cases,
        "means": means,
    }


def files_scored(done: Sequence[tuple[Pair, Scored]]) -> list[dict[str, Any]]:
    """SHA-256 of every file that was scored, by case and model."""
    return [
        {
            "case": pair.case,
            "model": pair.model,
            "patient": pair.patient,
            "prediction": dict(scored.prediction),
            "reference": dict(scored.reference),
            "resampled": scored.is_resampled,
        }
        for pair, scored in done
    ]
