"""Columns of tables of scores: which metric a heading tells, and its unit in words."""

import re
from functools import cache

from medseg3d.metrics import METRICS

DECIMALS = {"1": 3, "mm": 2, "mL": 2, "%": 1}
"""How many a value in each unit deserves."""

VALUE = "[0-9.e+-]+"


def unit_word(unit: str) -> str:
    """A unit as headings spell it; nothing for numbers without one."""
    return {"1": "", "%": "percent"}.get(unit, unit.lower())


def metric_of(column: str) -> str | None:
    """Name of the metric of two masks that makes a column, or None if there is none.

    Examples:
        >>> metric_of("surface_dice_1mm"), metric_of("hausdorff_95_mm_pooled")
        ('surface_dice', 'hausdorff_95')
        >>> metric_of("surface_dice_xmm") is None
        True
    """
    matches = ((pattern.match(column), metric) for metric, pattern in _patterns().items())
    found = [(match.end(), metric) for match, metric in matches if match]
    return max(found)[1] if found else None


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """How the columns of each metric of two masks begin."""
    return {
        metric: re.compile(re.sub("{.+?}", VALUE, METRICS.facts(metric)["column"]) + "(?=_|$)")
        for metric in METRICS
        if METRICS.facts(metric).get("of") == "masks"
    }
