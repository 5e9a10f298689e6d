"""What a CSV says about each case: the site it is from, the class it belongs to.

::

    case,site        or        patient,site
    case_01,Oslo               P7,Oslo
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from medseg3d.data.cases import Case
from medseg3d.data.partners import count
from medseg3d.errors import DataError


def read_column(path: Path, column: str, cases: Sequence[Case]) -> dict[str, str]:
    """What a column says of each case, by its id.

    Args:
        path: CSV with that column and one called ``case`` or ``patient``; what it has beside the
            cases does not matter.
        column: Name of the column.
        cases: All of them.

    Raises:
        DataError: If the file cannot be read, contradicts itself or lacks a case.
    """
    values, by_patient = _column(path, column)
    keys = {case.id: case.patient if by_patient else case.id for case in cases}
    if lacking := sorted({key for key in keys.values() if key not in values}):
        kind = "patient" if by_patient else "case"
        raise DataError(f"{path} names no {column} for {count(lacking, kind)}; add a line for each")
    return {case_id: values[key] for case_id, key in keys.items()}


def _column(path: Path, column: str) -> tuple[dict[str, str], bool]:
    """Value by case or patient, and whether it is by patient."""
    values: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            keys = [name for name in ("case", "patient") if name in (reader.fieldnames or ())]
            if not keys or column not in (reader.fieldnames or ()):
                raise DataError(
                    f"{path} has the columns {', '.join(reader.fieldnames or ()) or 'none'}; "
                    f"expected a CSV with the columns case and {column}, or patient and {column}"
                )
            for line in reader:
                key, value = ((line[name] or "").strip() for name in (keys[0], column))
                place = f"{path}, line {reader.line_num}"
                if not (key and value):
                    raise DataError(
                        f"{place}: {keys[0]} {key!r} has the {column} {value!r}; expected a name "
                        "in both columns"
                    )
                if values.setdefault(key, value) != value:
                    raise DataError(
                        f"{place}: {keys[0]} {key} has {column} {values[key]} and {column} "
                        f"{value}; keep one"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {why}") from None
    return values, keys[0] == "patient"
