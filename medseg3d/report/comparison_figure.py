"""Figure of a comparison of models: differences with their intervals, and shares of ranks."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medseg3d.io.atomic import spelled_out

Form = Literal["png", "svg"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by color-blind readers too (Okabe and Ito)."""

RANKS = "viridis"
PANEL_INCHES, ROW_INCHES, BAR_INCHES = 3.6, 0.26, 0.3
MOST_ROWS = 40
MOST_LETTERS = 28
DPI = 150


@dataclass(frozen=True)
class Estimate:
    """A difference between two models.

    Attributes:
        row: What it is about: a label or a subgroup.
        first: Name of the first model.
        second: Name of the second.
        value: Second minus first.
        low: Lower bound of its interval; ``nan`` if there is none.
        high: Upper bound.
        is_shown: Whether it is more than chance would make; its mark is then filled.
    """

    row: str
    first: str
    second: str
    value: float
    low: float
    high: float
    is_shown: bool


@dataclass(frozen=True)
class Panel:
    """One metric.

    Attributes:
        title: Its name and unit.
        better: Which values are the better ones.
        estimates: Differences, from top to bottom.
        shares: By model, the share of resamples in which it has each rank, the best model
            first; empty for none.
    """

    title: str
    better: Literal["higher", "lower"]
    estimates: Sequence[Estimate]
    shares: Mapping[str, Sequence[float]]


def draw_comparison(panels: Sequence[Panel], *, caption: str = "", form: Form = "png") -> bytes:
    """Draw one column per metric: intervals of the differences above, shares of ranks below.

    Args:
        panels: At least one metric.
        caption: What the marks mean, written below.
        form: Kind of picture.

    Returns:
        The file.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(each.row for panel in panels for each in panel.estimates))
    if (left := len(rows) - MOST_ROWS) > 0:
        rows = rows[:MOST_ROWS]
        caption = f"{caption}; {left} more in the table" if caption else f"{left} more in the table"
    pairs = list(
        dict.fromkeys((each.first, each.second) for panel in panels for each in panel.estimates)
    )
    num_models = max(len(panel.shares) for panel in panels)
    heights = [
        1.2 + ROW_INCHES * len(rows) * max(1.0, 0.6 * len(pairs)),
        0.9 + BAR_INCHES * num_models,
    ]
    settings: dict[Any, Any] = {
        "font.size": 8,
        "text.parse_math": False,  # names may hold dollar signs
        "svg.hashsalt": "medseg3d",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(
            figsize=(1.6 + PANEL_INCHES * len(panels), sum(heights)), layout="constrained"
        )
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(panels), height_ratios=heights, squeeze=False)
        for panel, (above, below) in zip(panels, axes.T, strict=True):
            is_left = panel is panels[0]
            _draw_differences(above, panel, rows, pairs, is_left=is_left)
            _draw_shares(below, panel)
        if len(pairs) > 1:
            figure.legend(
                *axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3
            )
        if caption:
            figure.supxlabel(caption, fontsize=7, color="0.35")
        buffer = io.BytesIO()
        dated = {"Date": None} if form == "svg" else {}
        figure.savefig(buffer, format=form, dpi=DPI, metadata=dated)
    return buffer.getvalue()


def _draw_differences(
    axis: Any,
    panel: Panel,
    rows: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    is_left: bool,
) -> None:
    axis.set_title(panel.title, fontsize=9)
    axis.axvline(0, color="0.6", linewidth=0.8)
    for number, (first, second) in enumerate(pairs):
        color = COLORS[number % len(COLORS)]
        shift = 0.0 if len(pairs) == 1 else 0.6 * (number / (len(pairs) - 1) - 0.5)
        drawn = f"{_short(second)} minus {_short(first)}"
        for each in panel.estimates:
            if (each.first, each.second) != (first, second) or each.row not in rows:
                continue
            at = rows.index(each.row) + shift
            if not math.isnan(each.low):
                axis.plot((each.low, each.high), (at, at), color=color, linewidth=1.4)
            face = color if each.is_shown else "white"
            axis.plot(
                *((each.value,), (at,)),
                **{"marker": "o", "markersize": 5, "color": color, "linestyle": "none"},
                markerfacecolor=face,
                label=drawn,
            )
            drawn = "_nolegend_"
    for place in range(1, len(rows)):
        axis.axhline(place - 0.5, color="0.92", linewidth=0.8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(
        range(len(rows)), [_short(row) for row in rows] if is_left else [""] * len(rows)
    )
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)
    names = pairs[0] if len(pairs) == 1 else ("first", "second")
    left, right = names if panel.better == "higher" else names[::-1]
    axis.set_xlabel(
        f"\N{LEFTWARDS ARROW} {_short(left)} better   |   "
        f"{_short(right)} better \N{RIGHTWARDS ARROW}"
    )


def _draw_shares(axis: Any, panel: Panel) -> None:
    """Bars of the ranks, rank 1 darkest and leftmost."""
    from matplotlib import colormaps

    if not panel.shares:
        axis.set_axis_off()
        return
    ranks = len(next(iter(panel.shares.values())))
    places = range(len(panel.shares))
    starts = [0.0] * len(panel.shares)
    for rank in range(ranks):
        widths = [shares[rank] for shares in panel.shares.values()]
        color = colormaps[RANKS](0.15 + 0.7 * rank / max(1, ranks - 1))
        axis.barh(places, widths, left=starts, color=color, height=0.7)
        for place, start, width in zip(places, starts, widths, strict=True):
            if width >= 0.12:
                axis.text(
                    *(start + width / 2, place, f"{rank + 1}"),
                    **{"ha": "center", "va": "center", "fontsize": 7},
                    color="white" if rank < ranks / 2 else "black",
                )
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axis.set_xlim(0, 1)
    axis.set_ylim(len(panel.shares) - 0.5, -0.5)
    axis.set_yticks(places, [_short(model) for model in panel.shares])
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("share of resamples at rank 1, 2, ...")


def _short(name: str) -> str:
    name = spelled_out(name)
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."
