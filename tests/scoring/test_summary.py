"""The summary: who enters which mean, whose interval it is, and that the file says so."""

import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from medseg3d.metrics import METRICS
from medseg3d.scoring.bootstrap import interval
from medseg3d.scoring.case import Row
from medseg3d.scoring.columns import columns
from medseg3d.scoring.statistics import Group, Statistics, Summary, summarize
from medseg3d.scoring.summary import as_dict, column_facts, summary_table, write_json

NAN = float("nan")
NAMES = {1: "liver", 2: "[spleen]"}


def row(case: str, label: int, dice: float, hd95: float, status: Any = "ok", **others: Any) -> Row:
    scores = {"dice": dice, "hausdorff_95_mm": hd95}
    return Row(case, label, NAMES[label], scores, 1.0, 2.0, status, **others)


ROWS = [
    row("a", 1, 0.9, 2.0),
    row("a", 2, 0.5, 8.0),
    row("b", 1, 0.7, 4.0),
    row("b", 2, NAN, NAN, "both_empty"),
    row("c", 1, 0.0, 300.0, "missed"),
    row("c", 2, 0.0, 300.0, "spurious"),
]


def only(summary: Summary) -> tuple[tuple[Group, ...], Group]:
    """The labels and their mean in the summary of one model."""
    [model] = summary.models
    return model.labels, model.mean_over_labels


def shown(rows: list[Row], width: int = 120) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(summary_table(summarize(rows)))
    return " ".join(console.export_text().split())


def test_a_missed_label_never_leaves_a_mean() -> None:
    (liver, _), _ = only(summarize(ROWS))
    assert (liver.label, liver.name, liver.n, liver.n_patients) == (1, "liver", 3, 3)
    assert (liver.n_missed, liver.n_spurious, liver.n_both_empty) == (1, 0, 0)
    dice = liver.scores["dice"]
    assert dice.mean == pytest.approx(1.6 / 3)
    assert dice.median == pytest.approx(0.7)
    assert dice.sd == pytest.approx(np.std([0.9, 0.7, 0.0], ddof=1))
    assert (dice.n, dice.n_where_ok) == (3, 2)
    assert dice.mean_where_ok == pytest.approx(0.8)
    assert liver.scores["hausdorff_95_mm"].mean == pytest.approx(306 / 3)


def test_a_label_in_neither_map_is_counted_and_left_out() -> None:
    (_, spleen), _ = only(summarize(ROWS))
    assert (spleen.n, spleen.n_missed, spleen.n_spurious, spleen.n_both_empty) == (3, 0, 1, 1)
    assert (spleen.scores["dice"].n, spleen.scores["dice"].n_where_ok) == (2, 1)
    assert spleen.scores["dice"].mean == pytest.approx(0.25)
    assert spleen.scores["reference_ml"].n == 3


def test_regions_have_a_mean_of_their_own() -> None:
    whole = [Row(case, 3, "whole", {"dice": 0.25}, 1.0, 2.0, "ok") for case in "ab"]
    [plain] = summarize(ROWS).models
    [model] = summarize([*ROWS, *whole], columns=["dice", "hausdorff_95_mm"], regions=[3]).models
    assert plain.mean_over_regions is None
    assert [group.name for group in model.labels] == ["liver", "[spleen]", "whole"]
    assert vars(model.mean_over_labels.scores["dice"]) == vars(
        plain.mean_over_labels.scores["dice"]
    )
    assert model.mean_over_regions is not None
    assert (model.mean_over_regions.n, model.mean_over_regions.scores["dice"].mean) == (2, 0.25)


def test_the_mean_over_labels_is_taken_per_case_first() -> None:
    _, overall = only(summarize(ROWS))
    assert (overall.label, overall.n) == (None, 3)
    assert (overall.n_missed, overall.n_spurious, overall.n_both_empty) == (1, 1, 1)
    dice = overall.scores["dice"]  # cases: (.9 + .5) / 2, .7, 0
    assert dice.mean == pytest.approx(1.4 / 3)
    assert dice.median == pytest.approx(0.7)
    assert (dice.n, dice.n_where_ok) == (3, 2)
    assert dice.mean_where_ok == pytest.approx(0.7)
    assert dice.interval == interval([0.7, 0.7, 0.0], ["a", "b", "c"])


def test_intervals_are_over_patients_in_both_conventions() -> None:
    patients = ["ann", "ann", "bob", "cy", "dan"]
    values = [0.9, 0.8, 0.0, 0.7, NAN]
    statuses = ["ok", "ok", "missed", "ok", "both_empty"]
    rows = [
        row(str(number), 1, value, 1.0, status, patient=patient)
        for number, (value, status, patient) in enumerate(
            zip(values, statuses, patients, strict=True)
        )
    ]
    (liver,), _ = only(summarize(rows))
    dice = liver.scores["dice"]
    assert (liver.n, liver.n_patients) == (5, 4)
    assert dice.interval == interval(values, patients)
    assert dice.interval_where_ok == interval([0.9, 0.8, NAN, 0.7, NAN], patients)
    assert dice.interval[0] < dice.mean < dice.interval[1]
    assert dice.interval != interval(values, list("abcde")), "cases of a patient go together"


def test_each_model_has_its_own_summary() -> None:
    rows = [row(case, 1, dice, 1.0, model=m) for m, dice in (("v", 0.5), ("u", 1)) for case in "ab"]
    summary = summarize(rows)
    assert [one.model for one in summary.models] == ["v", "u"]
    assert [one.mean_over_labels.scores["dice"].mean for one in summary.models] == [0.5, 1.0]
    assert [one.labels[0].n for one in summary.models] == [2, 2]
    text = shown(rows)
    assert text.index("v │ 1 liver") < text.index("u │ 1 liver")
    assert "1.000 [1.000; 1.000]" in text


