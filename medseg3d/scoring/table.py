"""The table of scores: CSV, one row per case and label."""

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from medseg3d.errors import DataError
from medseg3d.io.atomic import atomic
from medseg3d.scoring.case import Row, Status

COLUMNS = tuple(field.name for field in fields(Row))
"""Header of the table."""

SCORES = tuple(field.name for field in fields(Row) if field.type is float)
"""The columns that hold numbers to average."""

DECIMALS = 6
"""A nanometre, or a millionth of a ratio."""


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write the table; it appears complete or not at all.

    Undefined scores are empty cells, which spreadsheets leave out of averages; numbers are
    rounded to six decimals.

    Args:
        rows: Scores in the order they are written.
        path: File to write or replace.
    """
    with atomic(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in asdict(row).items()})


def read_csv(path: Path) -> list[Row]:
    """Read a table that :func:`write_csv` wrote; empty cells become ``nan``.

    Raises:
        DataError: If columns are missing or a cell cannot be understood.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{path} is not a table of scores: it has no column {', '.join(missing)}; "
                "write it with medseg3d score"
            )
        return [_row(cells, f"{path}, line {reader.line_num}") for cells in reader]


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else round(value, DECIMALS)


def _row(cells: dict[str, str], place: str) -> Row:
    values: dict[str, Any] = {name: cells[name] for name in COLUMNS}
    try:
        values["label"] = int(values["label"])
        for name in SCORES:
            values[name] = float(values[name] or "nan")
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: {error}; expected a number") from error
    if values["status"] not in get_args(Status):
        raise DataError(
            f"{place}: status {values['status']!r} is unknown; expected one of "
            f"{', '.join(get_args(Status))}"
        )
    return Row(**values)
