"""``compare``: models against each other, by the tables of their scores."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from medseg3d.api.places import expect_absent, expect_no_input, expect_writable
from medseg3d.api.scoring.comparison_panels import draw
from medseg3d.api.scoring.inputs import shortest_ends
from medseg3d.api.scoring.origin import region_rows
from medseg3d.api.versions import versions_of
from medseg3d.config import CompareConfig, given
from medseg3d.errors import ConfigError, DataError
from medseg3d.io.atomic import atomic, sweep
from medseg3d.io.digests import sha256_of
from medseg3d.report.comparison_figure import Form
from medseg3d.scoring import Row
from medseg3d.scoring.comparison import Comparison, compare_models
from medseg3d.scoring.comparison_files import write_comparison, write_differences
from medseg3d.scoring.paired import Paired, pair_models
from medseg3d.scoring.subgroups import read_subgroups
from medseg3d.scoring.table import read_table

log = logging.getLogger("medseg3d")

PACKAGES = ("numpy", "scipy", "matplotlib")
FEWEST_PATIENTS = 6
"""With fewer, no signed-rank test can have a p value under 0.05, whatever the scores."""

SHOWN = 5


@dataclass(frozen=True)
class CompareResult:
    """Models compared, and the files that say so.

    Attributes:
        comparison: Differences and rankings.
        csv: Table that was written.
        json: Everything, with the conventions and where it comes from.
        figure: The figure, None if none was asked for.
    """

    comparison: Comparison
    csv: Path
    json: Path
    figure: Path | None


def compare(
    tables: Sequence[Path | str] | Path | str | CompareConfig, **options: Any
) -> CompareResult:
    """Compare models by the tables of their scores and write ``comparison.csv``.

    Args:
        tables: Tables that ``score`` wrote, one per model, or one with several models; or all
            options.
        **options: See :class:`medseg3d.config.CompareConfig`.

    Raises:
        ConfigError: If there is only one model, or an option cannot be used.
        DataError: If a table or the attributes cannot be read, or the models have no case in
            common.
        RunError: If the outputs exist already or cannot be written.
    """
    if isinstance(tables, (str, Path)):
        tables = [tables]
    config = given(CompareConfig, "tables", tables, options)
    table, facts = config.out, config.out.with_suffix(".json")
    figure = None if config.figure == "none" else config.out.with_suffix(f".{config.figure}")
    _expect_free([table, facts, *([figure] if figure else [])], config)
    models, regions, sources = _read(config.tables)
    paired = pair_models(models, columns=config.columns, regions=regions)
    subgroups, notes = (
        read_subgroups(config.attributes, paired.cases, paired.patients)
        if config.attributes is not None
        else ([], [])
    )
    notes += _warnings(paired)
    for note in notes:
        log.warning("%s", note)
    comparison = compare_models(
        paired,
        subgroups=subgroups,
        baseline=config.baseline,
        level=config.level,
        resamples=config.resamples,
        seed=config.seed,
        family=config.family,
    )
    origin = {
        "notes": notes,
        "tables": sources,
        "attributes": None if config.attributes is None else _source(config.attributes),
        "versions": versions_of(PACKAGES),
        "options": config.model_dump(mode="json"),
    }
    picture = b"" if config.figure == "none" else draw(comparison, form=config.figure)
    if config.overwrite and table.is_file():
        _remove_figures(table)
    write_differences(comparison, table)
    write_comparison(comparison, facts, origin)
    if figure is not None:
        with atomic(figure) as beside:
            beside.write_bytes(picture)
    return CompareResult(comparison, table, facts, figure)


def _remove_figures(table: Path) -> None:
    """Remove what an earlier comparison drew, so that it never stands beside another's table."""
    for form in get_args(Form):
        with suppress(OSError):  # writing beside it says what is wrong
            table.with_suffix(f".{form}").unlink()


def _expect_free(files: Sequence[Path], config: CompareConfig) -> None:
    """Refuse to replace anything unasked, and inputs ever, before the work."""
    told = [table.with_suffix(".json") for table in config.tables]
    there = [file for file in told if file.is_file()]
    expect_no_input(files, [*config.tables, *there, config.attributes])
    expect_absent(files, overwrite=config.overwrite)
    expect_writable([config.out.parent])
    sweep(config.out.parent)


