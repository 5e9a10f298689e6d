"""Subgroups of cases from a CSV of what is known about them: site, scanner, sex, lesion size."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg3d.data.partners import some
from medseg3d.errors import DataError

KEYS = ("case", "patient")
FEW_NUMBERS = 5
"""A number with no more different values is a category: 0 and 1, grades, sites."""

MOST_GROUPS = 20
"""A text with more different values is no category but a name or a remark."""

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Subgroup:
    """Cases that share a value of an attribute.

    Attributes:
        attribute: Heading of the column.
        group: The value, or the range of a number, in words.
        members: Which cases belong to it, ``(cases,)`` bool.
    """

    attribute: str
    group: str
    members: npt.NDArray[np.bool_]


def read_subgroups(
    path: Path, cases: Sequence[str], patients: Sequence[str]
) -> tuple[list[Subgroup], list[str]]:
    """Divide cases by each column of a table.

    Texts, and numbers with up to five different values, are categories. Other numbers are cut
    into terciles of the rows whose cases are compared.

    Args:
        path: CSV whose first column is ``case`` or ``patient``; each column of another name is
            an attribute. Empty cells are unknown.
        cases: Ids of the cases that are compared.
        patients: Whom each of them is of.

    Returns:
        The subgroups, and what a reader must know, one sentence each.

    Raises:
        DataError: If the file cannot be read, has no such columns, or has a key twice.
    """
    key, attributes, rows = _read(path)
    of_cases = list(cases if key == "case" else patients)
    wanted = set(of_cases)
    absent = sorted(wanted - rows.keys())
    if len(absent) == len(wanted):
        raise DataError(
            f"{path} has no {key} of those compared, such as {absent[0]}; write their ids into "
            f"the column {key}"
        )
    notes = []
    if absent:
        notes.append(
            f"{path.name} lacks {len(absent)} of {len(wanted)} {key}s "
            f"({some(absent, most=SHOWN)}), which are in no subgroup"
        )
    subgroups: list[Subgroup] = []
    for attribute in attributes:
        cells = {name: rows[name][attribute] for name in rows if name in wanted}
        known = {name: cell for name, cell in cells.items() if cell}
        if len(known) < len(cells):
            unknown = len(cells) - len(known)
            notes.append(f"{attribute} is empty for {unknown} of {len(cells)} {key}s")
        groups = _groups(known)
        distinct = dict.fromkeys(groups.values())
        if len(distinct) > MOST_GROUPS:
            notes.append(f"{attribute} has {len(distinct)} different values and makes no subgroups")
            continue
        subgroups += [
            Subgroup(attribute, group, np.array([groups.get(name) == group for name in of_cases]))
            for group in distinct
        ]
    return subgroups, notes


def _read(path: Path) -> tuple[str, list[str], dict[str, dict[str, str]]]:
    """The key column, the other headings, and the cells of each row by its key."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    lines = [line for line in reader if any(line)]
    headings = [heading.strip() for heading in lines[0]] if lines else []
    key = headings[0].lower() if headings else ""
    others = headings[1:]
    attributes = [heading for heading in others if heading.lower() not in KEYS]
    if key not in KEYS or not attributes or "" in attributes:
        raise DataError(
            f"{path} must begin with a line of headings, first case or patient, then at least one "
            f"attribute; found {', '.join(headings) or 'nothing'}"
        )
    if len(set(others)) < len(others):
        raise DataError(f"{path} has two columns of one name; rename one")
    rows: dict[str, dict[str, str]] = {}
    for line in lines[1:]:
        name, *cells = [cell.strip() for cell in line]
        if len(cells) != len(others):
            raise DataError(
                f"{path} has {len(cells) + 1} cells for {key} {name}; expected {len(headings)}"
            )
        if name in rows:
            raise DataError(f"{path} has {key} {name} twice; keep one row of them")
        rows[name] = dict(zip(others, cells, strict=True))
    return key, attributes, rows


def _groups(cells: Mapping[str, str]) -> dict[str, str]:
    """The group of each row, in the order in which groups are to be shown."""
    numbers = {name: _number(cell) for name, cell in cells.items()}
    are_numbers = all(math.isfinite(number) for number in numbers.values())
    if not are_numbers:
        return dict(sorted(cells.items(), key=lambda item: (item[1], item[0])))
    ordered = dict(sorted(numbers.items(), key=lambda item: (item[1], item[0])))
    if len(set(numbers.values())) <= FEW_NUMBERS:
        return {name: f"{number:.15g}" for name, number in ordered.items()}
    low, high = (float(cut) for cut in np.quantile(list(numbers.values()), (1 / 3, 2 / 3)))
    return {name: _tercile(number, low, high) for name, number in ordered.items()}


def _tercile(number: float, low: float, high: float) -> str:
    if number <= low:
        return f"up to {low:.4g}"
    return f"{low:.4g} to {high:.4g}" if number <= high else f"over {high:.4g}"


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
