"""Scores of several models for the same cases and labels, side by side."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg3d.data.cases import patient_of
from medseg3d.data.partners import some
from medseg3d.errors import ConfigError, DataError
from medseg3d.scoring.case import Row
from medseg3d.scoring.measures import Measure, measure_of
from medseg3d.scoring.table import score_names

Floats = npt.NDArray[np.float64]
Place = tuple[str, int]
"""Case and label."""

SAME_VOLUME = 1e-3
"""Relative; reference volumes that differ by more are not of the same drawing."""

ROUNDED_ML = 2e-6
"""Tables round volumes to a millionth of a mL."""

SHOWN = 5


@dataclass(frozen=True)
class Paired:
    """What every model scored in the same cases.

    Attributes:
        models: Names of the models, in the order they were given.
        cases: Cases that every model has, sorted.
        patients: Whom each case is of.
        labels: Label values, ascending.
        regions: Those among them that stand for unions of others.
        names: Name of each label.
        measures: Columns that every table has.
        values: By name of the measure ``(models, cases, labels)``; ``nan`` for all models where
            it is undefined for one.
        unpaired: Models that lack a case, by case; such cases take no part.
        notes: What else a reader must know, one sentence each.
    """

    models: tuple[str, ...]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[int, ...]
    names: Mapping[int, str]
    measures: tuple[Measure, ...]
    values: Mapping[str, Floats]
    unpaired: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    regions: frozenset[int] = frozenset()

    @property
    def headline(self) -> int | None:
        """What tells the result: the only label beside regions, else None for the mean over labels.

        A single region counts as a label where there is no other.
        """
        plain = [label for label in self.labels if label not in self.regions] or self.labels
        return plain[0] if len(plain) == 1 else None

    def of(self, measure: Measure, label: int | None) -> Floats:
        """Values of one label, or their mean over the labels of each case, without regions.

        Args:
            measure: Which column.
            label: A label value; None for the mean over labels.

        Returns:
            ``(models, cases)``, ``nan`` where undefined.
        """
        values = self.values[measure.name]
        if label is not None:
            return values[:, :, self.labels.index(label)]
        values = values[:, :, [label not in self.regions for label in self.labels]]
        there = ~np.isnan(values)
        count = there.sum(axis=2)
        total = np.where(there, values, 0.0).sum(axis=2)
        undefined = np.full(count.shape, np.nan)
        return np.asarray(np.divide(total, count, out=undefined, where=count > 0))


def pair_models(
    tables: Mapping[str, Sequence[Row]],
    *,
    columns: Sequence[str] | None = None,
    regions: Collection[int] = (),
) -> Paired:
    """Bring the scores of several models together, case by case and label by label.

    Where the reference lacks a label, a model that predicted nothing either is right and one
    that predicted something is wrong. Alone, the first is undefined; beside the second it gets
    the best value (1 for what should be high, else 0), so that the comparison keeps the case.
    That does not hold for a region, or a label that some reference has, of which a table has no
    row at all: it was not scored there, and is left out for all models.

    Args:
        tables: Rows of each model.
        columns: Columns to compare; by default all that every table has.
        regions: Labels that stand for unions of others.

    Raises:
        ConfigError: If there are fewer than two models, or a column is not in every table.
        DataError: If a table is empty or has a case and label twice, no case is in all of them,
            or they have no column or label in common.
    """
    if len(tables) < 2:
        raise ConfigError(
            f"only one model is there ({', '.join(tables) or 'none'}); name a second table of "
            "scores to compare it with"
        )
    rows = {model: _by_place(model, found) for model, found in tables.items()}
    notes: list[str] = []
    measures = _measures(tables, columns, notes)
    cases_of = {model: {case for case, _ in found} for model, found in rows.items()}
    every = sorted(set().union(*cases_of.values()))
    lacking = {
        case: tuple(model for model, there in cases_of.items() if case not in there)
        for case in every
    }
    cases = [case for case in every if not lacking[case]]
    if not cases:
        raise DataError(
            f"no case is in all tables; {every[0]}, for instance, lacks in "
            f"{', '.join(lacking[every[0]])}: score the models on the same cases, under the same "
            "names"
        )
    first = {place: row for found in reversed(rows.values()) for place, row in found.items()}
    there = {label for case, label in first if not lacking[case]}
    labels = sorted(there - _unscored(tables, regions, notes))
    if not labels:
        raise DataError(
            "no label or region is in all tables; score the models on the same labels and regions"
        )
    values = {
        measure.name: np.full((len(rows), len(cases), len(labels)), np.nan) for measure in measures
    }
    _fill(values, list(rows.values()), (cases, labels), measures, notes)
    named = _told_apart({label: row.name for (_, label), row in reversed(first.items())}, regions)
    patients = {case: row.patient for (case, _), row in first.items() if row.patient}
    return Paired(
        models=tuple(tables),
        cases=tuple(cases),
        patients=tuple(patients.get(case) or patient_of(case) for case in cases),
        labels=tuple(labels),
        names=named,
        measures=tuple(measures),
        values=values,
        unpaired={case: models for case, models in lacking.items() if models},
        notes=tuple(notes),
        regions=frozenset(regions),
    )


def _by_place(model: str, rows: Sequence[Row]) -> dict[Place, Row]:
    if not rows:
        raise DataError(f"{model} has no scores; its table is empty")
    found: dict[Place, Row] = {}
    for row in rows:
        if found.setdefault((row.case, row.label), row) is not row:
            raise DataError(
                f"{model} has case {row.case} with label {row.label} twice; keep one row of them, "
                "or tell the models apart in the column model"
            )
    return found


def _unscored(
    tables: Mapping[str, Sequence[Row]], regions: Collection[int], notes: list[str]
) -> set[int]:
    """Labels on which some model was not scored, told in the notes.

    A table has a row for every label that any map behind it has, and for every region.
    """
    scored = {model: {row.label for row in rows} for model, rows in tables.items()}
    rows = [row for of_model in tables.values() for row in of_model]
    expected = {row.label for row in rows if row.status in ("ok", "missed")} | {*regions}
    names = {row.label: row.name for row in reversed(rows) if row.label in expected}
    unscored: set[int] = set()
    for label, name in sorted(names.items()):
        if without := [model for model, labels in scored.items() if label not in labels]:
            unscored.add(label)
            notes.append(
                f"{name} has no row in the table of {some(without, most=SHOWN)}, so that it was "
                "not scored there and is left out for all models"
            )
    return unscored


def _told_apart(names: Mapping[int, str], regions: Collection[int]) -> dict[int, str]:
    """The names, with a word at those of regions that are also names of labels."""
    of_labels = {name for label, name in names.items() if label not in regions}
    return {
        label: f"{name} (region)" if label in regions and name in of_labels else name
        for label, name in names.items()
    }


def _measures(
    tables: Mapping[str, Sequence[Row]], columns: Sequence[str] | None, notes: list[str]
) -> list[Measure]:
    headings = [score_names(rows) for rows in tables.values()]
    common = [column for column in headings[0] if all(column in other for other in headings)]
    for column in columns or ():
        if column not in common:
            raise ConfigError(
                f"column {column!r} is not in every table; those that are: {', '.join(common)}"
            )
    partial = [
        column
        for column in dict.fromkeys(column for heading in headings for column in heading)
        if column not in common
    ]
    if partial:
        notes.append(f"not compared, since not in every table: {', '.join(partial)}")
    wanted = list(dict.fromkeys(columns)) if columns else common
    found = {column: measure_of(column) for column in wanted}
    unknown = [column for column, measure in found.items() if measure is None]
    if unknown:
        notes.append(
            f"not compared, since no metric tells which values are better: {', '.join(unknown)}"
        )
    measures = [measure for measure in found.values() if measure is not None]
    if not measures:
        raise DataError(
            "the tables have no column of scores in common; score the models with the same metrics"
        )
    return measures


def _fill(
    values: Mapping[str, Floats],
    rows: Sequence[Mapping[Place, Row]],
    places: tuple[Sequence[str], Sequence[int]],
    measures: Sequence[Measure],
    notes: list[str],
) -> None:
    """Put the values of every case and label in, where they can be paired."""
    cases, labels = places
    lost, other = [], []
    for c, case in enumerate(cases):
        for k, label in enumerate(labels):
            found = [table.get((case, label)) for table in rows]
            there = [row for row in found if row is not None]
            if not there:
                continue
            if any(row.status in ("ok", "missed") for row in there) and len(there) < len(found):
                lost.append(f"{case} label {label}")
                continue
            if not _same_reference(there):
                other.append(f"{case} label {label}")
            for measure in measures:
                of_models = _values(found, there, measure)
                if not np.isnan(of_models).any():
                    values[measure.name][:, c, k] = of_models
    if lost:
        notes.append(f"not in every table and left out: {some(lost, most=SHOWN)}")
    if other:
        notes.append(
            f"scored against different references ({some(other, most=SHOWN)}), so that the "
            "models are not to blame for all of the difference"
        )
    names: dict[int, set[str]] = {}
    for table in rows:
        for (_, label), row in table.items():
            names.setdefault(label, set()).add(row.name)
    twofold = [
        f"{label} is {' and '.join(sorted(named))}"
        for label, named in sorted(names.items())
        if len(named) > 1
    ]
    if twofold:
        notes.append(f"the tables name labels differently: {some(twofold, most=SHOWN)}")


def _values(found: Sequence[Row | None], there: Sequence[Row], measure: Measure) -> Floats:
    """One value per model; who is right to predict nothing is best beside who is not."""
    best = 1.0 if measure.better == "higher" else 0.0
    is_spurious_for_one = any(row.status == "spurious" for row in there)
    values = np.empty(len(found))
    for m, row in enumerate(found):
        values[m] = np.nan if row is None else row.scores.get(measure.column, np.nan)
        is_empty = row is None or row.status == "both_empty"
        if is_spurious_for_one and is_empty and np.isnan(values[m]):
            values[m] = best
    return np.abs(values) if measure.name != measure.column else values


def _same_reference(rows: Sequence[Row]) -> bool:
    volumes = [row.reference_ml for row in rows]
    return max(volumes) - min(volumes) <= SAME_VOLUME * max(volumes) + ROUNDED_ML
