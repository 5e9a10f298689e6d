"""The columns of a table of scores as models are compared by them."""

import re
from dataclasses import dataclass
from string import Formatter
from typing import Literal

from medseg3d.metrics import METRICS

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measure:
    """A column as it is compared.

    Attributes:
        name: Heading in results: that of the column, or ``|column|`` for absolute values.
        column: Heading in the tables of scores.
        unit: ``"1"``, ``"mm"``, ``"mL"`` or ``"%"``.
        better: Which values are the better ones.
    """

    name: str
    column: str
    unit: str
    better: Direction


@dataclass(frozen=True)
class Subject:
    """What a result is about.

    Attributes:
        measure: The column.
        label: A label value; None for the mean over the labels of each case.
        name: Name of the label.
        attribute: Attribute of the subgroup; empty for all cases.
        group: Its value.
    """

    measure: Measure
    label: int | None
    name: str
    attribute: str = ""
    group: str = ""


def measure_of(column: str) -> Measure | None:
    """How a column of a table of scores is compared; None if no metric is known to make it.

    Where values near zero are the better ones, as of a signed difference of volumes, the
    absolute values are compared.

    Examples:
        >>> measure_of("dice")
        Measure(name='dice', column='dice', unit='1', better='higher')
        >>> measure_of("age") is None
        True
    """
    found = []
    for metric in METRICS:
        facts = METRICS.facts(metric)
        template = facts.get("column") if facts.get("of") == "masks" else None
        if template and re.fullmatch(f"{_pattern(template)}(_.*)?", column):
            found.append((len(template), metric, facts))
    if not found:
        return None
    facts = max(found)[2]
    if facts["better"] == "zero":
        return Measure(f"|{column}|", column, facts["unit"], "lower")
    return Measure(column, column, facts["unit"], facts["better"])


def _pattern(template: str) -> str:
    """What a heading looks like in which options stand."""
    parts = Formatter().parse(template)
    return "".join(
        re.escape(text) + ("" if place is None else ".+?") for text, place, _, _ in parts
    )
