"""The columns of a table of scores as models are compared by them."""

from dataclasses import dataclass
from typing import Literal

from medseg3d.metrics import METRICS
from medseg3d.metrics.columns import metric_of

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
    metric = metric_of(column)
    if metric is None:
        return None
    facts = METRICS.facts(metric)
    if facts["better"] == "zero":
        return Measure(f"|{column}|", column, facts["unit"], "lower")
    return Measure(column, column, facts["unit"], facts["better"])
