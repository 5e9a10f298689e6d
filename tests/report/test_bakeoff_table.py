"""Table and figure of a bake-off: order, numbers, what is not known, and odd names."""

import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from medseg3d.report.bakeoff_figure import COSTS, draw_bakeoff
from medseg3d.report.bakeoff_table import Contestant, as_markdown, ranked, write_numbers

NAN = float("nan")
GOOD = Contestant(
    network="good",
    dice=0.87654321,
    dice_low=0.85,
    dice_high=0.9,
    hausdorff_95_mm=1.25,
    parameters=5_601_234,
    gflop_per_patch=33.333,
    seconds_per_case=0.4567,
    training_memory=3 << 29,
    prediction_memory=1 << 29,
    steps=400,
    minutes=3.004,
)
POOR = Contestant(network="poor", dice=0.0, hausdorff_95_mm=40.0, parameters=1, steps=2)
FAILED = Contestant(network="a_broken", status="failed", note="memory ran out | badly\nindeed")
WAITING = Contestant(network="a_later", status="waiting")


def test_the_best_comes_first_and_what_is_not_known_last() -> None:
    unknown = Contestant(network="b", dice=NAN)
    order = [GOOD, POOR, unknown, FAILED, WAITING]
    assert ranked([WAITING, unknown, POOR, FAILED, GOOD]) == order


@given(st.lists(st.floats(0, 1) | st.just(NAN)))
def test_the_order_is_that_of_the_dice(values: list[float]) -> None:
    rows = ranked(Contestant(network=str(number), dice=each) for number, each in enumerate(values))
    known = [row.dice for row in rows if row.dice == row.dice]
    assert known == sorted(known, reverse=True)
    assert all(row.dice != row.dice for row in rows[len(known) :])
    assert {row.network for row in rows} == set(map(str, range(len(values))))


def test_programs_read_numbers_and_empty_cells(tmp_path: Path) -> None:
    write_numbers([GOOD, POOR, FAILED], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        good, poor, failed = csv.DictReader(file)
    assert float(good["dice"]) == pytest.approx(0.876543)
    assert (good["parameters"], good["steps"], good["minutes"]) == ("5601234", "400", "3.0")
    assert (good["training_memory_mib"], good["prediction_memory_mib"]) == ("1536", "512")
    assert (good["status"], failed["status"]) == ("done", "failed")
    assert (poor["dice"], poor["dice_low"], poor["gflop_per_patch"]) == ("0.0", "", "")
    assert failed["note"] == FAILED.note
    assert {failed[name] for name in good if name not in ("network", "status", "note")} == {""}


def test_people_read_words() -> None:
    page = as_markdown([GOOD, POOR, FAILED, WAITING], title="4 networks", figure="bakeoff.png")
    lines = page.splitlines()
    assert lines[0] == "# 4 networks"
    table = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {11}
    assert (
        "| good | 0.877 [0.850; 0.900] | 1.25 | 5.6 M | 33.3 | 0.457 | 1.50 | 0.50 | 400 |" in page
    )
    assert "| poor | 0.000 | 40.00 |" in page
    assert "memory ran out \\| badly indeed |" in page
    assert table[-1].endswith("| waiting |")
    assert "![Dice and costs of each network](bakeoff.png)" in page
    assert "![" not in as_markdown([WAITING], title="none", figure=None)


def words(svg: bytes) -> str:
    """The texts of a figure, which are drawn as outlines with the text as a comment."""
    ElementTree.fromstring(svg)
    return "\n".join(re.findall(r"<!-- (.*?) -->", svg.decode()))


def test_the_figure_names_networks_and_measures() -> None:
    drawn = words(draw_bakeoff([GOOD, POOR], form="svg"))
    for text in ("good", "poor", "Dice, 95 % interval", *COSTS):
        assert text in drawn


def test_the_figure_is_a_picture_that_grows_with_the_networks() -> None:
    small, large = (imread(io.BytesIO(draw_bakeoff([GOOD] * count))).shape[0] for count in (4, 44))
    assert 100 < small < large - 40 * 15
    assert draw_bakeoff([GOOD]) == draw_bakeoff([GOOD])


@pytest.mark.parametrize(("largest", "is_log"), [(2.0, False), (5000.0, True)])
def test_large_ratios_are_drawn_on_a_logarithmic_axis(largest: float, is_log: bool) -> None:
    rows = [Contestant(network=str(value), gflop_per_patch=value) for value in (1.0, largest)]
    drawn = words(draw_bakeoff(rows, form="svg")).splitlines()
    assert ("1000" in drawn) == is_log
    assert not any("mathdefault" in line for line in drawn)


@pytest.mark.parametrize("name", ["$x_1$", "肝臓", "<b>&", "a" * 300, ""])
def test_names_may_be_anything_and_numbers_unknown(name: str) -> None:
    ElementTree.fromstring(draw_bakeoff([Contestant(network=name)], form="svg"))
