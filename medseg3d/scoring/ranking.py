"""How models rank by their means, and whether other patients would have ranked them so."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg3d.scoring.bootstrap import RESAMPLES, SEED, resampled_means
from medseg3d.scoring.measures import Subject
from medseg3d.scoring.paired import Paired

Floats = npt.NDArray[np.float64]

DECIMALS = 12
"""Means that agree so far are ties."""


@dataclass(frozen=True)
class Ranking:
    """How the models rank by their means, and how often in resamples of the patients.

    Attributes:
        subject: Measure and label.
        num_cases: Cases in which all models have a value.
        means: Mean over the cases, by model.
        shares: By model, the share of resamples in which it is first, second, ...; models that
            tie share the ranks between them.
    """

    subject: Subject
    num_cases: int
    means: Mapping[str, float]
    shares: Mapping[str, tuple[float, ...]]


def rankings(
    paired: Paired,
    subjects: Sequence[Subject],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Iterator[Ranking]:
    """Rank the models in each subject for which two patients or more have values.

    Args:
        paired: Scores of the models in the same cases.
        subjects: Measures and labels.
        resamples: Resamples of the patients.
        seed: Start of the random generator.
    """
    for subject in subjects:
        values = paired.of(subject.measure, subject.label)
        used = np.asarray(~np.isnan(values).any(axis=0))
        patients = [
            patient for patient, is_used in zip(paired.patients, used, strict=True) if is_used
        ]
        if len(set(patients)) < 2:
            continue
        means = resampled_means(values[:, used].T, patients, resamples=resamples, seed=seed)
        shares = rank_shares(means if subject.measure.better == "lower" else -means)
        yield Ranking(
            subject=subject,
            num_cases=int(np.count_nonzero(used)),
            means=dict(zip(paired.models, values[:, used].mean(axis=1).tolist(), strict=True)),
            shares={
                model: tuple(of_model)
                for model, of_model in zip(paired.models, shares.tolist(), strict=True)
            },
        )


def rank_shares(costs: Floats) -> Floats:
    """Share of rounds in which each competitor has each rank.

    Args:
        costs: ``(rounds, competitors)``; the lowest is first.

    Returns:
        ``(competitors, ranks)``; rows and columns sum to 1. Equal costs share their ranks.

    Examples:
        >>> rank_shares(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [5.0, 5.0]])).tolist()
        [[0.625, 0.375], [0.375, 0.625]]
    """
    rounded = np.round(costs, DECIMALS)
    before = (rounded[:, None, :] < rounded[:, :, None]).sum(axis=2)
    equal = (rounded[:, None, :] == rounded[:, :, None]).sum(axis=2)
    shares = [
        np.where((before <= rank) & (rank < before + equal), 1 / equal, 0.0).mean(axis=0)
        for rank in range(costs.shape[1])
    ]
    return np.stack(shares, axis=1)
