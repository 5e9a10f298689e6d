"""Comparisons: numbers by hand and by SciPy, families of tests, and whom they favor."""

import csv
import json
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from medseg3d.errors import ConfigError
from medseg3d.scoring.bootstrap import interval
from medseg3d.scoring.case import Row
from medseg3d.scoring.comparison import Comparison, Difference, compare_models
from medseg3d.scoring.comparison_files import as_dict, write_comparison, write_differences
from medseg3d.scoring.comparison_text import comparison_text, heading
from medseg3d.scoring.measures import Measure, measure_of
from medseg3d.scoring.paired import pair_models
from medseg3d.scoring.significance import holm
from medseg3d.scoring.subgroups import Subgroup

FIRST = [0.80, 0.70, 0.90, 0.60, 0.85, 0.75, 0.65, 0.95]
GAINS = [0.05, 0.02, 0.01, 0.08, -0.03, 0.04, 0.06, 0.00]
PATIENTS = ["p1", "p1", "p2", "p3", "p4", "p5", "p6", "p7"]
NAMES = {1: "liver", 2: "tumor [new]"}


def rows(dice: list[float], patients: list[str], label: int = 1) -> list[Row]:
    return [
        Row(
            case=f"case {number}",
            label=label,
            name=NAMES[label],
            scores={"dice": value, "assd_mm": 10 * (1 - value)},
            prediction_ml=1.0,
            reference_ml=1.0,
            status="ok",
            patient=patient,
        )
        for number, (value, patient) in enumerate(zip(dice, patients, strict=True))
    ]


def compared(*models: list[float], patients: list[str] = PATIENTS, **options) -> Comparison:
    """Models a, b, ... by the Dice of one label."""
    tables = {name: rows(dice, patients) for name, dice in zip("abcdef", models, strict=False)}
    return compare_models(pair_models(tables), **options)


def of(comparison: Comparison, measure: str = "dice", **facts) -> Difference:
    """The one difference of that measure, pair and subgroup."""
    wanted = {"first": "a", "second": "b", "attribute": "", "group": "", "label": 1} | facts
    (found,) = [
        each
        for each in comparison.differences
        if each.subject.measure.name == measure
        and {**vars(each.subject), **vars(each)}.items() >= wanted.items()
    ]
    return found


def later(gains: list[float] = GAINS) -> list[float]:
    return [round(value + gain, 6) for value, gain in zip(FIRST, gains, strict=True)]


def test_a_difference_worked_by_hand_and_by_scipy() -> None:
    found = of(compared(FIRST, later()))
    assert (found.num_cases, found.num_patients) == (8, 7)
    assert found.mean_first == pytest.approx(6.2 / 8)
    assert found.mean_second == pytest.approx(6.43 / 8)
    assert found.difference == pytest.approx(0.23 / 8)
    assert found.median == pytest.approx(0.03)
    assert (found.first_better, found.second_better) == (1, 6)
    assert (found.low, found.high) == pytest.approx(interval(GAINS, PATIENTS))
    # the two cases of p1 are one piece of evidence: .035 .01 .08 -.03 .04 .06, and a zero
    of_patients = [0.035, 0.01, 0.08, -0.03, 0.04, 0.06]
    assert found.p == pytest.approx(stats.wilcoxon(of_patients, method="exact").pvalue)
    assert found.effect == pytest.approx((21 - 2 - 2) / 21)  # -.03 has rank 2
    assert found.p_holm == pytest.approx(found.p)  # the only test of its measure
    assert found.favors == ""


def test_models_that_are_the_same_differ_in_nothing() -> None:
    found = of(compared(FIRST, FIRST))
    assert (found.difference, found.low, found.high, found.effect) == (0, 0, 0, 0)
    assert (found.p, found.p_holm, found.favors) == (1, 1, "")
    assert (found.first_better, found.second_better) == (0, 0)


def test_turning_the_models_around_turns_every_sign() -> None:
    there, back = of(compared(FIRST, later())), of(compared(later(), FIRST))
    assert back.difference == pytest.approx(-there.difference)
    assert back.effect == pytest.approx(-there.effect)
    assert back.p == pytest.approx(there.p)
    assert (back.first_better, back.second_better) == (there.second_better, there.first_better)


@pytest.mark.parametrize(("gain", "favored"), [(0.02, "b"), (-0.02, "a")])
def test_the_better_model_is_the_one_with_higher_dice_and_smaller_distance(gain, favored) -> None:
    comparison = compared(FIRST, later([gain * step for step in range(1, 9)]))
    assert of(comparison).favors == favored
    distance = of(comparison, "assd_mm")
    assert distance.favors == favored
    assert np.sign(distance.difference) == -np.sign(gain)
    assert distance.second_better == (8 if favored == "b" else 0)


