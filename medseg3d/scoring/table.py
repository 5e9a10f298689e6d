"""The table of scores, wide or long, as CSV, Excel sheet or Parquet file.

Wide is one row per case and label with a column for each metric; long is one row per case, label
and metric. Undefined scores are empty cells, which spreadsheets leave out of averages; numbers are
rounded to six decimals.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.io.atomic import atomic
from medseg3d.scoring import sheets
from medseg3d.scoring.case import Row, Status
from medseg3d.scoring.sheets import Cell, Line

Layout: TypeAlias = Literal["wide", "long"]

KEYS = ("case", "patient", "model", "label", "name")
VOLUMES = ("prediction_ml", "reference_ml")
ENDING = (*VOLUMES, "status")
LONG = ("metric", "value")
ABSENT_IN_OLD = ("patient", "model")
"""Columns that tables of earlier versions do not have."""

DECIMALS = 6
"""A nanometre, or a millionth of a ratio."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        write: Takes the file, the header and the lines.
        read: Gives the lines, the header first.
        needs: Package that it takes, beside those that are always there.
    """

    write: Callable[[Path, Sequence[str], Iterable[Line]], None]
    read: Callable[[Path], Iterator[Line]]
    needs: str | None = None


FORMATS = {
    ".csv": Format(sheets.write_csv, sheets.read_csv),
    ".xlsx": Format(sheets.write_xlsx, sheets.read_xlsx, needs="openpyxl"),
    ".parquet": Format(sheets.write_parquet, sheets.read_parquet, needs="pyarrow"),
}


def expect_format(path: Path) -> Format:
    """The format that a table of this name has.

    Raises:
        ConfigError: If there is none of this suffix.
        RunError: If the package for it is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{path} is no table of scores; its name must end in {_listed(FORMATS)}")
    found = FORMATS[suffix]
    if found.needs is not None and find_spec(found.needs) is None:
        raise RunError(
            f"tables as {suffix} need {found.needs}, which is not installed; "
            'pip install "medseg3d[tables]", or name a .csv'
        )
    return found


