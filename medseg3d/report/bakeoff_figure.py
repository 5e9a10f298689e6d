"""Figure of a bake-off: Dice with its interval, and what each network costs."""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

from medseg3d.io.atomic import spelled_out
from medseg3d.report.bakeoff_table import GIB, Contestant

Form = Literal["png", "svg"]

COLOR, COST_COLOR = "#0072b2", "#d55e00"
NAME_INCHES, PANEL_INCHES, ROW_INCHES = 2.0, 1.7, 0.2
MOST_LETTERS = 28
LARGE_RATIO = 20.0
"""From here on, the largest value over the smallest is drawn on a logarithmic axis."""

ROOM_FOR_THREES = 300.0
"""Below this ratio there is room for 1, 3, 10, 30 on the axis, above for 1, 10, 100."""

DPI = 130

COSTS: dict[str, Callable[[Contestant], float]] = {
    "HD95, mm": lambda one: one.hausdorff_95_mm,
    "parameters, million": lambda one: one.parameters / 1e6,
    "GFLOP per patch": lambda one: one.gflop_per_patch,
    "seconds per case": lambda one: one.seconds_per_case,
    "GiB in training": lambda one: one.training_memory / GIB,
}
"""What is drawn beside the Dice; less is better."""


def draw_bakeoff(contestants: Sequence[Contestant], *, form: Form = "png") -> bytes:
    """Draw one row per network, in the order given, and one column per measure.

    Args:
        contestants: At least one, all of them done.
        form: Kind of picture.

    Returns:
        The file.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "font.size": 8,
        "text.parse_math": False,  # names may hold dollar signs
        "svg.hashsalt": "medseg3d",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    size = (
        NAME_INCHES + PANEL_INCHES * (1 + len(COSTS)),
        0.9 + ROW_INCHES * max(4, len(contestants)),
    )
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 1 + len(COSTS), sharey=True)
        _draw_dice(axes[0], contestants)
        for axis, (title, cost) in zip(axes[1:], COSTS.items(), strict=True):
            _draw_cost(axis, title, [cost(one) for one in contestants])
        places = range(len(contestants))
        axes[0].set_yticks(places, [_short(one.network) for one in contestants])
        axes[0].set_ylim(len(contestants) - 0.4, -0.6)
        for axis in axes:
            axis.tick_params(axis="y", length=0)
            axis.grid(color="0.92")
        buffer = io.BytesIO()
        dated = {"Date": None} if form == "svg" else {}
        figure.savefig(buffer, format=form, dpi=DPI, metadata=dated)
    return buffer.getvalue()


def _draw_dice(axis: Any, contestants: Sequence[Contestant]) -> None:
    axis.set_title("Dice, 95 % interval", fontsize=8)
    for place, one in enumerate(contestants):
        if not math.isnan(one.dice_low):
            axis.plot((one.dice_low, one.dice_high), (place, place), color=COLOR, linewidth=1.2)
        axis.plot((one.dice,), (place,), marker="o", markersize=4, color=COLOR)
    axis.set_xlim(right=1)


def _draw_cost(axis: Any, title: str, values: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_title(title, fontsize=8)
    axis.plot(values, range(len(values)), "o", markersize=4, color=COST_COLOR)
    known = [value for value in values if math.isfinite(value) and value > 0]
    ratio = max(known) / min(known) if known else 1.0
    if ratio > LARGE_RATIO:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3) if ratio < ROOM_FOR_THREES else (1,)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    elif known:
        axis.set_xlim(0, 1.1 * max(known))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _short(name: str) -> str:
    name = spelled_out(name)
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."
