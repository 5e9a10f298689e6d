"""The columns of a table of scores: metrics of two masks or label maps, with their options."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from string import Formatter
from typing import Any, cast

import numpy as np

from medseg3d.config.options import Part
from medseg3d.errors import ConfigError, MedSeg3DError
from medseg3d.metrics import METRICS
from medseg3d.metrics.confusion import Confusion
from medseg3d.metrics.masks import Better, MaskMetric, MaskPair

DEFAULT = (
    "dice",
    "iou",
    "precision",
    "recall",
    "volume_similarity",
    "hausdorff",
    "hausdorff_95",
    "assd",
    "masd",
    "surface_dice",
    "volume_difference",
)
"""Metrics of a table unless others are asked for."""

TOLERANCES_MM = (1.0, 2.0)
"""Distances at which the surface Dice is given."""

USABLE = ("masks", "labels")
"""What the metrics of a table are of."""

VARIANTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "lesion_f1": ({"rule": "overlap"}, {"rule": "iou", "threshold": 0.1})
}
"""Options with which a metric is given that is asked for without any, a column each."""


@dataclass(frozen=True)
class Column:
    """One metric with its options, as it stands in a table.

    Attributes:
        name: Heading of the column.
        metric: Registered name of the metric.
        options: What is passed to it, beside the masks.
    """

    name: str
    metric: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_of_case(self) -> bool:
        """Whether it is one of a whole label map, with one value per case."""
        return bool(METRICS.facts(self.metric)["of"] == "labels")

    @property
    def unit(self) -> str:
        """``"1"``, ``"mm"``, ``"mL"`` or ``"%"``."""
        return str(METRICS.facts(self.metric)["unit"])

    @property
    def better(self) -> Better:
        """Which values are the better ones: ``"higher"``, ``"lower"`` or those near ``"zero"``."""
        return cast(Better, METRICS.facts(self.metric)["better"])

    @property
    def definition(self) -> str:
        """What the numbers are, with the options that make a difference."""
        text = str(METRICS.facts(self.metric)["definition"])
        told = ", ".join(f"{key} = {_shown(value)}" for key, value in self.options.items())
        return f"{text}; {told}" if told else text

    @property
    def source(self) -> str:
        """Paper or other origin of the definition."""
        return str(METRICS.facts(self.metric)["source"])

    def score(self, found: MaskPair | Confusion, **common: Any) -> float:
        """The metric of two masks, or of two label maps.

        Args:
            found: The masks of one label; for a metric of label maps, their confusion matrix.
            **common: Options for all metrics that know them, unless the column has its own.

        Raises:
            ConfigError: If an option has a value that cannot be used.
        """
        metric = _metric(self.metric)
        known = _defaults(self.metric)
        shared = {key: value for key, value in common.items() if key in known}
        return float(metric(found, **(shared | dict(self.options))))


def columns(
    parts: Sequence[Part] | None = None, *, tolerances_mm: Sequence[float] = TOLERANCES_MM
) -> tuple[Column, ...]:
    """The columns of a table.

    Args:
        parts: Metrics by name, with options; by default the usual ones.
        tolerances_mm: Distances in mm for every metric that has a tolerance and is asked for
            without one: a column each.

    Raises:
        ConfigError: If a metric or an option is unknown, a metric is not one of masks or
            label maps, a value cannot be used, or two columns would be the same.

    Examples:
        >>> [column.name for column in columns([Part(name="hausdorff_95"), Part(name="dice")])]
        ['hausdorff_95_mm', 'dice']
        >>> [column.name for column in columns([Part(name="surface_dice")], tolerances_mm=[2.5])]
        ['surface_dice_2.5mm']
        >>> [column.name for column in columns([Part(name="lesion_f1")])]
        ['lesion_f1', 'lesion_f1_rule_iou']
    """
    asked = [Part(name=name) for name in DEFAULT] if parts is None else parts
    found = tuple(column for part in asked for column in _columns(part, tolerances_mm))
    twice = [name for name, times in Counter(column.name for column in found).items() if times > 1]
    if twice:
        raise ConfigError(f"the column {twice[0]} is asked for twice; leave one of them out")
    if not found:
        raise ConfigError("no metric is asked for; name at least one, such as dice")
    return found


def _columns(part: Part, tolerances_mm: Sequence[float]) -> Iterator[Column]:
    """The column of a metric, or one for each tolerance or variant."""
    known = _defaults(part.name)
    for option in part.options:
        if option not in known:
            close = get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"metric {part.name!r} has no option {option!r}; {hint}"
                f"valid options: {', '.join(known) or 'none'}"
            )
    variants: Sequence[Mapping[str, Any]] = [{}]
    if "tolerance" in known and "tolerance" not in part.options:
        variants = [{"tolerance": tolerance} for tolerance in tolerances_mm]
    elif not part.options:
        variants = VARIANTS.get(part.name, variants)
    for options in variants:
        yield _column(part.name, {**part.options, **options})


def _column(metric: str, options: Mapping[str, Any]) -> Column:
    """One column, tried on two masks of a voxel so that a wrong value is told before the work."""
    column = Column(_heading(metric, options), metric, dict(options))
    if not options:
        return column
    voxel = np.ones((1, 1, 1), dtype=np.bool_)
    masks = MaskPair(voxel, voxel, (1.0, 1.0, 1.0))
    try:
        column.score(np.ones((1, 1), dtype=np.int64) if column.is_of_case else masks)
    except MedSeg3DError as error:
        raise ConfigError(f"metric {metric!r}: {error}") from error
    except (TypeError, ValueError, KeyError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ConfigError(f"metric {metric!r} cannot be used with {given}: {error}") from error
    return column


def _metric(name: str) -> Callable[..., float]:
    """The metric of that name, of a pair of masks or a confusion matrix.

    Raises:
        ConfigError: If there is none, or it is one of something else.
    """
    kind = METRICS.facts(name)["of"]
    if kind not in USABLE:
        usable = [other for other in METRICS if METRICS.facts(other)["of"] in USABLE]
        raise ConfigError(
            f"metric {name!r} is one of {kind}, not of {' or '.join(USABLE)}, and cannot be "
            f"a column; choose from {', '.join(usable)}"
        )
    metric = METRICS[name]
    return metric.of if isinstance(metric, MaskMetric) else metric


@cache
def _defaults(name: str) -> dict[str, Any]:
    """Options of a metric with their defaults."""
    _, *parameters = inspect.signature(_metric(name)).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def _heading(metric: str, options: Mapping[str, Any]) -> str:
    """Name of a column: the metric's own, and the options that it does not tell."""
    template = str(METRICS.facts(metric)["column"])
    told = {place for _, place, _, _ in Formatter().parse(template) if place}
    defaults = _defaults(metric)
    try:
        heading = template.format(**(defaults | dict(options)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metric {metric!r} cannot be used with {dict(options)}") from error
    for key, value in options.items():
        if key not in told and value != defaults[key]:
            heading += f"_{key}" if value is True else f"_{key}_{_shown(value)}"
    return heading


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