def score_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """The columns of scores that any row has, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for row in rows for name in row.scores))


def write_table(
    rows: Iterable[Row],
    path: Path,
    *,
    layout: Layout = "wide",
    columns: Sequence[str] | None = None,
) -> None:
    """Write the table; it appears complete or not at all.

    Args:
        rows: Scores in the order they are written.
        path: File to write or replace; its suffix is the format.
        layout: A column for each metric, or a row.
        columns: Names of the scores to write; by default all that any row has.

    Raises:
        ConfigError: If there is no format of this suffix.
        RunError: If its package is not installed, or the file cannot be written.
    """
    form, rows = expect_format(path), list(rows)
    names = score_names(rows) if columns is None else tuple(columns)
    if layout == "wide":
        header = (*KEYS, *names, *ENDING)
        lines = [_line(row, [_score(row, name) for name in names]) for row in rows]
    else:
        header = (*KEYS, *LONG, *ENDING)
        lines = [_line(row, [name, _score(row, name)]) for row in rows for name in names]
    with atomic(path) as beside:
        form.write(beside, header, lines)


def read_table(path: Path) -> list[Row]:
    """Read a table that :func:`write_table` wrote, in either layout; empty cells become ``nan``.

    Raises:
        ConfigError: If there is no format of this suffix.
        DataError: If the file cannot be read, columns are missing, a row is there twice, or a
            cell cannot be understood.
        RunError: If the package for the format is not installed.
    """
    form = expect_format(path)
    if not path.is_file():
        raise DataError(f"{path} is not there; expected a table from medseg3d score")
    lines = form.read(path)
    header = [str(cell or "").strip() for cell in next(lines, ())]
    is_long = set(LONG) <= set(header)
    expected = (*KEYS, *(LONG if is_long else ()), *ENDING)
    missing = [name for name in expected if name not in (*header, *ABSENT_IN_OLD)]
    if missing:
        raise DataError(
            f"{path} is not a table of scores: it has no column {', '.join(missing)}; "
            "write it with medseg3d score"
        )
    read = (
        _Line(f"{path}, line {number}", header, cells)
        for number, cells in enumerate(lines, start=2)
        if any(cell not in (None, "") for cell in cells)
    )
    return _long_rows(read) if is_long else _wide_rows(read)


@dataclass(frozen=True)
class _Line:
    """One line that was read.

    Attributes:
        place: Where it is, for messages.
        header: Names of the columns.
        cells: What stands in them.
    """

    place: str
    header: Sequence[str]
    cells: Line

    @cached_property
    def values(self) -> dict[str, Cell]:
        """Cells by column."""
        if len(self.cells) != len(self.header):
            raise DataError(
                f"{self.place}: {len(self.cells)} cells found where the header has "
                f"{len(self.header)}; write the table again with medseg3d score"
            )
        return dict(zip(self.header, self.cells, strict=True))

    def text(self, name: str) -> str:
        """A cell of text, also if a spreadsheet has made a number of it."""
        cell = self.values.get(name)
        if isinstance(cell, float) and cell.is_integer():
            cell = int(cell)
        return "" if cell is None else str(cell)

    def number(self, name: str) -> float:
        """A cell that holds a number or nothing."""
        cell = self.values[name]
        try:
            return math.nan if cell in (None, "") else float(cast(Any, cell))
        except (TypeError, ValueError):
            raise DataError(
                f"{self.place}: {name} is {cell!r}; expected a number or an empty cell"
            ) from None

    def row(self, scores: dict[str, float]) -> Row:
        """The line with these scores."""
        label, status = self.number("label"), self.text("status")
        if not label.is_integer():
            raise DataError(
                f"{self.place}: label is {self.values['label']!r}; expected a whole number"
            )
        if status not in get_args(Status):
            raise DataError(
                f"{self.place}: status {status!r} is unknown; expected one of "
                f"{_listed(get_args(Status))}"
            )
        return Row(
            case=self.text("case"),
            label=int(label),
            name=self.text("name"),
            scores=scores,
            prediction_ml=self.number("prediction_ml"),
            reference_ml=self.number("reference_ml"),
            status=cast(Status, status),
            patient=self.text("patient"),
            model=self.text("model"),
        )


def _wide_rows(lines: Iterable[_Line]) -> list[Row]:
    rows: dict[tuple[str, str, int], Row] = {}
    for line in lines:
        names = [name for name in line.header if name and name not in (*KEYS, *ENDING)]
        row = line.row({name: line.number(name) for name in names})
        if rows.setdefault(_key(row), row) is not row:
            raise _twice(line, row)
    return list(rows.values())


def _long_rows(lines: Iterable[_Line]) -> list[Row]:
    rows: dict[tuple[str, str, int], Row] = {}
    for line in lines:
        found, metric = line.row({}), line.text("metric")
        row = rows.setdefault(_key(found), found)
        scores = cast("dict[str, float]", row.scores)
        if metric in scores:
            raise _twice(line, row, f" and metric {metric}")
        scores[metric] = line.number("value")
    return list(rows.values())


def _key(row: Row) -> tuple[str, str, int]:
    return row.case, row.model, row.label


def _twice(line: _Line, row: Row, more: str = "") -> DataError:
    of = f" of model {row.model}" if row.model else ""
    return DataError(
        f"{line.place}: case {row.case}, label {row.label}{more}{of} is there twice; keep one"
    )


def _line(row: Row, scores: Sequence[Cell]) -> list[Cell]:
    keys: list[Cell] = [row.case, row.patient, row.model, row.label, row.name]
    return [*keys, *scores, _rounded(row.prediction_ml), _rounded(row.reference_ml), row.status]


def _score(row: Row, name: str) -> Cell:
    return _rounded(row.scores.get(name, math.nan))


def _rounded(value: float) -> Cell:
    return None if math.isnan(value) else round(value, DECIMALS) + 0.0  # no minus zero


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
