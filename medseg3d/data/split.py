"""Which cases are learned from and which are held out, without a patient on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def make_folds(
    cases: Sequence[Case], *, folds: int = 5, seed: int = 0
) -> tuple[tuple[str, ...], ...]:
    """Deal the cases into folds of about equal size, all cases of a patient into the same.

    Patients are shuffled, then dealt from the one with most cases to the one with fewest,
    each into the fold that is smallest so far. The order of ``cases`` has no influence.

    Args:
        cases: All labelled cases.
        folds: How many folds; with fewer patients than that, each patient is a fold.
        seed: Seed of the shuffle.

    Returns:
        Sorted case ids of each fold. Every case is in exactly one.

    Raises:
        ConfigError: If fewer than two folds are asked for.
        DataError: If all cases are of one patient, so that none could be held out.
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
    dealt: list[list[str]] = [[] for _ in range(min(folds, len(patients)))]
    for patient in sorted(patients, key=lambda name: -len(by_patient[name])):
        min(dealt, key=len).extend(by_patient[patient])
    return tuple(tuple(sorted(fold)) for fold in dealt)


def split(cases: Sequence[Case], fold: int = 0, folds: int = 5, seed: int = 0) -> Split:
    """Hold out one fold and learn from the others.

    Args:
        cases: All labelled cases.
        fold: Which fold to hold out, counted from 0.
        folds: How many folds there are; see :func:`make_folds` for few patients.
        seed: Seed of the shuffle; the folds of one seed never overlap.

    Raises:
        ConfigError: If there is no such fold.
        DataError: If all cases are of one patient.
    """
    dealt = make_folds(cases, folds=folds, seed=seed)
    if not 0 <= fold < len(dealt):
        raise ConfigError(
            f"fold {fold} does not exist; {len({case.patient for case in cases})} patients give "
            f"folds 0 to {len(dealt) - 1}"
        )
    training = sorted(name for place, ids in enumerate(dealt) if place != fold for name in ids)
    return Split(tuple(training), dealt[fold])
