"""What of a comparison of models goes into its figure."""

from collections.abc import Sequence

from medseg3d.report.comparison_figure import Estimate, Form, Panel, draw_comparison
from medseg3d.scoring.comparison import Comparison
from medseg3d.scoring.comparison_text import heading
from medseg3d.scoring.measures import Measure

PREFERRED = ("dice", "surface_dice", "hausdorff_95", "|volume_difference")
"""Beginnings of the names of those that say most together."""

MOST_PANELS = 4


def draw(comparison: Comparison, *, form: Form) -> bytes:
    """The figure of a comparison: up to four metrics, with their labels and subgroups."""
    alpha = round(1 - comparison.level, 9)
    caption = (
        f"dots: mean difference; lines: {100 * comparison.level:g} % bootstrap interval over "
        f"patients; filled: interval without 0 and Holm-corrected signed-rank p < {alpha:g}"
    )
    chosen = worth_a_panel(comparison.paired.measures)
    return draw_comparison(
        [_panel(comparison, measure) for measure in chosen], caption=caption, form=form
    )


def worth_a_panel(measures: Sequence[Measure]) -> list[Measure]:
    """The metrics to draw, in their order: the preferred ones, then others until it is full."""
    chosen: list[Measure] = []
    for beginning in PREFERRED:
        chosen += [each for each in measures if each.name.startswith(beginning)][:1]
    chosen += [measure for measure in measures if measure not in chosen]
    return [measure for measure in measures if measure in chosen[:MOST_PANELS]]


def _panel(comparison: Comparison, measure: Measure) -> Panel:
    """The mean of a measure and its subgroups, then the labels; one label and its subgroups."""
    headline = comparison.paired.headline
    estimates = []
    for each in sorted(comparison.differences, key=lambda each: each.subject.label != headline):
        subject = each.subject
        is_detail = subject.attribute and subject.label != headline
        if subject.measure != measure or is_detail:
            continue
        estimates.append(
            Estimate(
                row=f"{subject.attribute}: {subject.group}" if subject.attribute else subject.name,
                first=each.first,
                second=each.second,
                value=each.difference,
                low=each.low,
                high=each.high,
                is_shown=bool(each.favors),
            )
        )
    shares = {}
    for ranking in comparison.rankings:
        if ranking.subject.measure == measure and ranking.subject.label == headline:
            is_high = measure.better == "higher"
            best_first = sorted(ranking.means, key=lambda m: ranking.means[m], reverse=is_high)
            shares = {model: ranking.shares[model] for model in best_first}
    return Panel(heading(measure), measure.better, estimates, shares)
