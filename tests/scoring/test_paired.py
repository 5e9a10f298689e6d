"""Tables of several models side by side: who takes part, with which values, and what is said."""

import numpy as np
import pytest

from medseg3d.errors import ConfigError, DataError
from medseg3d.scoring.case import Row
from medseg3d.scoring.columns import columns
from medseg3d.scoring.measures import Measure, measure_of
from medseg3d.scoring.paired import Paired, pair_models

NAN = float("nan")
STATUS = {"ok": (2.0, 2.0), "missed": (0.0, 2.0), "spurious": (1.0, 0.0), "both_empty": (0.0, 0.0)}


def row(case: str, label: int, dice: float, status: str = "ok", **changes) -> Row:
    """A row with Dice, a distance and a signed difference of volumes."""
    prediction_ml, reference_ml = STATUS[status]
    scores = {
        "dice": dice,
        "assd_mm": NAN if status == "both_empty" else 10 * (1 - dice),
        "volume_difference_ml": prediction_ml - reference_ml,
    }
    facts = {
        "name": {1: "liver", 2: "tumor"}[label],
        "scores": scores,
        "prediction_ml": prediction_ml,
        "reference_ml": reference_ml,
        "status": status,
    }
    return Row(case=case, label=label, **(facts | changes))


def pair(*tables: list[Row], **options) -> Paired:
    return pair_models(dict(zip("abc", tables, strict=False)), **options)


def values(paired: Paired, name: str, label: int | None) -> list:
    (measure,) = [measure for measure in paired.measures if measure.name == name]
    return paired.of(measure, label).tolist()


def test_values_stand_by_model_and_case_whatever_the_order_of_the_rows() -> None:
    paired = pair(
        [row("y", 1, 0.5), row("x", 1, 0.9), row("x", 2, 0.7), row("y", 2, 0.3)],
        [row("x", 1, 0.8), row("x", 2, 0.4), row("y", 1, 0.6), row("y", 2, 0.2)],
    )
    assert (paired.models, paired.cases, paired.labels) == (("a", "b"), ("x", "y"), (1, 2))
    assert paired.names == {1: "liver", 2: "tumor"}
    assert values(paired, "dice", 1) == [[0.9, 0.5], [0.8, 0.6]]
    assert values(paired, "dice", 2) == [[0.7, 0.3], [0.4, 0.2]]
    assert np.array(values(paired, "dice", None)) == pytest.approx(
        np.array([[0.8, 0.4], [0.6, 0.4]])
    )
    assert not paired.notes


def test_a_case_that_a_model_lacks_takes_no_part_and_is_said() -> None:
    paired = pair(
        [row("x", 1, 0.9), row("y", 1, 0.8), row("z", 1, 0.7)],
        [row("x", 1, 0.8), row("z", 1, 0.7)],
        [row("x", 1, 0.8), row("y", 1, 0.7), row("w", 1, 0.7)],
    )
    assert paired.cases == ("x",)
    assert paired.unpaired == {"w": ("a", "b"), "y": ("b",), "z": ("c",)}
    assert values(paired, "dice", 1) == [[0.9], [0.8], [0.8]]


def test_who_rightly_predicts_nothing_is_best_beside_who_does_not() -> None:
    empty, spurious = row("x", 2, NAN, "both_empty"), row("x", 2, 0.0, "spurious")
    paired = pair([empty], [spurious], [empty])
    assert values(paired, "dice", 2) == [[1.0], [0.0], [1.0]]
    assert values(paired, "assd_mm", 2) == [[0.0], [10.0], [0.0]]
    assert values(paired, "|volume_difference_ml|", 2) == [[0.0], [1.0], [0.0]]


def test_a_label_that_nobody_has_stays_undefined_and_leaves_the_mean() -> None:
    paired = pair(*[[row("x", 1, 0.8), row("x", 2, NAN, "both_empty")]] * 2)
    assert np.isnan(values(paired, "dice", 2)).all()
    assert values(paired, "dice", None) == [[0.8], [0.8]]
    empty = pair(*[[row("x", 2, NAN, "both_empty")]] * 2)
    assert np.isnan(values(empty, "dice", None)).all()


def test_a_label_without_a_row_is_empty_where_the_reference_lacks_it() -> None:
    paired = pair([row("x", 1, 0.8), row("x", 2, 0.0, "spurious")], [row("x", 1, 0.7)])
    assert values(paired, "dice", 2) == [[0.0], [1.0]]
    assert values(paired, "dice", None) == [[0.4], [pytest.approx(0.85)]]
    assert not paired.notes


def test_a_label_without_a_row_is_said_where_the_reference_has_it() -> None:
    paired = pair(
        [row("x", 1, 0.8), row("x", 2, 0.6), row("y", 2, 0.5)], [row("x", 1, 0.7), row("y", 2, 0.4)]
    )
    np.testing.assert_equal(values(paired, "dice", 2), [[NAN, 0.5], [NAN, 0.4]])
    assert values(paired, "dice", None) == [[0.8, 0.5], [0.7, 0.4]]
    assert paired.notes == ("not in every table and left out: x label 2",)


@pytest.mark.parametrize(
    ("first", "regions"), [(row("x", 2, 0.6), ()), (row("x", 2, 0.0, "spurious"), (2,))]
)
def test_on_what_it_was_not_scored_no_model_is_best(first: Row, regions: tuple[int, ...]) -> None:
    """In case y only, b would otherwise have predicted rightly that there is no tumor."""
    scored = [row("x", 1, 0.8), first, row("y", 1, 0.8), row("y", 2, 0.0, "spurious")]
    paired = pair(scored, [row("x", 1, 0.7), row("y", 1, 0.7)], regions=regions)
    assert paired.labels == (1,)
    assert values(paired, "dice", None) == [[0.8, 0.8], [0.7, 0.7]]
    assert paired.notes == (
        "tumor has no row in the table of b, so that it was not scored there and is left out for "
        "all models",
    )


