"""A comparison of models on the terminal."""

import math
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medseg3d.metrics.columns import DECIMALS, unit_word
from medseg3d.scoring.comparison import Comparison, Difference
from medseg3d.scoring.measures import Measure, Subject
from medseg3d.scoring.ranking import Ranking

MARKS = (
    "mean: over the labels of each case; difference: of the means over n cases, with its bootstrap "
    "interval over patients; p: Wilcoxon signed-rank, Holm-corrected; effect: rank-biserial "
    "correlation; better: the better model, where that is shown"
)
LEAST_P = 0.001


def comparison_text(comparison: Comparison) -> RenderableType:
    """The mean over labels of every metric, and labels and subgroups of the first metric.

    The files hold the rest.
    """
    parts: list[RenderableType] = []
    pairs = dict.fromkeys((each.first, each.second) for each in comparison.differences)
    for pair in pairs:
        of_pair = [each for each in comparison.differences if (each.first, each.second) == pair]
        parts.append(_difference_table(comparison, of_pair))
    parts.append(Text(MARKS, style="italic"))
    told = [each for each in comparison.rankings if _is_headline(comparison, each.subject)]
    if told:
        title = "rank by the mean (share of the resamples of patients in which it is the same)"
        parts += [Text(f"\n{title}", style="italic"), _ranking_table(told)]
    return Group(*parts)


def p_text(p: float) -> str:
    """A p value as papers print it.

    Examples:
        >>> p_text(0.04319), p_text(0.00012), p_text(float("nan"))
        ('0.043', '<0.001', '-')
    """
    if math.isnan(p):
        return "-"
    return f"<{LEAST_P}" if p < LEAST_P else f"{p:.3f}"


def number_text(value: float, measure: Measure, *, signed: bool = False) -> str:
    """A value with the decimals that its unit deserves."""
    if math.isnan(value):
        return "-"
    return f"{value:{'+' if signed else ''}.{DECIMALS.get(measure.unit, 3)}f}"


def _is_headline(comparison: Comparison, subject: Subject) -> bool:
    """Whether this is the one result for all labels of its measure and subgroup."""
    return subject.label == comparison.paired.headline


def _difference_table(comparison: Comparison, of_pair: Sequence[Difference]) -> Table:
    first, second = of_pair[0].first, of_pair[0].second
    level = f"{100 * comparison.level:g} %"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(f"{second} minus {first}"),
        title_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    for heading in ("metric", "label"):
        table.add_column(heading, overflow="fold")
    table.add_column("n", justify="right")
    for name in (first, second):
        table.add_column(Text(name), justify="right", overflow="fold")
    for name in ("difference", f"{level} interval", "p", "effect"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("better", overflow="fold")
    overall = [each for each in of_pair if not each.subject.attribute]
    headlines = [each for each in overall if _is_headline(comparison, each.subject)]
    lead = comparison.paired.measures[0]
    labels = [each for each in overall if each.subject.measure == lead and each not in headlines]
    groups = [
        each
        for each in of_pair
        if each.subject.attribute
        and each.subject.measure == lead
        and _is_headline(comparison, each.subject)
    ]
    for section in (headlines, labels, groups):
        for each in section:
            table.add_row(*map(Text, _cells(each)), style="bold" if each.favors else "")
        table.add_section()
    return table


def _cells(each: Difference) -> list[str]:
    measure, subject = each.subject.measure, each.subject
    name = "mean" if subject.label is None else subject.name
    if subject.attribute:
        name = f"{subject.attribute}: {subject.group}"
    interval = f"{number_text(each.low, measure, signed=True)} to "
    interval += number_text(each.high, measure, signed=True)
    return [
        heading(measure),
        name,
        str(each.num_cases),
        number_text(each.mean_first, measure),
        number_text(each.mean_second, measure),
        number_text(each.difference, measure, signed=True),
        "-" if math.isnan(each.low) else interval,
        p_text(each.p_holm),
        "-" if math.isnan(each.effect) else f"{each.effect:+.2f}",
        each.favors,
    ]


def heading(measure: Measure) -> str:
    """Name of a measure, with its unit where the name does not tell it.

    Examples:
        >>> heading(Measure("dice", "dice", "1", "higher"))
        'dice'
    """
    tells = unit_word(measure.unit) in ("", *measure.name.strip("|").split("_"))
    return measure.name if tells else f"{measure.name}, {measure.unit}"


def _ranking_table(rankings: Sequence[Ranking]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", overflow="fold")
    for model in rankings[0].means:
        table.add_column(Text(model), justify="right", overflow="fold")
    for each in rankings:
        ranks = ranks_of(each)
        cells = [
            f"{rank} ({100 * each.shares[model][rank - 1]:.0f} %)" for model, rank in ranks.items()
        ]
        table.add_row(*map(Text, (heading(each.subject.measure), *cells)))
    return table


def ranks_of(ranking: Ranking) -> dict[str, int]:
    """Rank of each model by its mean; models that tie have the same.

    Examples:
        >>> dice = Measure("dice", "dice", "1", "higher")
        >>> means = {"a": 0.7, "b": 0.9, "c": 0.7}
        >>> ranks_of(Ranking(Subject(dice, 1, "liver"), 9, means, {}))
        {'a': 2, 'b': 1, 'c': 2}
    """
    sign = -1 if ranking.subject.measure.better == "higher" else 1
    costs = {model: sign * mean for model, mean in ranking.means.items()}
    return {
        model: 1 + sum(other < cost for other in costs.values()) for model, cost in costs.items()
    }
