"""Classes of whole cases, such as a finding, which some networks learn beside the labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg3d.data.case_table import read_column
from medseg3d.data.cases import Case, Dataset
from medseg3d.errors import DataError

CLASS = "class"


def with_classes(dataset: Dataset, path: Path) -> Dataset:
    """The cases with the classes that a CSV gives them.

    Args:
        dataset: The cases.
        path: CSV with the columns ``case`` (or ``patient``) and ``class``.

    Raises:
        DataError: If the file cannot be used, lacks a case or names but one class.
    """
    classes = read_column(path, CLASS, dataset.cases)
    cases = [replace(case, class_name=classes[case.id]) for case in dataset.cases]
    if len(names := class_names(cases)) < 2:
        raise DataError(
            f"{path} gives all cases the class {names[0]}; telling classes apart takes two"
        )
    return replace(dataset, cases=tuple(cases))


def class_names(cases: Sequence[Case]) -> tuple[str, ...]:
    """The classes that occur, sorted; none where cases have no class."""
    return tuple(sorted({case.class_name for case in cases if case.class_name is not None}))


def class_indices(cases: Sequence[Case], names: Sequence[str]) -> list[int] | None:
    """Index of each case's class among the names; nothing if there are none."""
    return [names.index(case.class_name or "") for case in cases] if names else None
