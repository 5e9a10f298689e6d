"""Curves as SVG text, for pages that stand alone."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 34
MOST_POINTS = 300
"""Points of a curve; more cannot be told apart at this width."""


def curves(
    title: str,
    lines: Mapping[str, tuple[str, Points]],
    *,
    across: str,
    limits: tuple[float, float] | None = None,
) -> str:
    """A chart with axes, one line for each name.

    Args:
        title: What is drawn, for those who cannot see it.
        lines: Color, and points from left to right, by name; points that are not finite are
            left out.
        across: Name of the horizontal axis.
        limits: Ends of the vertical axis; by default those of the values.
    """
    finite = {
        name: [(x, y) for x, y in thinned(points) if math.isfinite(x) and math.isfinite(y)]
        for name, (_, points) in lines.items()
    }
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return "<p>Nothing to draw yet.</p>"
    horizontal = Axis.around([x for x, _ in everything], LEFT, WIDTH - RIGHT)
    vertical = Axis.around(limits or [y for _, y in everything], HEIGHT - BOTTOM, TOP)
    drawn = [_grid(horizontal, vertical)]
    for name, points in finite.items():
        drawn.append(_line(name, lines[name][0], points, horizontal, vertical))
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(f'<text x="{middle:g}" y="{HEIGHT - 4}" {_STYLE}>{escape(across)}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" '
        f'aria-label="{escape(title)}">{"".join(drawn)}</svg>'
    )


def thinned(points: Points) -> Points:
    """At most about ``MOST_POINTS`` of the points, the last one among them."""
    step = -(-len(points) // MOST_POINTS)
    return points if step < 2 else [*points[:-1:step], points[-1]]


class Axis:
    """From values to places in the picture.

    Args:
        low: Value at ``first``.
        high: Value at ``last``; larger than ``low``.
        first: Pixel of the one end.
        last: Pixel of the other.
    """

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self._low, self._high = low, high
        self._first, self._last = first, last

    @classmethod
    def around(cls, values: Sequence[float], first: float, last: float) -> "Axis":
        """An axis that holds all values, also if they are the same."""
        low, high = min(values), max(values)
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            room = abs(low) / 2 or 1.0
            low, high = low - room, high + room
        return cls(low, high, first, last)

    def at(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)

    def ticks(self) -> list[float]:
        """Two to six round values in the range.

        Examples:
            >>> Axis(0.0, 1.0, 0, 100).ticks()
            [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
            >>> Axis(3.0, 47.0, 0, 100).ticks()
            [10.0, 20.0, 30.0, 40.0]
        """
        rough = (self._high - self._low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self._low / step - 1e-9), math.floor(self._high / step + 1e-9)
        return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


_STYLE = 'font-size="12" fill="currentColor" text-anchor="middle"'


def _grid(horizontal: Axis, vertical: Axis) -> str:
    parts = []
    for value in vertical.ticks():
        y = vertical.at(value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="currentColor" stroke-opacity="0.15"></line>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" font-size="12" fill="currentColor" '
            f'text-anchor="end">{value:.6g}</text>'
        )
    for value in horizontal.ticks():
        x = horizontal.at(value)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" {_STYLE}>{value:.6g}</text>')
    return "".join(parts)


def _line(name: str, color: str, points: Points, horizontal: Axis, vertical: Axis) -> str:
    if not points:
        return ""
    places = [f"{horizontal.at(x):.1f},{vertical.at(y):.1f}" for x, y in points]
    x, y = places[-1].split(",")
    return (
        f'<g><title>{escape(name)}</title><polyline points="{" ".join(places)}" fill="none" '
        f'stroke="{color}" stroke-width="2"></polyline>'
        f'<circle cx="{x}" cy="{y}" r="3" style="fill: {color}; fill-opacity: 1"></circle></g>'
    )
