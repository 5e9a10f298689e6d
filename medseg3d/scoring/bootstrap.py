"""Bootstrap intervals of the mean over cases, by resampling whole patients.

Cases of one patient resemble each other, so patients are drawn, each with all of its cases
(the cluster bootstrap). The same seed draws the same patients for every column and label, which
makes their intervals comparable.
"""

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]

LEVEL, RESAMPLES, SEED = 0.95, 2000, 0
"""Defaults: share of intervals that hold the true mean, resamples, start of the generator."""

NORMAL = NormalDist()
ROUNDING = 1e-12
"""Relative; means that differ by less are the same mean, summed in another order."""


def interval(
    values: Sequence[float] | Floats,
    groups: Sequence[str],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float]:
    """Confidence interval of the mean of values that come in groups.

    The interval is bias-corrected and accelerated (BCa) [1]_, with the jackknife over groups;
    where the correction is undefined, the percentiles of the resampled means are taken.

    Args:
        values: One per case, in any unit; ``nan`` is left out.
        groups: Whom each value is of, usually the patient.
        level: Wanted coverage, in ``(0, 1)``.
        resamples: How often groups are drawn anew.
        seed: Start of the random generator.

    Returns:
        Lower and upper bound in the unit of the values. ``(nan, nan)`` with fewer than two
        groups, which say nothing about other patients; ``(v, v)`` if all values are ``v``.

    Raises:
        ConfigError: If the level or the number of resamples is impossible.
        DataError: If values and groups are not one each, or a value is infinite.

    References:
        .. [1] Efron, "Better bootstrap confidence intervals", J. Am. Stat. Assoc. 82, 1987.
           https://doi.org/10.1080/01621459.1987.10478410

    Examples:
        >>> low, high = interval([0.9, 0.8, 0.7, 0.8], ["ann", "ann", "bob", "cy"])
        >>> round(low, 6), round(high, 6)
        (0.7, 0.85)
        >>> interval([0.9, 0.8], ["ann", "ann"])
        (nan, nan)
    """
    _expect_possible(level, resamples)
    data, names = _expect_pairs(values, groups)
    if np.isinf(data).any():
        raise DataError("an infinite value has no mean; replace it by the worst finite value")
    defined = ~np.isnan(data)
    data, names = data[defined], names[defined]
    if len(set(names.tolist())) < 2:
        return float("nan"), float("nan")
    if data.min() == data.max():
        return float(data[0]), float(data[0])
    sums, sizes = _totals(data, names)
    means = _means(sums, sizes, resamples, seed)
    tail = (1 - level) / 2
    bounds = np.quantile(means, _corrected((tail, 1 - tail), means, sums, sizes))
    low, high = bounds.clip(data.min(), data.max())  # rounding must not lead out of the data
    return float(low), float(high)


def resampled_means(
    values: Floats, groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Floats:
    """Mean of each column in every resample of the groups, all columns on the same draw.

    Args:
        values: Finite values, ``(N, M)``: one row per case.
        groups: Whom each row is of.
        resamples: How often groups are drawn anew.
        seed: Start of the random generator.

    Returns:
        Means, ``(resamples, M)``.

    Raises:
        ConfigError: If the number of resamples is impossible.
        DataError: If rows and groups are not one each, there are none, or a value is not finite.
    """
    _expect_possible(LEVEL, resamples)
    data, names = _expect_pairs(values, groups)
    if not len(data) or not np.isfinite(data).all():
        raise DataError("means are resampled of finite values, at least one; leave out the others")
    return _means(*_totals(data, names), resamples, seed)


def _expect_possible(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval must lie between 0 and 1, got {level}")
    if resamples < 1:
        raise ConfigError(f"at least 1 resample is needed, got {resamples}; 2000 is usual")


def _expect_pairs(
    values: Sequence[float] | Floats, groups: Sequence[str]
) -> tuple[Floats, npt.NDArray[Any]]:
    data, names = np.asarray(values, dtype=np.float64), np.asarray(groups, dtype=np.str_)
    if names.ndim != 1 or data.shape[:1] != names.shape:
        raise DataError(
            f"{len(data)} values and {len(names)} groups were given; each value needs the name "
            "of its group"
        )
    return data, names


def _totals(data: Floats, names: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Sum of the values of each group, ``(G, ...)``, and how many these are, ``(G,)``."""
    order = np.argsort(names, kind="stable")
    _, starts, sizes = np.unique(names[order], return_index=True, return_counts=True)
    return np.add.reduceat(data[order], starts, axis=0), sizes.astype(np.float64)


def _means(sums: Floats, sizes: Floats, resamples: int, seed: int) -> Floats:
    """Mean over the cases of every resample, ``(resamples, ...)``."""
    times = _draws(len(sizes), resamples, seed).astype(np.float64)
    cases = times @ sizes
    means: Floats = (times @ sums) / (cases if sums.ndim == 1 else cases[:, None])
    return means


@lru_cache(maxsize=8)
def _draws(groups: int, resamples: int, seed: int) -> npt.NDArray[np.uint16]:
    """How often each of the groups is drawn in each resample, ``(resamples, groups)``."""
    drawn = np.random.default_rng(seed).integers(0, groups, (resamples, groups))
    drawn += np.arange(0, resamples * groups, groups)[:, None]
    times = np.bincount(drawn.ravel(), minlength=resamples * groups)
    return times.reshape(resamples, groups).astype(np.uint16)


def _corrected(
    tails: tuple[float, float], means: Floats, sums: Floats, sizes: Floats
) -> tuple[float, float]:
    """The quantiles of the resampled means at which a BCa interval ends."""
    estimate = sums.sum() / sizes.sum()
    same = ROUNDING * np.abs(means).max()
    below = np.count_nonzero(means < estimate - same) + np.count_nonzero(means <= estimate + same)
    share = below / (2 * len(means))
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    gaps = without.mean() - without
    spread = float((gaps**2).sum())
    if not 0 < share < 1 or spread == 0:
        return tails
    bias = NORMAL.inv_cdf(share)
    acceleration = float((gaps**3).sum()) / (6 * spread**1.5)
    low, high = (bias + NORMAL.inv_cdf(tail) for tail in tails)
    if max(acceleration * low, acceleration * high) >= 1:
        return tails
    return (
        NORMAL.cdf(bias + low / (1 - acceleration * low)),
        NORMAL.cdf(bias + high / (1 - acceleration * high)),
    )
