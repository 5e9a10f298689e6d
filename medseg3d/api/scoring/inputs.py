"""What there is to score: the cases of each model, and the patients they are of."""

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from medseg3d.api.scoring.pairs import Pair
from medseg3d.config import ScoreConfig
from medseg3d.data.cases import Dataset, pair_by_id, patient_of
from medseg3d.errors import ConfigError, DataError

MOST_NAMED = 10


def find_pairs(config: ScoreConfig) -> list[Pair]:
    """Pair the label maps of every model with the references.

    Returns:
        Sorted by case, then in the order of the models. A case has one id, however the files of
        the models are named.

    Raises:
        ConfigError: If predictions are given twice.
        DataError: If partners are missing, or the table of patients lacks some.
    """
    folders = (config.predictions, *config.also)
    models = model_names(folders) if config.also else [""]
    found = [
        pair_by_id(folder, config.references, skip_unpaired=config.skip_unpaired)
        for folder in folders
    ]
    ids: dict[Path, str] = {}
    for case_id, _, reference in sorted(one for of_model in found for one in of_model):
        ids[reference] = min(ids.get(reference, case_id), case_id, key=len)
    patients = (
        {case_id: patient_of(case_id) for case_id in ids.values()}
        if config.patients is None
        else patients_in(config.patients, sorted(ids.values()))
    )
    pairs = [
        Pair(ids[reference], prediction, reference, model, patients[ids[reference]])
        for model, of_model in zip(models, found, strict=True)
        for _, prediction, reference in of_model
    ]
    return sorted(pairs, key=lambda pair: pair.case)


def model_names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with as many of those above as it takes to tell them apart.

    Raises:
        ConfigError: If one is given twice.

    Examples:
        >>> model_names([Path("runs/unet"), Path("runs/vnet")])
        ['unet', 'vnet']
        >>> model_names([Path("a/predictions"), Path("b/predictions/")])
        ['a/predictions', 'b/predictions']
    """
    places = [Path(os.path.abspath(folder)).parts for folder in folders]  # noqa: PTH100  (links stay)
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"the predictions {folder} are given twice; name each model once")
    return shortest_ends(places)


def shortest_ends(paths: Sequence[Sequence[str]]) -> list[str]:
    """The ends of different paths, with as many of their parts as it takes to tell them apart.

    Examples:
        >>> shortest_ends([("a", "validation", "scores"), ("b", "validation", "scores")])
        ['a/validation/scores', 'b/validation/scores']
    """
    for depth in count(1):
        ends = ["/".join(path[-depth:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    raise AssertionError  # different paths differ somewhere


def patients_in(path: Path, cases: Sequence[str]) -> dict[str, str]:
    """The patient of each case, from a CSV with the columns ``case`` and ``patient``.

    Args:
        path: The file; cases that it has beside those wanted do not matter.
        cases: Those wanted.

    Raises:
        DataError: If it cannot be read, contradicts itself or lacks cases.
    """
    patients: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            lacking = {"case", "patient"} - set(reader.fieldnames or ())
            if lacking:
                raise DataError(
                    f"{path} has no column {' and '.join(sorted(lacking))}; expected a CSV with "
                    "the columns case and patient"
                )
            for line in reader:
                case_id, patient = ((line[name] or "").strip() for name in ("case", "patient"))
                if not (case_id and patient):
                    raise DataError(
                        f"{path}, line {reader.line_num}: case {case_id!r} has the patient "
                        f"{patient!r}; expected a name in both columns"
                    )
                if patients.setdefault(case_id, patient) != patient:
                    raise DataError(
                        f"{path}, line {reader.line_num}: case {case_id} has the patients "
                        f"{patients[case_id]} and {patient}; keep one"
                    )
    except (OSError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read as CSV: {why}") from None
    unknown = [case_id for case_id in cases if case_id not in patients]
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        raise DataError(
            f"{path} names no patient for {', '.join(unknown[:MOST_NAMED])}{more}; add a line for "
            "each case"
        )
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