def test_a_region_with_the_name_of_a_label_is_called_a_region() -> None:
    rows = [row("x", 1, 0.8), row("x", 2, 0.6, name="liver")]
    assert pair(rows, rows, regions=[2]).names == {1: "liver", 2: "liver (region)"}
    assert pair(rows, rows).names == {1: "liver", 2: "liver"}


def test_a_value_that_one_model_lacks_is_left_out_for_all() -> None:
    alone = row("x", 1, 0.5, scores={"dice": NAN, "assd_mm": 1.0, "volume_difference_ml": 0.0})
    paired = pair([alone, row("y", 1, 0.9)], [row("x", 1, 0.8), row("y", 1, 0.7)])
    assert np.array(values(paired, "dice", 1)) == pytest.approx(
        np.array([[NAN, 0.9], [NAN, 0.7]]), nan_ok=True
    )
    assert values(paired, "assd_mm", 1)[0][0] == 1.0


def test_signed_differences_are_compared_by_their_size() -> None:
    tables = [
        [row("x", 1, 0.9, scores={"volume_difference_ml": difference})]
        for difference in (-3.0, 2.0)
    ]
    paired = pair(*tables)
    assert paired.measures == (
        Measure("|volume_difference_ml|", "volume_difference_ml", "mL", "lower"),
    )
    assert values(paired, "|volume_difference_ml|", 1) == [[3.0], [2.0]]


def test_patients_come_from_the_table_or_else_from_the_name_of_the_case() -> None:
    rows = [row("x", 1, 0.9, patient="ann"), row("sub-07_ses-2", 1, 0.9), row("y", 1, 0.9)]
    assert pair(rows, rows).patients == ("sub-07", "ann", "y")


def test_different_references_and_names_are_said() -> None:
    paired = pair(
        [row("x", 1, 0.9), row("y", 1, 0.9)],
        [row("x", 1, 0.9, reference_ml=2.1), row("y", 1, 0.9, name="hepar")],
    )
    different, named = paired.notes
    assert different.startswith("scored against different references (x label 1)")
    assert named == "the tables name labels differently: 1 is hepar and liver"


def test_rounding_of_the_volume_makes_no_other_reference() -> None:
    tables = [[row("x", 1, 0.9, reference_ml=volume)] for volume in (0.000002, 0.000001)]
    assert not pair(*tables).notes


def test_columns_that_not_all_have_or_nobody_knows_are_said() -> None:
    tables = [
        [row("x", 1, 0.9, scores={"dice": 0.9, "iou": 0.8, "age": 50.0})],
        [row("x", 1, 0.9, scores={"dice": 0.9, "age": 50.0})],
    ]
    paired = pair(*tables)
    assert [measure.name for measure in paired.measures] == ["dice"]
    partial, unknown = paired.notes
    assert partial == "not compared, since not in every table: iou"
    assert unknown == "not compared, since no metric tells which values are better: age"


def test_columns_can_be_chosen() -> None:
    rows = [row("x", 1, 0.9)]
    paired = pair(rows, rows, columns=["assd_mm", "dice", "dice"])
    assert [measure.name for measure in paired.measures] == ["assd_mm", "dice"]


@pytest.mark.parametrize(
    ("tables", "options", "error", "message"),
    [
        ([[row("x", 1, 0.9)]], {}, ConfigError, "only one model is there .a."),
        ([[row("x", 1, 0.9)], []], {}, DataError, "b has no scores"),
        (
            [[row("x", 1, 0.9), row("x", 1, 0.8)], [row("x", 1, 0.9)]],
            *({}, DataError, "a has case x with label 1 twice"),
        ),
        ([[row("x", 1, 0.9)], [row("y", 1, 0.9)]], {}, DataError, "no case is in all tables; x"),
        ([[row("x", 1, 0.9)], [row("x", 2, 0.9)]], {}, DataError, "no label or region is in all"),
        ([[row("x", 1, 0.9)]] * 2, {"columns": ["nsd"]}, ConfigError, "column 'nsd' is not in"),
        ([[row("x", 1, 0.9, scores={"age": 1.0})]] * 2, {}, DataError, "no column of scores"),
    ],
)
def test_what_cannot_be_compared_is_refused(tables, options, error, message) -> None:
    with pytest.raises(error, match=message):
        pair(*tables, **options)


def test_every_column_of_a_usual_table_has_its_direction() -> None:
    for column in columns():
        measure = measure_of(column.name)
        assert measure is not None
        assert (measure.column, measure.unit) == (column.name, column.unit)
        if column.better == "zero":
            assert (measure.name, measure.better) == (f"|{column.name}|", "lower")
        else:
            assert (measure.name, measure.better) == (column.name, column.better)


@pytest.mark.parametrize(
    ("column", "unit", "better"),
    [
        ("surface_dice_2.5mm", "1", "higher"),
        ("hausdorff_95_mm", "mm", "lower"),
        ("hausdorff_95_mm_pooled", "mm", "lower"),
    ],
)
def test_options_in_a_heading_do_not_hide_its_metric(column: str, unit: str, better: str) -> None:
    assert measure_of(column) == Measure(column, column, unit, better)


@pytest.mark.parametrize(
    "column", ["", "dices", "surface_dice_", "surface_dice_xmm", "my_dice", "mm"]
)
def test_other_columns_belong_to_no_metric(column: str) -> None:
    assert measure_of(column) is None
