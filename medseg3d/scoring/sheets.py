"""Lines of cells in files: CSV, Excel sheets (openpyxl) and Parquet (pyarrow).

Each format writes what it is given and returns the same, the header first; an empty cell is
``None``, or in CSV an empty text.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from medseg3d.errors import DataError
from medseg3d.io.atomic import spelled_out

Cell: TypeAlias = str | int | float | None
Line: TypeAlias = Sequence[Cell]

SHEET = "scores"
MOST_LINES = 1_048_576
"""Lines that an Excel sheet holds, with its header."""

OUR_SHEETS = re.compile(rf"{SHEET}( \d+)?")

TEXTS = ("case", "patient", "model", "name", "metric", "status")
"""Columns of text; the others hold numbers."""

NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Line]) -> None:
    """Write UTF-8; bytes of file names that are no UTF-8 stay what they are."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def read_csv(path: Path) -> Iterator[Line]:
    """Read UTF-8, with or without the mark that Excel puts at the beginning.

    Raises:
        DataError: If it is no CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from csv.reader(file)
    except (OSError, csv.Error) as error:
        raise _unreadable(path, "CSV", error) from None


def write_xlsx(path: Path, header: Sequence[str], lines: Iterable[Line]) -> None:
    """Write a sheet whose header stays in view; no text is ever taken for a formula.

    What a sheet does not hold goes on in another one, with the header again.
    """
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    lines = list(lines)
    book = Workbook(write_only=True)
    for number, start in enumerate(range(0, max(1, len(lines)), MOST_LINES - 1), start=1):
        sheet = book.create_sheet(SHEET if number == 1 else f"{SHEET} {number}")
        sheet.freeze_panes = "A2"

        def cell(value: Cell, sheet: Any = sheet) -> Any:
            if isinstance(value, float) and math.isinf(value):
                value = str(value)
            if not isinstance(value, str):
                return value
            made = WriteOnlyCell(sheet, _printable(value))
            made.data_type = "s"
            return made

        for line in chain([header], lines[start : start + MOST_LINES - 1]):
            sheet.append([cell(value) for value in line])
    book.save(path)


def read_xlsx(path: Path) -> Iterator[Line]:
    """Read the sheets of scores as one, or the first sheet.

    Raises:
        DataError: If it is no workbook, or a damaged one.
    """
    from openpyxl import load_workbook

    try:
        with closing(load_workbook(path, read_only=True, data_only=True)) as book:
            ours = [name for name in book.sheetnames if OUR_SHEETS.fullmatch(name)]
            width = 0
            for number, name in enumerate(ours or book.sheetnames[:1]):
                for line in islice(book[name].iter_rows(values_only=True), number > 0, None):
                    width = width or len(line)  # later lines may end at their last filled cell
                    yield [*line, *[None] * (width - len(line))]
    except MemoryError:
        raise
    except Exception as error:  # damage is told by whatever the parsers stumble over
        raise _unreadable(path, "an Excel file", error) from None


def write_parquet(path: Path, header: Sequence[str], lines: Iterable[Line]) -> None:
    """Write typed columns: text, the whole numbers of labels, and numbers."""
    import pyarrow
    from pyarrow import parquet

    columns = [list(column) for column in zip(*lines, strict=True)] or [[] for _ in header]
    arrays = [
        pyarrow.array(
            [spelled_out(cell) if isinstance(cell, str) else cell for cell in cells],
            type=_parquet_type(name),
        )
        for name, cells in zip(header, columns, strict=True)
    ]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, names=list(header)), path)


def read_parquet(path: Path) -> Iterator[Line]:
    """Read all columns.

    Raises:
        DataError: If it is no Parquet file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, "Parquet", error) from None
    yield table.column_names
    yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def _parquet_type(name: str) -> Any:
    import pyarrow

    if name in TEXTS:
        return pyarrow.string()
    return pyarrow.int64() if name == "label" else pyarrow.float64()


def _printable(text: str) -> str:
    """The text without the characters that XML, which a sheet is made of, cannot hold."""
    return NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", spelled_out(text))


def _unreadable(path: Path, kind: str, error: Exception) -> DataError:
    why = next(iter(str(error).splitlines()), type(error).__name__)
    return DataError(f"{path} cannot be read as {kind} ({why}); write it again with medseg3d score")