def test_nobody_is_favored_where_mean_and_ranks_disagree() -> None:
    gains = [0.01 + number / 1000 for number in range(11)] + [-0.6]
    patients = [f"p{number}" for number in range(12)]
    comparison = compared([0.7] * 12, [0.7 + gain for gain in gains], patients=patients, level=0.5)
    found = of(comparison)
    assert found.effect > 0 > found.difference
    assert found.p_holm < 0.5
    assert found.favors == ""


def test_nobody_is_favored_where_the_interval_holds_zero() -> None:
    # ranks and mean favor the second model, but one case carries as much as all others
    gains = [0.010 + number / 1000 for number in range(14)] + [-0.2]
    patients = [f"p{number}" for number in range(15)]
    found = of(compared([0.7] * 15, [0.7 + gain for gain in gains], patients=patients))
    assert found.difference > 0 < found.effect
    assert found.p_holm < 0.05
    assert found.low < 0 < found.high
    assert found.favors == ""


def test_what_the_test_shows_depends_on_the_level() -> None:
    models = (FIRST, later([0.01 * step for step in range(1, 9)]))
    assert of(compared(*models)).p == pytest.approx(2 / 2**7)
    assert of(compared(*models)).favors == "b"
    assert of(compared(*models, level=0.99)).favors == ""


def two_labels(seed: int = 0) -> dict[str, list[Row]]:
    rng = np.random.default_rng(seed)
    return {
        model: [
            row
            for label in NAMES
            for row in rows(
                (rng.random(10) / 5 + better).tolist(), [f"p{n}" for n in range(10)], label
            )
        ]
        for model, better in (("a", 0.5), ("b", 0.6), ("c", 0.7))
    }


def test_each_measure_is_a_family_of_all_its_labels_and_pairs() -> None:
    comparison = compare_models(pair_models(two_labels()))
    for measure in ("dice", "assd_mm"):
        family = [each for each in comparison.differences if each.subject.measure.name == measure]
        assert len(family) == 3 * 3  # two labels and their mean, three pairs
        assert [each.p_holm for each in family] == pytest.approx(holm([each.p for each in family]))


def test_the_whole_table_can_be_the_family() -> None:
    found = compare_models(pair_models(two_labels()), family="table").differences
    assert len(found) == 18
    assert [each.p_holm for each in found] == pytest.approx(holm([each.p for each in found]))


def test_the_mean_over_labels_comes_first_and_is_taken_per_case() -> None:
    paired = pair_models(two_labels())
    comparison = compare_models(paired)
    first = comparison.differences[0]
    assert (first.subject.label, first.subject.name) == (None, "mean over labels")
    differences = paired.values["dice"][1].mean(axis=1) - paired.values["dice"][0].mean(axis=1)
    assert first.difference == pytest.approx(differences.mean())
    assert first.p == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
    assert [each.subject.label for each in comparison.rankings[:3]] == [None, 1, 2]


def test_all_models_can_be_compared_with_one() -> None:
    found = compare_models(pair_models(two_labels()), baseline="b").differences
    assert {(each.first, each.second) for each in found} == {("b", "a"), ("b", "c")}
    with pytest.raises(ConfigError, match="'d' is no model; the models are a, b, c"):
        compare_models(pair_models(two_labels()), baseline="d")


def test_subgroups_are_compared_apart_and_are_families_of_their_own() -> None:
    members = np.array([True] * 4 + [False] * 4)
    subgroups = [
        Subgroup("site", "Ulm", members),
        Subgroup("site", "Bonn", ~members),
        Subgroup("sex", "f", members),
        Subgroup("sex", "x", np.zeros(8, dtype=bool)),
    ]
    comparison = compared(FIRST, later(), subgroups=subgroups)
    ulm = of(comparison, attribute="site", group="Ulm")
    bonn = of(comparison, attribute="site", group="Bonn")
    sex = of(comparison, attribute="sex", group="f")
    assert (ulm.num_cases, ulm.num_patients, bonn.num_cases) == (4, 3, 4)
    assert ulm.difference == pytest.approx(np.mean(GAINS[:4]))
    assert bonn.difference == pytest.approx(np.mean(GAINS[4:]))
    assert [ulm.p_holm, bonn.p_holm] == pytest.approx(holm([ulm.p, bonn.p]))
    assert sex.p_holm == sex.p == ulm.p
    assert not [each for each in comparison.differences if each.subject.group == "x"]
    assert of(comparison).p_holm == of(compared(FIRST, later())).p_holm


def test_one_patient_has_a_difference_but_no_interval() -> None:
    found = of(compared(FIRST[:2], later()[:2], patients=["p1", "p1"]))
    assert found.difference == pytest.approx(0.035)
    assert np.isnan([found.low, found.high]).all()


def test_a_table_says_everything_that_is_known(tmp_path: Path) -> None:
    comparison = compared(FIRST, later())
    write_differences(comparison, tmp_path / "c.csv")
    with (tmp_path / "c.csv").open(newline="") as file:
        dice, assd = csv.DictReader(file)
    found = of(comparison)
    assert {name: dice[name] for name in ("metric", "label", "name", "first", "second")} == {
        **{"metric": "dice", "label": "1", "name": "liver", "first": "a", "second": "b"}
    }
    for column, value in {
        "cases": 8,
        "patients": 7,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "median_difference": found.median,
        "p": found.p,
        "p_holm": found.p_holm,
        "effect": found.effect,
    }.items():
        assert float(dice[column]) == pytest.approx(value, abs=1e-6)
    assert (assd["metric"], assd["unit"], assd["better"]) == ("assd_mm", "mm", "lower")


