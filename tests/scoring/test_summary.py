"""The summary: who enters which mean, and that the file says so."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from medseg3d.metrics import METRICS
from medseg3d.scoring.case import Row
from medseg3d.scoring.summary import METRIC_OF, summarize, summary_table, write_json
from medseg3d.scoring.table import SCORES

NAN = float("nan")


def row(case: str, label: int, dice: float, hd95: float, status: str = "ok") -> Row:
    names = {1: "liver", 2: "[spleen]"}
    ratios, distances = [dice] * 4, [hd95] * 3
    return Row(case, label, names[label], *ratios, *distances, dice, 1.0, 2.0, status)


ROWS = [
    row("a", 1, 0.9, 2.0),
    row("a", 2, 0.5, 8.0),
    row("b", 1, 0.7, 4.0),
    row("b", 2, NAN, NAN, "both_empty"),
    row("c", 1, 0.0, 300.0, "missed"),
    row("c", 2, 0.0, 300.0, "spurious"),
]


def test_a_missed_label_never_leaves_a_mean() -> None:
    liver, _ = summarize(ROWS).labels
    assert (liver.label, liver.name, liver.n) == (1, "liver", 3)
    assert (liver.n_missed, liver.n_spurious, liver.n_both_empty) == (1, 0, 0)
    dice = liver.scores["dice"]
    assert dice.mean == pytest.approx(1.6 / 3)
    assert dice.median == pytest.approx(0.7)
    assert dice.sd == pytest.approx(np.std([0.9, 0.7, 0.0], ddof=1))
    assert dice.n == 3
    assert dice.mean_where_ok == pytest.approx(0.8)
    assert liver.scores["hausdorff_95_mm"].mean == pytest.approx(306 / 3)


def test_a_label_in_neither_map_is_counted_and_left_out() -> None:
    _, spleen = summarize(ROWS).labels
    assert (spleen.n, spleen.n_missed, spleen.n_spurious, spleen.n_both_empty) == (3, 0, 1, 1)
    assert spleen.scores["dice"].n == 2
    assert spleen.scores["dice"].mean == pytest.approx(0.25)
    assert spleen.scores["reference_ml"].n == 3


def test_the_mean_over_labels_is_taken_per_case_first() -> None:
    overall = summarize(ROWS).mean_over_labels
    assert (overall.label, overall.n) == (None, 3)
    assert (overall.n_missed, overall.n_spurious, overall.n_both_empty) == (1, 1, 1)
    dice = overall.scores["dice"]  # cases: (.9 + .5) / 2, .7, 0
    assert dice.mean == pytest.approx(1.4 / 3)
    assert dice.median == pytest.approx(0.7)
    assert dice.n == 3
    assert dice.mean_where_ok == pytest.approx(0.7)


def test_one_case_has_no_spread_and_nothing_is_undefined() -> None:
    alone = summarize(ROWS[:1]).labels[0].scores["dice"]
    assert (alone.mean, alone.median, alone.n) == (0.9, 0.9, 1)
    assert np.isnan(alone.sd)
    nothing = summarize([])
    assert nothing.labels == ()
    assert np.isnan(nothing.mean_over_labels.scores["dice"].mean)


def test_the_file_is_strict_json_that_explains_itself(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(summarize(ROWS[3:4], tolerance_mm=2.0), path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["tolerance_mm"] == 2.0
    assert "missed" in found["convention"]
    assert "both_empty" in found["convention"]
    assert list(found["columns"]) == list(SCORES)
    assert found["columns"]["hausdorff_95_mm"] == {
        key: METRICS.facts("hausdorff_95")[key] for key in ("unit", "better", "definition")
    }
    assert found["columns"]["prediction_ml"]["unit"] == "mL"
    (spleen,) = found["labels"]
    assert spleen["n_both_empty"] == 1
    assert spleen["scores"]["dice"] == {
        "mean": None, "sd": None, "median": None, "n": 0, "mean_where_ok": None,
    }  # fmt: skip
    assert found["mean_over_labels"]["label"] is None


def test_every_distance_column_says_millimetres() -> None:
    for column, metric in METRIC_OF.items():
        assert column.endswith("_mm") == (METRICS.facts(metric)["unit"] == "mm")


def test_the_terminal_shows_every_label_and_the_convention() -> None:
    console = Console(width=120, record=True, file=StringIO())
    console.print(summary_table(summarize(ROWS)))
    text = " ".join(console.export_text().split())
    assert "1 liver" in text
    assert "2 [spleen]" in text
    assert "0.533 (0.473)" in text
    assert "mean over labels" in text
    assert "count as the worst value" in text
