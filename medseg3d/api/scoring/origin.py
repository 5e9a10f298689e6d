"""What a table of scores comes from: definitions, versions, options and the files themselves."""

import json
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
        told = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
        return {int(number): name for number, name in told[REGION_ROWS].items()}
    return {}


def options_scored(config: ScoreConfig) -> dict[str, Any]:
    """The options that the numbers depend on."""
    return config.model_dump(exclude=NOT_OF_THE_SCORES)


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
