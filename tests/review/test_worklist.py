"""The work list: means, states and columns as the page reads them."""

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from medseg3d.drawing import color_of
from medseg3d.metrics import METRICS
from medseg3d.review.columns import column_facts
from medseg3d.review.outliers import Measures
from medseg3d.review.worklist import Entry, work_list

NAN = math.nan
NAMES = {1: "liver", 4: "tumor"}


@dataclass(frozen=True)
class Line:
    """Scores of one label, as :mod:`medseg3d.scoring` makes them."""

    label: int
    scores: dict[str, float] = field(default_factory=dict)
    prediction_ml: float = 0.0
    reference_ml: float = 0.0
    status: str = "ok"


LIVER = Line(1, {"dice": 0.9, "hausdorff_95_mm": 4.0}, 1500.0, 1400.0)
MISSED = Line(4, {"dice": 0.0, "hausdorff_95_mm": 500.0}, 0.0, 3.0, "missed")
NEITHER = Line(4, {"dice": NAN, "hausdorff_95_mm": NAN}, 0.0, 0.0, "both_empty")


def entry(case: str, *rows: Line, digest: str = "") -> Entry:
    measures = Measures({1: 1500.0}, {1: 1})
    return Entry(case, f"p-{case}", bool(rows), measures, rows, digest)


def listed(*entries: Entry, **options: Any) -> dict[str, Any]:
    made = work_list(entries, **{"title": "t", "names": NAMES} | options)
    made_json: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    return made_json


def test_a_case_is_listed_with_its_means_and_its_worst_state() -> None:
    first, second = listed(entry("a", LIVER, MISSED), entry("b", LIVER, NEITHER))["cases"]
    assert first == {
        "id": "a",
        "patient": "p-a",
        "file": "cases/0001.js",
        "thumbnail": "thumbnails/0001.png",
        "has_reference": True,
        "status": "missed",
        "mean": {"dice": 0.45, "hausdorff_95_mm": 252.0},
        "labels": {
            "1": {
                "scores": {"dice": 0.9, "hausdorff_95_mm": 4.0},
                "prediction_ml": 1500.0,
                "reference_ml": 1400.0,
                "status": "ok",
            },
            "4": {
                "scores": {"dice": 0.0, "hausdorff_95_mm": 500.0},
                "prediction_ml": 0.0,
                "reference_ml": 3.0,
                "status": "missed",
            },
        },
        "outlier": None,
        "reasons": [],
    }
    # a label that neither has is in no mean, and does not make the case a bad one
    assert (second["mean"]["dice"], second["status"]) == (0.9, "ok")
    assert second["labels"]["4"]["scores"] == {"dice": None, "hausdorff_95_mm": None}


def test_regions_are_listed_and_in_no_mean() -> None:
    both = Line(5, {"dice": 0.3, "hausdorff_95_mm": 10.0}, 1500.0, 1403.0, "ok")
    (found,) = listed(
        entry("a", LIVER, MISSED, both), names=NAMES | {5: "liver and tumor"}, regions=[5]
    )["cases"]
    assert found["mean"] == {"dice": 0.45, "hausdorff_95_mm": 252.0}
    assert found["labels"]["5"]["scores"]["dice"] == 0.3


def test_of_a_case_without_scores_no_region_has_a_volume() -> None:
    both = Line(5, {"dice": 0.3}, 1500.0, 1403.0, "ok")
    _, unscored = listed(
        entry("a", LIVER, both), entry("b"), names=NAMES | {5: "liver and tumor"}, regions=[5]
    )["cases"]
    assert list(unscored["labels"]) == ["1", "4"]


def test_differences_with_opposite_signs_do_not_cancel_in_the_mean() -> None:
    rows = [Line(1, {"volume_difference_ml": 40.0}), Line(4, {"volume_difference_ml": -30.0})]
    [case] = listed(entry("a", *rows))["cases"]
    assert case["mean"] == {"volume_difference_ml": 35.0}
    assert case["labels"]["4"]["scores"] == {"volume_difference_ml": -30.0}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("ok", "missed", "spurious"), "missed"),
        (("ok", "spurious"), "spurious"),
        (("both_empty", "both_empty"), "both_empty"),
        (("both_empty", "ok"), "ok"),
        ((), "unscored"),
    ],
)
def test_the_state_of_a_case_is_the_worst_of_its_labels(
    states: tuple[str, ...], expected: str
) -> None:
    rows = [replace(LIVER, status=status) for status in states]
    assert listed(entry("a", *rows))["cases"][0]["status"] == expected


