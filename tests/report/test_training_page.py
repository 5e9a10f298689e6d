"""The training page: alone, escaped, refreshing while there is more; curves and slice by hand."""

import base64
import io
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from medseg3d.drawing import COLORS, color_of
from medseg3d.report.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    curves,
    thinned,
)
from medseg3d.report.overlay import EDGE, overlay
from medseg3d.report.training_page import (
    MOST_CURVES,
    TrainingState,
    training_page,
    write_training_page,
)

NASTY = "<script>alert(\"1\")</script> & 'x'"
VOID = {"meta", "img"}


class Balanced(HTMLParser):
    """Fails on tags that do not pair."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def rows(*labels: str, scores: tuple[float | None, ...]) -> list[dict[str, Any]]:
    """One epoch a minute; None was not validated."""
    found = []
    for minute, score in enumerate(scores, start=1):
        row: dict[str, Any] = {"minutes": float(minute), "loss": 1 / minute, "learning_rate": 0.01}
        if score is not None:
            row |= {"dice": score} | {f"dice_{label}": score for label in labels}
        found.append(row)
    return found


def state(**changes: Any) -> TrainingState:
    labels = {1: "liver", 14: NASTY}
    facts: dict[str, Any] = {
        "title": NASTY,
        "verdict": NASTY,
        "facts": [(NASTY, NASTY)],
        "labels": labels,
        "rows": rows(*labels.values(), scores=(None, 0.25, math.nan, 0.5, 0.4375)),
        "picture": b"png",
        "caption": NASTY,
    }
    return TrainingState(**facts | changes)


def test_the_page_is_whole_escaped_and_alone() -> None:
    page = training_page(state())
    parsed = Balanced(page)
    assert "script" not in parsed.seen
    assert parsed.text.count(NASTY) >= 5
    assert re.findall(r'(?:src|href)="(?!data:)|url\(|@import|https?:', page) == []
    assert base64.b64encode(b"png").decode() in page
    assert "nan" not in page


def test_it_looks_again_as_long_as_there_is_more_to_see() -> None:
    again = re.compile(r'<meta http-equiv="refresh" content="\d+">')
    assert again.search(training_page(state()))
    assert not again.search(training_page(state(goes_on=False)))


def test_the_table_has_the_last_and_the_best_dice_of_each_label() -> None:
    page = training_page(state())
    cells = re.findall(r'<td class="number">(.*?)</td>', page)
    assert cells == ["0.4375", "0.5000"] * 3
    empty = Balanced(training_page(state(rows=[], picture=None)))
    assert empty.text.count("Nothing to draw yet.") == 3
    assert "img" not in empty.seen


def test_one_label_needs_no_mean_and_many_have_no_curve_each() -> None:
    one = training_page(state(labels={1: "liver"}))
    assert "<title>liver</title>" in one
    assert "<title>mean</title>" not in one
    names = {label: f"bone {label}" for label in range(1, 41)}
    many = training_page(state(labels=names, rows=rows(*names.values(), scores=(0.5, 0.75))))
    assert many.count("<title>bone ") == MOST_CURVES
    assert "<title>mean</title>" in many
    assert many.count("0.7500") == 2 * 41


def test_a_page_appears_whole(tmp_path: Path) -> None:
    write_training_page(tmp_path / "run" / "index.html", state())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["index.html"]
    assert (tmp_path / "run" / "index.html").read_text("utf-8") == training_page(state())


def places(chart: str) -> list[list[tuple[float, float]]]:
    """Pixels of each line of a chart."""
    return [
        [tuple(map(float, place.split(","))) for place in points.split()]  # type: ignore[misc]
        for points in re.findall(r'points="(.*?)"', chart)
    ]


def test_a_curve_goes_from_corner_to_corner() -> None:
    chart = curves(
        "Dice", {"a": ("red", [(0, 0.0), (5, 0.5), (10, 1.0)])}, across="minutes", limits=(0, 1)
    )
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    middle = ((LEFT + right) / 2, (TOP + bottom) / 2)
    assert places(chart) == [[(LEFT, bottom), middle, (right, TOP)]]
    assert f'<circle cx="{right:.1f}" cy="{TOP:.1f}"' in chart


def test_values_that_are_unknown_are_left_out() -> None:
    points = [(0, 0.0), (1, math.nan), (2, math.inf), (3, 1.0)]
    chart = curves("a", {"a": ("red", points), "b": ("red", [(1, math.nan)])}, across="x")
    assert [len(line) for line in places(chart)] == [2]
    assert curves("a", {"a": ("red", [(1, math.nan)])}, across="x") == (
        "<p>Nothing to draw yet.</p>"
    )


values = st.floats(-1000, 1000, allow_subnormal=False).map(lambda value: round(value, 6))


@given(points=st.lists(st.tuples(values, values), min_size=1, max_size=8))
def test_every_curve_stays_within_its_axes(points: list[tuple[float, float]]) -> None:
    [line] = places(curves("a", {"a": ("red", points)}, across="x"))
    assert len(line) == len(points)
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in line)


@given(low=values, width=st.floats(1e-3, 1000))
def test_ticks_are_few_round_and_within_the_range(low: float, width: float) -> None:
    ticks = Axis(low, low + width, 0, 1).ticks()
    room = 1e-6 * max(abs(low), width)
    assert 2 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))
    assert low - room <= ticks[0]
    assert ticks[-1] <= low + width + room
    step = f"{ticks[1] - ticks[0]:.3e}"
    assert step[0] in "125"
    assert set(step[2:5]) == {"0"}


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    points = [(float(n), float(n)) for n in range(10_000)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS + 1
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]


def decoded(png: bytes) -> npt.NDArray[np.int64]:
    return np.rint(np.asarray(imread(io.BytesIO(png)))[..., :3] * 255).astype(np.int64)


def extent(mask: npt.NDArray[np.bool_]) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [*map(int, (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))]


def test_outlines_lie_where_the_labels_are() -> None:
    """The patient's right, a high first index, is on the left; the front is up."""
    shape, scale = (40, 30), EDGE / 40
    prediction, reference = np.zeros((2, *shape), np.uint8)
    prediction[30:36, 10:20] = 2
    reference[4:10, 0:10] = 1
    picture = decoded(overlay(np.zeros(shape, np.float32), prediction, reference, (1.0, 1.0)))
    assert picture.shape == (round(30 * scale), EDGE, 3)
    ours = (picture == COLORS[1]).all(axis=-1)
    theirs = (picture == 255).all(axis=-1)
    box = [(30 - 20) * scale, (30 - 10) * scale, (40 - 36) * scale, (40 - 30) * scale]
    assert extent(ours) == pytest.approx(box, abs=1)
    top, _, left, right = extent(theirs)
    assert [top, left, right] == pytest.approx([20 * scale, 30 * scale, 36 * scale], abs=1)
    assert not (ours & theirs).any()
    inside = picture[round(15 * scale), round(7 * scale)]
    assert inside.tolist() == [0, 0, 0], "an outline, not an area"


def test_a_pixel_is_as_long_in_mm_in_both_directions_and_the_prediction_is_on_top() -> None:
    labels = np.zeros((40, 30), np.int16)
    labels[5:9, 5:9] = 1
    image = np.arange(1200, dtype=np.float16).reshape(40, 30)
    picture = decoded(overlay(image, labels, labels, (1.0, 2.0)))
    assert picture.shape == (EDGE, round(EDGE * 40 / 60), 3)
    assert (picture == COLORS[0]).all(axis=-1).any()
    gray = picture[:, :, 0]
    assert gray[0, 0] > gray[0, -1], "the first index falls from left to right"


def test_colors_are_those_of_the_pictures() -> None:
    page = training_page(state())
    assert f'stroke="rgb{color_of(14)}"' in page
    assert f"background: rgb{color_of(14)}" in page


def test_a_run_whose_name_is_no_utf8_has_a_page(tmp_path: Path) -> None:
    title = os.fsdecode(b"p\xe9")
    state = TrainingState(title=title, verdict="", facts=(), labels={}, rows=())
    write_training_page(tmp_path / "live.html", state)
    assert "p\\udce9: training" in (tmp_path / "live.html").read_text(encoding="utf-8")
