"""Folds from files: a list of splits as nnU-Net writes it, or the site of each case.

::

    [{"train": ["case_01", ...], "val": ["case_07", ...]}, ...]     splits_final.json
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg3d.data.case_table import read_column
from medseg3d.data.cases import Case
from medseg3d.data.partners import count
from medseg3d.data.split import Folds, Split, holding_out
from medseg3d.errors import DataError

EXPECTED = 'expected [{"train": [case ids], "val": [case ids]}, ...], as nnU-Net writes it'
SITE = "site"


def splits_text(folds: Folds) -> str:
    """All folds as nnU-Net writes them, and the name of each."""
    listed = [
        {"name": name, "train": list(part.training), "val": list(part.validation)}
        for name, part in folds.items()
    ]
    return json.dumps(listed, indent=1)


def read_splits(path: Path) -> Folds:
    """Read what :func:`splits_text` or nnU-Net wrote; folds without a name are numbered from 0.

    Raises:
        DataError: If it cannot be read, is no such list, or holds the same fold name or the
            same case in a fold twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {EXPECTED}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON ({error}); {EXPECTED}") from None
    if not isinstance(content, list) or not content:
        raise DataError(f"{path} holds no list of folds; {EXPECTED}")
    folds: Folds = {}
    for number, entry in enumerate(content):
        name, part = _fold(path, number, entry)
        if name in folds:
            raise DataError(f"{path} has two folds called {name}; give each its own name")
        folds[name] = part
    return folds


def _fold(path: Path, number: int, entry: Any) -> tuple[str, Split]:
    sides: list[Any] = []
    if isinstance(entry, dict):
        sides = [entry.get(side) for side in ("train", "val")]
    is_whole = len(sides) == 2 and all(
        isinstance(side, list) and side and all(isinstance(case_id, str) for case_id in side)
        for side in sides
    )
    if not is_whole:
        raise DataError(f"{path}: fold {number} is {entry!r:.60}; {EXPECTED}, none of them empty")
    times = Counter(case_id for side in sides for case_id in side)
    if twice := sorted(case_id for case_id, often in times.items() if often > 1):
        raise DataError(f"{path}: fold {number} names {count(twice, 'case')} twice; keep one")
    return str(entry.get("name", number)), Split(*(tuple(sorted(side)) for side in sides))


def given_splits(path: Path, cases: Sequence[Case]) -> Folds:
    """Folds of a file, made sure to be about these cases and to keep patients together.

    Raises:
        DataError: If the file cannot be read, or in a fold a case is not there or a patient is
            on both sides.
    """
    folds = read_splits(path)
    patients = {case.id: case.patient for case in cases}
    for name, part in folds.items():
        if absent := sorted({*part.training, *part.validation} - patients.keys()):
            raise DataError(
                f"{path}: fold {name} names {count(absent, 'case')} that the data does not have; "
                "correct the file, or give the data that it was made for"
            )
        sides = (
            {patients[case_id] for case_id in side} for side in (part.training, part.validation)
        )
        if both := sorted(set.intersection(*sides)):
            raise DataError(
                f"{path}: fold {name} learns from and holds out {count(both, 'patient')}; move all "
                "cases of a patient to one side"
            )
    return folds


def leave_one_site_out(path: Path, cases: Sequence[Case]) -> Folds:
    """Hold out all cases of one site in turn; the folds have the names of the sites, sorted.

    Args:
        path: CSV with the columns ``case`` and ``site``, or ``patient`` and ``site``; what it
            has beside the cases does not matter.
        cases: All labelled cases.

    Raises:
        DataError: If the file cannot be read, contradicts itself or lacks a case, if there is
            but one site, or if a patient was at two.
    """
    sites = read_column(path, SITE, cases)
    parts: dict[str, list[str]] = {}
    site_of: dict[str, str] = {}
    for case in cases:
        site = sites[case.id]
        if site_of.setdefault(case.patient, site) != site:
            raise DataError(
                f"{path}: patient {case.patient} has cases of the sites {site_of[case.patient]} "
                f"and {site}, so that leaving out one would not leave out the patient; give all "
                "of them one site"
            )
        parts.setdefault(site, []).append(case.id)
    if len(parts) < 2:
        raise DataError(
            f"{path} has all cases at {count(sorted(parts), SITE)}; leaving one out takes two"
        )
    return holding_out(dict(sorted(parts.items())))
