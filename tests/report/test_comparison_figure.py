"""The figure of a comparison: its files, what is written in it, and odd input."""

import io
import os
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from medseg3d.report.comparison_figure import MOST_ROWS, Estimate, Panel, draw_comparison

NAN = float("nan")


def panel(*rows: str, title: str = "dice", better: str = "higher", pairs=(("a", "b"),)) -> Panel:
    estimates = [
        Estimate(row, first, second, 0.1 * place, 0.1 * place - 0.05, 0.1 * place + 0.05, place > 0)
        for place, row in enumerate(rows)
        for first, second in pairs
    ]
    return Panel(title, better, estimates, {"b": (0.75, 0.25), "a": (0.25, 0.75)})


def words(svg: bytes) -> str:
    """The texts of a figure, which are drawn as outlines with the text as a comment."""
    ElementTree.fromstring(svg)
    return "\n".join(re.findall(r"<!-- (.*?) -->", svg.decode()))


def test_a_png_is_a_picture_with_something_on_it() -> None:
    picture = imread(io.BytesIO(draw_comparison([panel("liver", "tumor")])))
    assert picture.shape[1] > picture.shape[0] / 2 > 100
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10


def test_an_svg_names_models_labels_and_metrics() -> None:
    drawn = words(
        draw_comparison(
            [panel("liver", "tumor"), panel("liver", title="assd_mm", better="lower")],
            caption="what the marks mean",
            form="svg",
        )
    )
    for text in ("liver", "tumor", "dice", "assd_mm", "what the marks mean"):
        assert text in drawn
    higher, lower = re.findall(r"(. better \| . better)", re.sub(r" +", " ", drawn))
    assert (higher, lower) == ("a better | b better", "b better | a better")


def test_bytes_of_names_that_are_no_utf8_are_spelled_out() -> None:
    drawn = words(draw_comparison([panel(os.fsdecode(b"p\xe9"))], form="svg"))
    assert "p\\udce9" in drawn


def test_several_pairs_have_a_legend() -> None:
    pairs = (("a", "b"), ("a", "c"), ("b", "c"))
    drawn = words(draw_comparison([panel("liver", pairs=pairs)], form="svg"))
    for first, second in pairs:
        assert drawn.count(f"{second} minus {first}") == 1


def test_the_same_comparison_is_the_same_file() -> None:
    for form in ("png", "svg"):
        first, second = (draw_comparison([panel("liver")], form=form) for _ in range(2))
        assert first == second


@pytest.mark.parametrize("name", ["$x_1$", "肝臓", "<b>&", "a" * 300, ""])
def test_names_may_be_anything(name: str) -> None:
    one = panel(name, title=name, pairs=((name, "b"),))
    drawn = draw_comparison([Panel(one.title, "higher", one.estimates, {name: (1.0,)})], form="svg")
    ElementTree.fromstring(drawn)


def test_without_intervals_and_ranks_the_dots_remain() -> None:
    alone = Estimate("liver", "a", "b", 0.1, NAN, NAN, is_shown=False)
    drawn = words(draw_comparison([Panel("dice", "higher", [alone], {})], form="svg"))
    assert "liver" in drawn
    assert "share of resamples" not in drawn


def test_rows_beyond_the_most_are_left_to_the_table() -> None:
    many = panel(*(f"label {number}." for number in range(MOST_ROWS + 5)))
    drawn = words(draw_comparison([many], form="svg"))
    assert f"label {MOST_ROWS - 1}." in drawn
    assert f"label {MOST_ROWS}." not in drawn
    assert "5 more in the table" in drawn
