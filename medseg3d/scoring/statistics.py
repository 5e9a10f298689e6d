"""Statistics of scores per model and label, and of the mean over the labels of a case."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg3d.scoring.bootstrap import interval
from medseg3d.scoring.case import Row, Status
from medseg3d.scoring.table import VOLUMES, score_names


@dataclass(frozen=True)
class Statistics:
    """Distribution of one column over the cases where it is defined.

    Attributes:
        mean: With the worst value for what is missed or spurious.
        interval: Bootstrap interval of the mean over patients.
        sd: That of a sample (``n - 1``), ``nan`` below two cases.
        median: Likewise over all defined cases.
        n: How many cases these are.
        mean_where_ok: Mean over the cases where both label maps have the label.
        interval_where_ok: Bootstrap interval of that mean.
        n_where_ok: How many cases these are.
    """

    mean: float
    interval: tuple[float, float]
    sd: float
    median: float
    n: int
    mean_where_ok: float
    interval_where_ok: tuple[float, float]
    n_where_ok: int


@dataclass(frozen=True)
class Group:
    """Statistics of one label, or of the mean over labels (``label`` is ``None``).

    ``n`` counts its rows, one per case; for the mean over labels the cases, while the counts by
    status stay those of cases and labels.
    """

    label: int | None
    name: str
    n: int
    n_patients: int
    n_missed: int
    n_spurious: int
    n_both_empty: int
    scores: Mapping[str, Statistics]


@dataclass(frozen=True)
class ModelSummary:
    """What a table says of one model; ``model`` is empty where there is only one."""

    model: str
    labels: tuple[Group, ...]
    mean_over_labels: Group
    mean_over_regions: Group | None = None


@dataclass(frozen=True)
class Summary:
    """What a table of scores says, by model.

    Attributes:
        models: In the order of the table; one without a name if the table is empty.
        columns: Names of the columns that are summed up.
    """

    models: tuple[ModelSummary, ...]
    columns: tuple[str, ...]


def summarize(
    rows: Iterable[Row], *, columns: Sequence[str] | None = None, regions: Collection[int] = ()
) -> Summary:
    """Describe a table by model and label, and by the mean over labels of each case.

    Intervals are over patients, or over cases where rows name no patient.

    Args:
        rows: Scores, one per model, case and label.
        columns: Names of the scores to sum up; by default all that any row has.
        regions: Numbers of rows that are unions of labels; they have a mean of their own.
    """
    rows = list(rows)
    names = (*(score_names(rows) if columns is None else columns), *VOLUMES)
    by_model: dict[str, list[Row]] = {}
    for row in rows:
        by_model.setdefault(row.model, []).append(row)
    return Summary(
        models=tuple(
            _of_model(model, of_model, names, regions)
            for model, of_model in (by_model or {"": list[Row]()}).items()
        ),
        columns=names,
    )


def _of_model(
    model: str, rows: Sequence[Row], names: Sequence[str], regions: Collection[int]
) -> ModelSummary:
    by_label: dict[int, list[list[Row]]] = {}
    by_case: dict[str, list[Row]] = {}
    regions_by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append([row])
        of_kind = regions_by_case if row.label in regions else by_case
        of_kind.setdefault(row.case, []).append(row)
    over_regions = list(regions_by_case.values())
    return ModelSummary(
        model=model,
        labels=tuple(
            _group(label, cases[0][0].name, cases, names)
            for label, cases in sorted(by_label.items())
        ),
        mean_over_labels=_group(None, "mean over labels", list(by_case.values()), names),
        mean_over_regions=(
            _group(None, "mean over regions", over_regions, names) if over_regions else None
        ),
    )


def _group(
    label: int | None, name: str, cases: Sequence[Sequence[Row]], names: Sequence[str]
) -> Group:
    """Statistics over cases of the mean over each case's rows."""
    statuses: list[Status] = [row.status for rows in cases for row in rows]
    patients = [rows[0].patient or rows[0].case for rows in cases]
    return Group(
        label=label,
        name=name,
        n=len(cases),
        n_patients=len(set(patients)),
        n_missed=statuses.count("missed"),
        n_spurious=statuses.count("spurious"),
        n_both_empty=statuses.count("both_empty"),
        scores={column: _statistics(column, cases, patients) for column in names},
    )


def _statistics(column: str, cases: Sequence[Sequence[Row]], patients: Sequence[str]) -> Statistics:
    values = [_mean([_value(row, column) for row in rows]) for rows in cases]
    where_ok = [
        _mean([_value(row, column) for row in rows if row.status == "ok"]) for rows in cases
    ]
    defined = _defined(values)
    bounds = _interval(values, patients)
    same = all(a == b or math.isnan(a) for a, b in zip(values, where_ok, strict=True))
    return Statistics(
        mean=_mean(values),
        interval=bounds,
        sd=_sd(defined),
        median=float(np.median(defined)) if defined else math.nan,
        n=len(defined),
        mean_where_ok=_mean(where_ok),
        interval_where_ok=bounds if same else _interval(where_ok, patients),
        n_where_ok=len(_defined(where_ok)),
    )


def _value(row: Row, column: str) -> float:
    if column in VOLUMES:
        return row.prediction_ml if column == "prediction_ml" else row.reference_ml
    return row.scores.get(column, math.nan)


def _interval(values: Sequence[float], patients: Sequence[str]) -> tuple[float, float]:
    if any(map(math.isinf, values)):  # they have no mean either
        return math.nan, math.nan
    return interval(values, patients)


def _sd(values: Sequence[float]) -> float:
    if len(values) < 2 or any(map(math.isinf, values)):
        return math.nan
    return float(np.std(values, ddof=1))


def _mean(values: Sequence[float]) -> float:
    defined = _defined(values)
    return math.fsum(defined) / len(defined) if defined else math.nan


def _defined(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]