def test_one_case_has_no_spread_and_nothing_is_undefined() -> None:
    (liver,), _ = only(summarize(ROWS[:1]))
    alone = liver.scores["dice"]
    assert (alone.mean, alone.median, alone.n) == (0.9, 0.9, 1)
    assert np.isnan([alone.sd, *alone.interval]).all()
    labels, overall = only(summarize([], columns=["dice"]))
    assert labels == ()
    assert np.isnan(overall.scores["dice"].mean)
    assert (overall.n, overall.n_patients) == (0, 0)


def test_a_column_that_a_row_lacks_is_undefined_there() -> None:
    other = Row("b", 1, "liver", {"recall": 0.25}, 1.0, 2.0, "ok")
    (liver,), _ = only(summarize([ROWS[0], other]))
    assert list(liver.scores) == [
        *("dice", "hausdorff_95_mm", "recall", "prediction_ml", "reference_ml")
    ]
    assert (liver.scores["recall"].mean, liver.scores["recall"].n) == (0.25, 1)


def test_an_infinite_score_has_no_interval_and_is_null() -> None:
    rows = [row("a", 1, 0.5, np.inf), row("b", 1, 0.5, 1.0)]
    (liver,), _ = only(summarize(rows, columns=["hausdorff_95_mm"]))
    assert np.isnan(liver.scores["hausdorff_95_mm"].interval).all()
    [model] = as_dict(summarize(rows, columns=["hausdorff_95_mm"]))["models"]
    assert model["labels"][0]["scores"]["hausdorff_95_mm"]["mean"] is None


def test_the_file_is_strict_json_that_explains_itself(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    about = {"tool": "x", "file": Path(os.fsdecode(b"caf\xe9"))}
    write_json(summarize(ROWS[3:4]), path, about=about)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert list(found)[:2] == ["tool", "file"]
    assert os.fsencode(found["file"]) == b"caf\xe9"
    assert {"missed", "spurious", "both_empty"} <= set(found["convention"].split())
    assert "0.95, from 2000 resamples of whole patients" in found["interval"]
    [model] = found["models"]
    [spleen] = model["labels"]
    assert (spleen["n_both_empty"], spleen["n_patients"]) == (1, 1)
    assert spleen["scores"]["dice"] == {
        "mean": None, "interval": None, "sd": None, "median": None, "n": 0,
        "mean_where_ok": None, "interval_where_ok": None, "n_where_ok": 0,
    }  # fmt: skip
    assert model["mean_over_labels"]["label"] is None
    write_json(summarize(ROWS), path, about={})
    [model] = json.loads(path.read_text(encoding="utf-8"))["models"]
    dice = model["labels"][0]["scores"]["dice"]
    assert dice["interval"] == pytest.approx(interval([0.9, 0.7, 0.0], ["a", "b", "c"]))


def test_every_column_has_its_definition() -> None:
    facts = column_facts(columns(tolerances_mm=[1.5]))
    assert list(facts)[-2:] == ["prediction_ml", "reference_ml"]
    assert facts["surface_dice_1.5mm"]["metric"] == "surface_dice"
    assert facts["surface_dice_1.5mm"]["options"] == {"tolerance": 1.5}
    for name, about in facts.items():
        assert {"unit", "better", "definition", "source"} <= set(about), name
        assert name.endswith("_mm") == (about["unit"] == "mm")
        assert name.endswith("_ml") == (about["unit"] == "mL")
    assert facts["assd_mm"]["source"] == METRICS.facts("assd")["source"]


def test_the_terminal_shows_every_label_and_the_convention() -> None:
    low, high = interval([0.9, 0.7, 0.0], ["a", "b", "c"])
    text = shown(ROWS)
    assert "1 liver" in text
    assert "2 [spleen]" in text
    assert f"0.533 [{low:.3f}; {high:.3f}]" in text
    assert "mean over labels" in text
    assert "count as the worst value" in text
    assert "HD95 mm" in text
    assert "model" not in text
    assert "0.900 │" in shown(ROWS[:1]), "one patient has no interval"


def test_a_narrow_terminal_loses_no_number() -> None:
    low, high = interval([0.9, 0.7, 0.0], ["a", "b", "c"])
    text = shown(ROWS, width=72)
    for number in ("0.533", f"[{low:.3f};", f"{high:.3f}]", "missed", "empty"):
        assert f" {number} " in text


def test_other_columns_are_shown_where_the_usual_ones_are_not_asked_for() -> None:
    scores = {"cl_dice": 0.25, "dice": 0.5, "b": 1.0, "c": 2.0, "d": 3.0}
    text = shown([Row("a", 1, "vessels", scores, 1.0, 1.0, "ok")])
    for heading in ("Dice", "cl_dice", "b", "c"):
        assert f"{heading} ┃" in text
    assert "d ┃" not in text.replace("missed ┃", "")


def test_statistics_of_many_cases_are_quick_enough_for_a_terminal() -> None:
    rng = np.random.default_rng(0)
    names = [f"metric_{number}" for number in range(12)]
    rows = [
        Row(
            f"c{case}",
            label,
            "x",
            dict(zip(names, rng.random(12).tolist(), strict=True)),
            1,
            1,
            "ok",
        )
        for case in range(60)
        for label in range(1, 6)
    ]
    [model] = summarize(rows).models
    assert all(isinstance(found, Statistics) for found in model.mean_over_labels.scores.values())
    low, high = model.mean_over_labels.scores["metric_0"].interval
    assert 0.4 < low < 0.5 < high < 0.6