def test_without_scores_the_strangest_comes_first_and_volumes_are_told() -> None:
    found = listed(*(entry(f"c{n}") for n in range(6)))
    assert (found["sort"], found["columns"]) == ("outlier", [])
    first = found["cases"][0]
    assert (first["outlier"], first["mean"], first["has_reference"]) == (0.0, {}, False)
    assert first["labels"] == {
        "1": {"scores": {}, "prediction_ml": 1500.0, "reference_ml": None, "status": "unscored"},
        "4": {"scores": {}, "prediction_ml": 0.0, "reference_ml": None, "status": "unscored"},
    }


def test_columns_keep_the_order_of_the_table_and_unknown_ones_are_left_out() -> None:
    row = replace(LIVER, scores={"assd_mm": 1.0, "mystery": 3.0, "iou": 0.5})
    found = listed(entry("a", row), entry("b", LIVER))
    assert [one["name"] for one in found["columns"]] == [
        *("assd_mm", "iou", "dice", "hausdorff_95_mm"),
    ]
    assert found["sort"] == "dice"
    assert found["cases"][0]["mean"]["dice"] is None
    only = replace(LIVER, scores={"volume_difference_ml": 1.0, "assd_mm": 1.0})
    assert listed(entry("a", only))["sort"] == "assd_mm"


@pytest.mark.parametrize(
    ("name", "title", "unit", "better", "decimals"),
    [
        ("dice", "Dice", "", "higher", 3),
        ("hausdorff_mm", "Hausdorff", "mm", "lower", 1),
        ("hausdorff_95_mm", "HD95", "mm", "lower", 1),
        ("assd_mm", "ASSD", "mm", "lower", 2),
        ("surface_dice_1mm", "Surface Dice 1 mm", "", "higher", 3),
        ("surface_dice_2.5mm", "Surface Dice 2.5 mm", "", "higher", 3),
        ("volume_difference_ml", "Volume difference", "mL", "zero", 2),
        ("relative_volume_difference_percent", "Relative volume difference", "%", "zero", 1),
        ("hausdorff_95_mm_pooled", "HD95 pooled", "mm", "lower", 1),
        ("f_beta_1", "F beta 1", "", "higher", 3),
        ("cldice", "clDice", "", "higher", 3),
    ],
)
def test_columns_are_told_by_their_names(
    name: str, title: str, unit: str, better: str, decimals: int
) -> None:
    assert column_facts(name) == {
        "name": name,
        "title": title,
        "unit": unit,
        "better": better,
        "decimals": decimals,
    }


def test_every_metric_of_masks_has_a_column_that_is_known() -> None:
    from medseg3d.scoring.columns import columns

    made = columns()
    assert len(made) > 10
    for column in made:
        facts = column_facts(column.name)
        assert facts is not None
        assert facts["better"] == METRICS.facts(column.metric)["better"]
        assert facts["unit"] in (column.unit, "")


def test_verdicts_are_kept_for_the_same_predictions_only() -> None:
    def identity(*entries: Entry) -> str:
        return str(listed(*entries)["id"])

    one, other = entry("a", LIVER, digest="1"), entry("b", LIVER, digest="2")
    assert identity(one, other) == identity(one, entry("b", MISSED, digest="2"))
    assert len({identity(one), identity(one, other), identity(entry("a", digest="3"))}) == 3


def test_labels_are_listed_with_the_color_that_they_have_in_pictures() -> None:
    assert listed(entry("a"))["labels"] == [
        {"value": 1, "name": "liver", "color": list(color_of(1))},
        {"value": 4, "name": "tumor", "color": list(color_of(4))},
    ]


def test_what_failed_is_named() -> None:
    failed = {"x": "x.nii.gz is damaged"}
    assert listed(entry("a"), failed=failed)["failed"] == [
        {"id": "x", "reason": "x.nii.gz is damaged"}
    ]
