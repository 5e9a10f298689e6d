"""Whether paired differences may be chance: Wilcoxon's test, its effect size, Holm's correction."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError

Floats = npt.NDArray[np.float64]

DECIMALS = 9
"""Differences that agree so far are ties, those that round to zero are none."""

MOST_EXACT = 50
"""Differences up to which the p value is exact, ties included; above it is asymptotic."""


def signed_rank(differences: Sequence[float] | Floats) -> tuple[float, float]:
    """Wilcoxon signed-rank test [1]_ and matched-pairs rank-biserial correlation [2]_.

    Differences of zero are left out, as Wilcoxon did. Ties share the mean of their ranks. Up to
    50 differences the p value counts all assignments of signs to the ranks that occur, so that
    it is exact with ties too; above, it is SciPy's normal approximation with tie correction.

    Args:
        differences: One per independent unit (patient), in any unit; ``nan`` is left out.

    Returns:
        Two-sided p value, and the effect ``(W+ - W-) / (W+ + W-)`` in ``[-1, 1]``: 1 if every
        difference is positive. ``(1, 0)`` if all are zero, ``(nan, nan)`` if there are none.

    Raises:
        DataError: If a difference is infinite.

    References:
        .. [1] Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945.
           https://doi.org/10.2307/3001968
        .. [2] Kerby, "The simple difference formula", Comprehensive Psychology 3, 2014.
           https://doi.org/10.2466/11.IT.3.1

    Examples:
        >>> signed_rank([1.0, 2.0, 3.0, -4.0, 5.0])
        (0.4375, 0.4666666666666667)
    """
    data = np.round(np.asarray(differences, dtype=np.float64), DECIMALS)
    data = data[~np.isnan(data)]
    if np.isinf(data).any():
        raise DataError("an infinite difference has no rank; use the worst finite values")
    if not data.size:
        return float("nan"), float("nan")
    data = data[data != 0]
    if not data.size:
        return 1.0, 0.0
    ranks = _ranks(np.abs(data))
    positive = float(ranks[data > 0].sum())
    negative = float(ranks.sum()) - positive
    effect = (positive - negative) / (positive + negative)
    if data.size <= MOST_EXACT:
        return _exact(ranks, positive), effect
    from scipy.stats import wilcoxon

    return float(wilcoxon(data).pvalue), effect


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number, so that the chance of any false finding is bounded.

    The ``k``-th smallest of ``m`` is multiplied by ``m - k + 1``; none gets smaller than one
    before it, none larger than 1 [1]_.

    Args:
        p_values: Of one family of tests; ``nan`` (no test) stays and is not counted.

    References:
        .. [1] Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6,
           1979. https://www.jstor.org/stable/4615733

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")  # nan comes last
    tested = int(np.count_nonzero(~np.isnan(p)))
    corrected = np.full(len(p), np.nan)
    factors = np.arange(tested, 0, -1)
    steps = np.maximum.accumulate(p[order[:tested]] * factors)
    corrected[order[:tested]] = steps.clip(max=1.0)
    return [float(value) for value in corrected]


def _ranks(sizes: Floats) -> Floats:
    """Ranks from 1, ties at their mean; all are multiples of a half."""
    _, place, times = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(times)
    mean: Floats = (last - (times - 1) / 2)[place]
    return mean


def _exact(ranks: Floats, positive: float) -> float:
    """Twice the smaller tail of the sum of the positive ranks over all 2^n assignments."""
    doubled = np.rint(2 * ranks).astype(np.int64)
    ways = np.zeros(int(doubled.sum()) + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[:-rank]  # the right side is made before it is stored
    share = ways / ways.sum()
    found = round(2 * positive)
    return min(1.0, 2 * float(min(share[: found + 1].sum(), share[found:].sum())))
