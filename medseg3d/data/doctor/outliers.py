"""Which of many numbers lie far from the others."""

from collections.abc import Mapping

import numpy as np

FEWEST = 8
"""With fewer cases nothing is usual."""

FAR = 6.0
"""Robust standard deviations from the median; a normal distribution has 2 in 1e9 beyond."""

MOST = 1 / 8
"""Share of the cases that can be outliers."""

SD_OF_MAD = 1.4826


def outliers(values: Mapping[str, float], *, least: float = 0.0) -> dict[str, float]:
    """Those values that lie far from the median, measured by the median absolute deviation.

    Args:
        values: Number by case.
        least: Smallest distance from the median that counts, for sets that hardly vary.

    Returns:
        Robust standard deviations from the median by case, negative below it; nothing for
        fewer than ``FEWEST`` values, nor where so many are far that they are a second kind.

    Examples:
        >>> spacings = {f"case{n}": 1.0 + n / 100 for n in range(9)} | {"thick": 5.0}
        >>> list(outliers(spacings))
        ['thick']
    """
    if len(values) < FEWEST:
        return {}
    table = np.asarray(list(values.values()), dtype=np.float64)
    median = float(np.median(table))
    spread = max(SD_OF_MAD * float(np.median(np.abs(table - median))), least / FAR, 1e-12)
    far = {
        case: (value - median) / spread
        for case, value in values.items()
        if abs(value - median) > FAR * spread
    }
    return far if len(far) <= max(1, MOST * len(values)) else {}
