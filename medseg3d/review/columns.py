"""What the page says about a column of scores, told from the column's name."""

import re
from functools import cache
from string import Formatter
from typing import Any

from medseg3d.metrics import METRICS

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "hausdorff_95": "HD95",
    "assd": "ASSD",
    "masd": "MASD",
    "surface_dice": "Surface Dice",
    "boundary_iou": "Boundary IoU",
    "cl_dice": "clDice",
}
"""Names of metrics that are not just their words."""

DECIMALS = {"1": 3, "mm": 2, "mL": 2, "%": 1}
COARSE = ("hausdorff", "hausdorff_95")
"""Distances between single voxels, for which one decimal says all."""

VALUE = r"[\d.e+-]+"


def column_facts(name: str) -> dict[str, Any] | None:
    """Title, unit, direction and decimals of a column, or None if no metric makes such a one.

    Examples:
        >>> column_facts("surface_dice_1mm")["title"], column_facts("hausdorff_95_mm")["title"]
        ('Surface Dice 1 mm', 'HD95')
        >>> column_facts("prediction_ml") is None
        True
    """
    fitting = [metric for metric, pattern in _patterns().items() if pattern.match(name)]
    if not fitting:
        return None
    metric = max(fitting, key=len)
    facts = METRICS.facts(metric)
    unit = str(facts["unit"])
    rest = name.removeprefix(metric).strip("_")
    if rest.lower() == unit.lower():
        rest = ""
    rest = re.sub(r"(\d)(mm|ml)\b", r"\1 \2", rest.replace("_", " "))
    title = TITLES.get(metric) or metric.replace("_", " ").capitalize()
    return {
        "name": name,
        "title": f"{title} {rest}".rstrip(),
        "unit": "" if unit == "1" else unit,
        "better": facts["better"],
        "decimals": 1 if metric in COARSE else DECIMALS.get(unit, 3),
    }


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """How the columns of each metric of two masks begin."""
    return {
        metric: re.compile(_pattern(str(METRICS.facts(metric)["column"])) + r"(?=_|$)")
        for metric in METRICS
        if METRICS.facts(metric).get("of") == "masks"
    }


def _pattern(template: str) -> str:
    parts = Formatter().parse(template)
    return "".join(re.escape(text) + (VALUE if place else "") for text, place, _, _ in parts)
