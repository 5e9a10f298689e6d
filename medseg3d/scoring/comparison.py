"""Which of several models is better, by how much, and how sure that is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from medseg3d.errors import UnknownNameError
from medseg3d.progress import track
from medseg3d.scoring.bootstrap import LEVEL, RESAMPLES, SEED, interval
from medseg3d.scoring.measures import Subject
from medseg3d.scoring.paired import Paired
from medseg3d.scoring.ranking import Ranking, rankings
from medseg3d.scoring.significance import DECIMALS, holm, signed_rank
from medseg3d.scoring.subgroups import Subgroup

Floats = npt.NDArray[np.float64]
Family = Literal["measure", "table"]

MEAN = "mean over labels"


@dataclass(frozen=True)
class Difference:
    """A measure of the second model minus that of the first in the same cases.

    Attributes:
        subject: Measure, label and subgroup.
        first: Name of the first model.
        second: Name of the second model.
        num_cases: Cases in which both have a value.
        num_patients: Whom these are of.
        mean_first: Mean of the first model over the cases.
        mean_second: Mean of the second model.
        difference: Mean over the cases of second minus first.
        low: Lower bound of its interval over patients, ``nan`` below two of them.
        high: Upper bound.
        median: Median over the cases of second minus first.
        first_better: Cases in which the first model is better.
        second_better: Cases in which the second model is better.
        p: Two-sided Wilcoxon signed-rank test of the patients' mean differences.
        p_holm: The same, corrected for the number of tests of its family.
        effect: Matched-pairs rank-biserial correlation of the same, in ``[-1, 1]``.
        favors: The model that is better, where the mean, its whole interval and the ranks say
            so and the corrected p value is under one minus the level. Empty where that is not
            shown.
    """

    subject: Subject
    first: str
    second: str
    num_cases: int
    num_patients: int
    mean_first: float
    mean_second: float
    difference: float
    low: float
    high: float
    median: float
    first_better: int
    second_better: int
    p: float
    p_holm: float
    effect: float
    favors: str


@dataclass(frozen=True)
class Comparison:
    """Several models compared on the same cases.

    Attributes:
        paired: What was compared.
        differences: One per pair of models, measure, label and subgroup.
        rankings: One per measure and label, over all cases.
        level: Coverage of the intervals; tests are judged at one minus it.
        resamples: Resamples behind each interval.
        seed: Start of their random generator.
        family: Which tests were corrected for together.
    """

    paired: Paired
    differences: tuple[Difference, ...]
    rankings: tuple[Ranking, ...]
    level: float
    resamples: int
    seed: int
    family: Family


def compare_models(
    paired: Paired,
    *,
    subgroups: Sequence[Subgroup] = (),
    baseline: str | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    family: Family = "measure",
) -> Comparison:
    """Compare every pair of models by each measure and label, and rank all models.

    Means over labels are taken per case first, over the labels in which all models have a value.
    Cases of a patient are no independent evidence: intervals resample patients, tests and
    effects take each patient's mean difference.

    Args:
        paired: Scores of the models in the same cases.
        subgroups: Parts of the cases in which the models are compared too.
        baseline: Model with which all others are compared; by default each with each.
        level: Coverage of the intervals, in ``(0, 1)``.
        resamples: Resamples of the patients.
        seed: Start of the random generator.
        family: P values are corrected over all labels and pairs of a measure, or of the whole
            table; each attribute of the subgroups is a family of its own.

    Raises:
        ConfigError: If there is no such baseline, or the level or resamples are impossible.
    """
    if baseline is not None and baseline not in paired.models:
        raise UnknownNameError(
            f"the baseline {baseline!r} is no model; the models are {', '.join(paired.models)}"
        )
    pairs = list(combinations(range(len(paired.models)), 2))
    if baseline is not None:
        start = paired.models.index(baseline)
        pairs = [(start, other) for other in range(len(paired.models)) if other != start]
    subjects = list(_subjects(paired))
    everyone = np.ones(len(paired.cases), dtype=np.bool_)
    jobs = [(subject, everyone) for subject in subjects] + [
        (replace(subject, attribute=each.attribute, group=each.group), each.members)
        for each in subgroups
        for subject in subjects
    ]
    found = [
        _difference(paired, subject, members, pair, (level, resamples, seed))
        for subject, members in track(jobs, "Comparing", unit="comparison")
        for pair in pairs
    ]
    differences = [difference for difference in found if difference.num_cases]
    return Comparison(
        paired=paired,
        differences=tuple(_judged(differences, family, level)),
        rankings=tuple(rankings(paired, subjects, resamples=resamples, seed=seed)),
        level=level,
        resamples=resamples,
        seed=seed,
        family=family,
    )


def _subjects(paired: Paired) -> Iterator[Subject]:
    """The mean over labels, where there are several, then each label."""
    for measure in paired.measures:
        if len(paired.labels) - len(paired.regions & {*paired.labels}) > 1:
            yield Subject(measure, None, MEAN)
        for label in paired.labels:
            yield Subject(measure, label, paired.names[label])


def _difference(
    paired: Paired,
    subject: Subject,
    members: npt.NDArray[np.bool_],
    pair: tuple[int, int],
    bootstrap: tuple[float, int, int],
) -> Difference:
    """One comparison, not yet corrected for the others."""
    values = paired.of(subject.measure, subject.label)[list(pair)]
    used = members & ~np.isnan(values).any(axis=0)
    first, second = values[:, used]
    patients = [patient for patient, is_used in zip(paired.patients, used, strict=True) if is_used]
    differences = second - first
    gains = np.round(differences if subject.measure.better == "higher" else -differences, DECIMALS)
    level, resamples, seed = bootstrap
    low, high = interval(differences, patients, level=level, resamples=resamples, seed=seed)
    p, effect = signed_rank(_by_patient(differences, patients))
    return Difference(
        subject=subject,
        first=paired.models[pair[0]],
        second=paired.models[pair[1]],
        num_cases=len(differences),
        num_patients=len(set(patients)),
        mean_first=_mean(first),
        mean_second=_mean(second),
        difference=_mean(differences),
        low=low,
        high=high,
        median=float(np.median(differences)) if differences.size else float("nan"),
        first_better=int(np.count_nonzero(gains < 0)),
        second_better=int(np.count_nonzero(gains > 0)),
        p=p,
        p_holm=p,
        effect=effect,
        favors="",
    )


def _by_patient(values: Floats, patients: Sequence[str]) -> list[float]:
    """Mean of each patient's values."""
    of_patient: dict[str, list[float]] = {}
    for patient, value in zip(patients, values.tolist(), strict=True):
        of_patient.setdefault(patient, []).append(value)
    return [sum(group) / len(group) for group in of_patient.values()]


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")


def _judged(
    differences: Sequence[Difference], family: Family, level: float
) -> Iterable[Difference]:
    """The same in their order, with corrected p values and the model that they favor."""
    families: dict[tuple[str, str], list[int]] = {}
    for place, each in enumerate(differences):
        measure = each.subject.measure.name if family == "measure" else ""
        families.setdefault((each.subject.attribute, measure), []).append(place)
    judged = list(differences)
    for places in families.values():
        corrected = holm([differences[place].p for place in places])
        for place, p_holm in zip(places, corrected, strict=True):
            each = replace(differences[place], p_holm=p_holm)
            judged[place] = replace(each, favors=_favored(each, level))
    return judged


def _favored(each: Difference, level: float) -> str:
    is_clear = each.low > 0 or each.high < 0
    if not (each.p_holm < 1 - level and is_clear and each.difference * each.effect > 0):
        return ""
    second_is_higher = each.difference > 0
    higher_is_better = each.subject.measure.better == "higher"
    return each.second if second_is_higher == higher_is_better else each.first
