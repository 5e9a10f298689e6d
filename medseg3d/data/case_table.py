"""What a CSV says about each case: the patient or the site it is from, the class it belongs to.

::

    case,site        or        patient,site
    case_01,Oslo               P7,Oslo
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg3d.data.cases import Case, Dataset
from medseg3d.data.partners import count, some
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
    kind, values = _column(path, column)
    keys = {case.id: case.patient if kind == "patient" else case.id for case in cases}
    if lacking := sorted({key for key in keys.values() if key not in values}):
        raise DataError(f"{path} names no {column} for {count(lacking, kind)}; add a line for each")
    return {case_id: values[key] for case_id, key in keys.items()}


def patients_in(path: Path, cases: Sequence[str]) -> dict[str, str]:
    """The patient of each case, from a CSV with the columns ``case`` and ``patient``.

    Args:
        path: The file; cases that it has beside those wanted do not matter.
        cases: Those wanted.

    Raises:
        DataError: If it cannot be read, contradicts itself or lacks cases.
    """
    _, patients = _column(path, "patient", keys=("case",), errors="surrogateescape")
    if lacking := [case_id for case_id in cases if case_id not in patients]:
        raise DataError(f"{path} names no patient for {some(lacking)}; add a line for each case")
    return patients


def with_patients(dataset: Dataset, table: Path | None) -> Dataset:
    """The cases with their patients as a table names them; without a table as they are.

    Raises:
        DataError: As of :func:`patients_in`.
    """
    if table is None:
        return dataset
    patient_of_case = patients_in(table, [case.id for case in dataset.cases])
    cases = (replace(case, patient=patient_of_case[case.id]) for case in dataset.cases)
    return replace(dataset, cases=tuple(cases))


def _column(
    path: Path, column: str, *, keys: Sequence[str] = ("case", "patient"), errors: str = "strict"
) -> tuple[str, dict[str, str]]:
    """The first of the columns ``keys`` that is there, and the values by the names in it."""
    values: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            reader = csv.DictReader(file)
            found = reader.fieldnames or ()
            kind = next((name for name in keys if name in found), None)
            if kind is None or column not in found:
                expected = ", or ".join(f"{name} and {column}" for name in keys)
                raise DataError(
                    f"{path} has the columns {', '.join(found) or 'none'}; expected a CSV with "
                    f"the columns {expected}"
                )
            for line in reader:
                key, value = ((line[name] or "").strip() for name in (kind, column))
                place = f"{path}, line {reader.line_num}"
                if not (key and value):
                    raise DataError(
                        f"{place}: {kind} {key!r} has the {column} {value!r}; expected a name "
                        "in both columns"
                    )
                if values.setdefault(key, value) != value:
                    raise DataError(
                        f"{place}: {kind} {key} has {column} {values[key]} and {column} "
                        f"{value}; keep one"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {why}") from None
    return kind, values