def _read(
    tables: Sequence[Path],
) -> tuple[dict[str, list[Row]], set[int], list[dict[str, Any]]]:
    """The rows of each model, which labels are regions, and what each table is."""
    if len({table.resolve() for table in tables}) < len(tables):
        raise ConfigError(
            "a table is named twice, and there is nothing to compare it with; name others"
        )
    found: list[tuple[Path, str, list[Row]]] = []
    regions: dict[str, int] = {}
    read = {table: read_table(table) for table in tables}
    told = {table: region_rows(table) for table in tables}
    every = {place for of_table in told.values() for place in of_table.items()}
    are_regions = {table: {*of_table.items()} or every for table, of_table in told.items()}
    free = 1 + max((row.label for rows in read.values() for row in rows), default=0)
    sources: list[dict[str, Any]] = []
    for table in tables:
        by_model: dict[str, list[Row]] = {}
        for row in read[table]:
            if (row.label, row.name) in are_regions[table]:  # numbered anew, alike in all tables
                number = regions.setdefault(row.name, free + len(regions))
                row = replace(row, label=number)
            by_model.setdefault(row.model, []).append(row)
        if not by_model:
            raise DataError(f"{table} holds no scores; write it again with medseg3d score")
        found += [(table, model, rows) for model, rows in by_model.items()]
        sources.append(_source(table) | {"models": []})
    names = model_names([(table, model) for table, model, _ in found])
    for (table, _, _), name in zip(found, names, strict=True):
        sources[list(tables).index(table)]["models"].append(name)
    by_name = dict(zip(names, (rows for _, _, rows in found), strict=True))
    return by_name, {*regions.values()}, sources


def model_names(origins: Sequence[tuple[Path, str]]) -> list[str]:
    """A name for each model that no other has.

    That in its table, else the table's; where two are the same, the table's, with the model's
    if it holds several, and with as many folders as it takes; else with a number.

    Args:
        origins: Table of each model, and its name therein, which may be empty.

    Examples:
        >>> model_names([(Path("unet.csv"), ""), (Path("vnet.csv"), "ours")])
        ['unet', 'ours']
        >>> model_names([(Path("unet.csv"), "predictions"), (Path("vnet.csv"), "predictions")])
        ['unet', 'vnet']
        >>> model_names([(Path("a/scores.csv"), ""), (Path("b/scores.csv"), "")])
        ['a/scores', 'b/scores']
    """
    times = Counter(table for table, _ in origins)
    plain = [model or table.stem for table, model in origins]
    longer = [
        f"{table.stem} {model}".strip() if times[table] > 1 else table.stem
        for table, model in origins
    ]
    if len(set(plain)) == len(plain):
        return plain
    places = [
        (*table.absolute().parent.parts, name)
        for (table, _), name in zip(origins, longer, strict=True)
    ]
    if len(set(places)) == len(places):
        return shortest_ends(places)
    return [f"{name} ({number})" for number, name in enumerate(plain, start=1)]


def _warnings(paired: Paired) -> list[str]:
    """What keeps the comparison from being what it may seem."""
    notes = list(paired.notes)
    if paired.unpaired:
        some = ", ".join(
            f"{case} (not in {', '.join(models)})"
            for case, models in list(paired.unpaired.items())[:SHOWN]
        )
        more = len(paired.unpaired) - SHOWN
        notes.append(
            f"{len(paired.unpaired)} cases are not in every table and are left out, {some}"
            f"{f' and {more} more' if more > 0 else ''}; {len(paired.cases)} are compared"
        )
    patients = len(set(paired.patients))
    if patients < FEWEST_PATIENTS:
        notes.append(
            f"{patients} patient{'s are' if patients > 1 else ' is'} too few to show a difference "
            f"by a test at p < 0.05, whatever the scores; at least {FEWEST_PATIENTS} are needed"
        )
    return notes


def _source(path: Path) -> dict[str, Any]:
    return {"file": str(path), "sha256": sha256_of(path)}
