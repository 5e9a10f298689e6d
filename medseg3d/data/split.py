"""Which cases are learned from and which are held out, without a patient on both sides."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from medseg3d.data.cases import Case
from medseg3d.errors import ConfigError, DataError


@dataclass(frozen=True)
class Split:
    """Ids of the cases of one fold.

    Attributes:
        training: Cases to learn from, sorted.
        validation: Cases held out, sorted.
    """

    training: tuple[str, ...]
    validation: tuple[str, ...]

    def __post_init__(self) -> None:
        # lists come in when a split is read back from JSON
        object.__setattr__(self, "training", tuple(self.training))
        object.__setattr__(self, "validation", tuple(self.validation))

    def as_dict(self) -> dict[str, list[str]]:
        """The ids as lists, for JSON; ``Split(**split.as_dict())`` is the way back."""
        return {"training": list(self.training), "validation": list(self.validation)}


Folds: TypeAlias = dict[str, Split]
"""Every fold by its name, in order; the names are numbers from 0, or those of sites."""


def make_folds(
    cases: Sequence[Case],
    *,
    folds: int = 5,
    seed: int = 0,
    labels_of: Mapping[str, Collection[int]] | None = None,
) -> tuple[tuple[str, ...], ...]:
    """Deal the cases into folds of about equal size, all cases of a patient into the same.

    Patients are shuffled, then dealt from the one with most cases to the one with fewest,
    each into the fold that is smallest so far. Before that, labels that only some cases have
    are spread evenly [1]_, the rarest first: each patient with the label goes where fewest
    cases have it, and among equal folds where cases and the patient's other labels are fewest.
    The order of ``cases`` has no influence.

    Args:
        cases: All labelled cases.
        folds: How many folds; with fewer patients than that, each patient is a fold.
        seed: Seed of the shuffle.
        labels_of: Foreground labels that each case has, by its id.

    Returns:
        Sorted case ids of each fold. Every case is in exactly one, and none is empty.

    Raises:
        ConfigError: If fewer than two folds are asked for.
        DataError: If all cases are of one patient, so that none could be held out.

    References:
        .. [1] Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011.
           https://doi.org/10.1007/978-3-642-23808-6_10
    """
    if folds < 2:
        raise ConfigError(f"folds must be at least 2, got {folds}")
    by_patient: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.id):
        by_patient.setdefault(case.patient, []).append(case.id)
    if len(by_patient) < 2:
        plural = "s" if len(cases) > 1 else ""
        of = f"1 patient with {len(cases)} case{plural}" if cases else "no case"
        raise DataError(f"{of} cannot be split into training and validation; add patients")
    patients = sorted(by_patient)
    np.random.default_rng(seed).shuffle(patients)
    waiting = sorted(patients, key=lambda name: -len(by_patient[name]))
    having = {
        patient: Counter(label for case in ids for label in (labels_of or {}).get(case, ()))
        for patient, ids in by_patient.items()
    }
    total = sum(having.values(), Counter[int]())
    uneven = sorted(label for label, number in total.items() if number < len(cases))
    dealt: list[list[str]] = [[] for _ in range(min(folds, len(patients)))]
    dealt_with = [Counter[int]() for _ in dealt]

    def home(patient: str, rarest: int | None) -> int:
        """Fold with fewest cases of the label; of several the one of least share in the rest."""
        labels = [label for label in uneven if having[patient][label]]

        def rank(fold: int) -> tuple[int, float]:
            shares = [dealt_with[fold][label] / total[label] for label in labels]
            filled = len(dealt[fold]) / len(cases)
            return (0 if rarest is None else dealt_with[fold][rarest]), filled + sum(shares)

        return min(range(len(dealt)), key=rank)

    left = total.copy()
    while waiting:
        rarest = min((label for label in uneven if left[label]), key=left.__getitem__, default=None)
        for patient in [name for name in waiting if rarest is None or having[name][rarest]]:
            fold = home(patient, rarest)
            dealt[fold] += by_patient[patient]
            dealt_with[fold] += having[patient]
            left.subtract(having[patient])
            waiting.remove(patient)
    return tuple(tuple(sorted(fold)) for fold in dealt)


def deal_folds(
    cases: Sequence[Case],
    *,
    folds: int = 5,
    seed: int = 0,
    labels_of: Mapping[str, Collection[int]] | None = None,
) -> Folds:
    """Hold out each part of :func:`make_folds` in turn; the arguments are the same."""
    dealt = make_folds(cases, folds=folds, seed=seed, labels_of=labels_of)
    return holding_out({str(number): ids for number, ids in enumerate(dealt)})


def holding_out(parts: Mapping[str, Sequence[str]]) -> Folds:
    """Learn from all parts but one, for each of them.

    Examples:
        >>> holding_out({"A": ["1", "3"], "B": ["2"]})["B"]
        Split(training=('1', '3'), validation=('2',))
    """
    everything = sorted(case_id for ids in parts.values() for case_id in ids)
    found = {}
    for name, ids in parts.items():
        held_out = set(ids)
        training = [case_id for case_id in everything if case_id not in held_out]
        found[name] = Split(tuple(training), tuple(sorted(ids)))
    return found


def with_unlabeled(folds: Folds, cases: Sequence[Case], *, learn: bool) -> Folds:
    """Folds that hold out no case without labels.

    Args:
        folds: Of these cases, or of those with labels.
        cases: All of them.
        learn: Whether each fold is to learn from all cases without labels whose patient it does
            not hold out, or from those that it has already.

    Raises:
        DataError: If a fold would hold out nothing.
    """
    patients = {case.id: case.patient for case in cases}
    unlabeled = {case.id for case in cases if case.labels is None}
    found = {}
    for name, part in folds.items():
        held_out = [case_id for case_id in part.validation if case_id not in unlabeled]
        if not held_out:
            raise DataError(
                f"fold {name} holds out only cases without a label map, which validate nothing; "
                "hold out some that have one"
            )
        theirs = {patients[case_id] for case_id in part.validation}
        more = {case_id for case_id in unlabeled if learn and patients[case_id] not in theirs}
        found[name] = Split(tuple(sorted({*part.training, *more})), tuple(held_out))
    return found


def chosen_fold(folds: Folds, fold: int | str) -> Split:
    """One fold, by its name or its number; what is both is a name.

    Raises:
        ConfigError: If there is no such fold.
    """
    names = list(folds)
    if str(fold) in folds:
        return folds[str(fold)]
    if isinstance(fold, int) and 0 <= fold < len(names):
        return folds[names[fold]]
    named = "" if names == [*map(str, range(len(names)))] else f" ({', '.join(names)})"
    raise ConfigError(f"fold {fold} does not exist; folds are 0 to {len(names) - 1}{named}")
