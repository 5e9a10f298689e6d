"""What the page says about a column of scores, told from the column's name."""

import re
from typing import Any

from medseg3d.metrics import METRICS
from medseg3d.metrics.columns import DECIMALS, metric_of, unit_word

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "hausdorff_95": "HD95",
    "assd": "ASSD",
    "masd": "MASD",
    "surface_dice": "Surface Dice",
    "boundary_iou": "Boundary IoU",
    "cldice": "clDice",
}
"""Names of metrics that are not just their words."""

COARSE = ("hausdorff", "hausdorff_95")
"""Distances between single voxels, for which one decimal says all."""


def column_facts(name: str) -> dict[str, Any] | None:
    """Title, unit, direction and decimals of a column, or None if no metric makes such a one.

    Examples:
        >>> column_facts("surface_dice_1mm")["title"], column_facts("hausdorff_95_mm")["title"]
        ('Surface Dice 1 mm', 'HD95')
        >>> column_facts("prediction_ml") is None
        True
    """
    metric = metric_of(name)
    if metric is None:
        return None
    facts = METRICS.facts(metric)
    unit = str(facts["unit"])
    options = name.removeprefix(metric).removeprefix(f"_{unit_word(unit)}").replace("_", " ")
    options = re.sub(r"(\d)mm\b", r"\1 mm", options.strip())
    title = TITLES.get(metric) or metric.replace("_", " ").capitalize()
    return {
        "name": name,
        "title": f"{title} {options}".rstrip(),
        "unit": "" if unit == "1" else unit,
        "better": facts["better"],
        "decimals": 1 if metric in COARSE else DECIMALS.get(unit, 3),
    }