def test_undefined_numbers_are_empty_cells_and_null(tmp_path: Path) -> None:
    comparison = compared(FIRST[:2], later()[:2], patients=["p1", "p1"])
    write_differences(comparison, tmp_path / "c.csv")
    with (tmp_path / "c.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["low"] == ""
    write_comparison(comparison, tmp_path / "c.json", {"versions": {"medseg3d": "1"}})
    text = (tmp_path / "c.json").read_text()
    assert "NaN" not in text
    facts = json.loads(text)
    assert facts["differences"][0]["low"] is None
    assert facts["versions"] == {"medseg3d": "1"}


def test_json_holds_conventions_cases_and_rankings() -> None:
    comparison = compared(FIRST, later(), family="table", resamples=500, seed=3)
    facts = as_dict(comparison)
    assert facts["conventions"]["p_holm"] == "Holm, over all metrics, labels and pairs of models"
    assert (facts["level"], facts["resamples"], facts["seed"]) == (0.95, 500, 3)
    assert facts["cases"]["case 1"] == "p1"
    assert facts["labels"] == [{"label": 1, "name": "liver"}]
    (ranking,) = [each for each in facts["rankings"] if each["metric"] == "dice"]
    assert ranking["means"] == {"a": 0.775, "b": 0.80375}
    assert sum(ranking["shares"]["b"]) == pytest.approx(1)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def printed(comparison: Comparison) -> str:
    text = StringIO()
    Console(file=text, width=120).print(comparison_text(comparison))
    return text.getvalue()


def test_bytes_of_names_that_are_no_utf8_are_escapes_in_the_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"p\xe9")
    write_comparison(compared(FIRST, later()), tmp_path / "c.json", {"tables": [name]})
    told = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert told["tables"] == [name]


def test_the_terminal_shows_each_pair_and_the_ranks() -> None:
    text = printed(compare_models(pair_models(two_labels())))
    for line in ("b minus a", "c minus a", "c minus b", "rank by the mean", "tumor [new]"):
        assert line in text
    assert "nan" not in text
    assert max(map(len, text.splitlines())) <= 120
    ranks = [line.split() for line in text.splitlines() if line.split()[1:2] == ["3"]]
    assert ranks == [
        [metric, *("3", "(100", "%)", "2", "(100", "%)", "1", "(100", "%)")]
        for metric in ("dice", "assd_mm")
    ]


def test_the_terminal_shows_subgroups_of_the_first_metric() -> None:
    members = np.array([True] * 4 + [False] * 4)
    text = printed(compared(FIRST, later(), subgroups=[Subgroup("site", "Ulm", members)]))
    (line,) = [line for line in text.splitlines() if "site: Ulm" in line]
    assert line.split()[:4] == ["dice", "site:", "Ulm", "4"]
    assert "+0.040" in line


def test_one_label_beside_a_region_is_told_as_one_alone() -> None:
    tables = two_labels()
    members = np.array([True] * 4 + [False] * 6)
    subgroups = [Subgroup("site", "Ulm", members)]
    comparison = compare_models(pair_models(tables, regions={2}), subgroups=subgroups)
    text = printed(comparison)
    told = [line.split()[:2] for line in text.split("c minus a")[0].splitlines()]
    assert [line for line in told if line[:1] in (["dice"], ["assd_mm"])] == [
        *(["dice", "liver"], ["assd_mm", "liver"], ["dice", "tumor"], ["dice", "site:"])
    ]
    assert "rank by the mean" in text
    assert pair_models(tables).headline is None
    assert pair_models(tables, regions={1, 2}).headline is None


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("relative_volume_difference_percent", "|relative_volume_difference_percent|"),
        ("absolute_volume_difference_ml", "absolute_volume_difference_ml"),
        ("hausdorff_95_mm_pooled", "hausdorff_95_mm_pooled"),
    ],
)
def test_a_unit_is_told_once(column: str, expected: str) -> None:
    measure = measure_of(column)
    assert measure is not None
    assert heading(measure) == expected


def test_units_are_told_where_a_name_does_not_tell_them() -> None:
    comparison = compared(FIRST, later())
    (odd,) = (replace(comparison.differences[0], difference=float("nan")),)
    subject = replace(odd.subject, measure=Measure("odd", "odd", "mm", "lower"))
    measures = (subject.measure,)
    changed = replace(
        comparison,
        paired=replace(comparison.paired, measures=measures),
        differences=(replace(odd, subject=subject),),
        rankings=(),
    )
    text = printed(changed)
    assert "odd, mm" in text
    assert " - " in text
