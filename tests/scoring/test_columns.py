"""The columns of a table: their names, what they ask of a metric, and what is refused."""

import pickle

import numpy as np
import pytest

from medseg3d.config import Part
from medseg3d.errors import ConfigError
from medseg3d.metrics import METRICS
from medseg3d.metrics.masks import MaskPair
from medseg3d.metrics.surface import assd, hausdorff_95
from medseg3d.scoring.columns import Column, columns

OF_MASKS = [name for name in METRICS if METRICS.facts(name).get("of") == "masks"]
OF_CASES = [name for name in METRICS if METRICS.facts(name).get("of") == "labels"]
OF_OTHERS = [name for name in METRICS if METRICS.facts(name).get("of") == "probabilities"]


def names(*parts: Part, **options) -> list[str]:
    return [column.name for column in columns(parts or None, **options)]


def masks() -> MaskPair:
    prediction, reference = np.zeros((2, 7, 8, 9), dtype=bool)
    prediction[1:5, 2:6, 2:6] = reference[2:6, 2:6, 2:7] = True
    return MaskPair(prediction, reference, (1.0, 1.5, 2.0))


def test_the_usual_columns_keep_their_names() -> None:
    assert names() == [
        "dice", "iou", "precision", "recall", "volume_similarity", "hausdorff_mm",
        "hausdorff_95_mm", "assd_mm", "masd_mm", "surface_dice_1mm", "surface_dice_2mm",
        "volume_difference_ml",
    ]  # fmt: skip


def test_every_tolerance_is_a_column() -> None:
    found = columns(tolerances_mm=(0.5, 3.0, 10.0))
    dice = [column for column in found if column.metric == "surface_dice"]
    assert [column.name for column in dice] == [
        "surface_dice_0.5mm", "surface_dice_3mm", "surface_dice_10mm",
    ]  # fmt: skip
    assert [column.options["tolerance"] for column in dice] == [0.5, 3.0, 10.0]
    asked = Part(name="surface_dice", options={"tolerance": 4.0})
    assert names(asked, tolerances_mm=(0.5, 3.0)) == ["surface_dice_4mm"]


def test_the_f1_of_lesions_is_given_by_both_rules() -> None:
    overlap, iou = columns([Part(name="lesion_f1")])
    assert (overlap.name, iou.name) == ("lesion_f1", "lesion_f1_rule_iou")
    assert overlap.definition.endswith("; rule = overlap")
    assert iou.definition.endswith("; rule = iou, threshold = 0.1")
    prediction, reference = np.zeros((2, 1, 1, 30), dtype=bool)
    reference[..., :12] = prediction[..., 11:20] = True  # they share one voxel of 20
    pair = MaskPair(prediction, reference)
    assert (overlap.score(pair), iou.score(pair)) == (1.0, 0.0)
    asked = Part(name="lesion_f1", options={"rule": "iou", "threshold": 0.5})
    assert names(asked) == ["lesion_f1_rule_iou_threshold_0.5"]
    assert names(Part(name="lesion_f1", options={"connectivity": 26})) == ["lesion_f1"]


def test_a_name_tells_the_options_that_are_not_the_usual_ones() -> None:
    assert names(
        Part(name="hausdorff_95"),
        Part(name="hausdorff_95", options={"pooled": True}),
        Part(name="hausdorff", options={"percentile": 90.0}),
        Part(name="assd", options={"surface": "mesh"}),
        Part(name="masd", options={"surface": "voxel"}),
    ) == [
        "hausdorff_95_mm", "hausdorff_95_mm_pooled", "hausdorff_mm_percentile_90",
        "assd_mm_surface_mesh", "masd_mm",
    ]  # fmt: skip


@pytest.mark.parametrize("name", OF_MASKS)
def test_every_metric_of_masks_can_be_a_column(name: str) -> None:
    for column in columns([Part(name=name)]):
        assert column.unit in ("1", "mm", "mL", "%")
        assert column.better in ("higher", "lower", "zero")
        assert column.definition
        assert column.source
        assert isinstance(column.score(masks(), surface="voxel", border=True), float)


@pytest.mark.parametrize("name", OF_CASES)
def test_every_metric_of_label_maps_can_be_asked_for(name: str) -> None:
    [column] = columns([Part(name=name)])
    assert column.is_of_case
    assert column.score(np.array([[3, 0], [0, 1]]), surface="voxel") == 1.0
    assert not any(column.is_of_case for column in columns())


@pytest.mark.parametrize("name", OF_OTHERS)
def test_a_metric_of_something_else_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"metric '{name}' .* cannot be a column; choose from"):
        columns([Part(name=name)])


def test_a_column_passes_its_options_and_those_that_all_share() -> None:
    pooled, mesh, plain = columns(
        [
            Part(name="hausdorff_95", options={"pooled": True}),
            Part(name="assd", options={"surface": "mesh"}),
            Part(name="assd"),
        ]
    )
    pair = masks()
    common = {"surface": "voxel", "border": False, "unknown": 1}
    assert pooled.score(pair, **common) == hausdorff_95.of(pair, pooled=True, border=False)
    assert mesh.score(pair, **common) == assd.of(pair, surface="mesh", border=False)
    assert plain.score(pair, **common) == assd.of(pair, border=False)
    assert plain.score(pair, surface="mesh") == assd.of(pair, surface="mesh")
    assert "pooled = True" in pooled.definition


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(name="dise"), "unknown metric 'dise'; did you mean dice"),
        (Part(name="hausdorff_95", options={"poled": 1}), "no option 'poled'; did you mean pooled"),
        (Part(name="dice", options={"beta": 1}), "no option 'beta'; valid options: none"),
        (Part(name="surface_dice", options={"tolerance": -1.0}), "tolerance must be a distance"),
        (Part(name="surface_dice", options={"tolerance": "wide"}), "cannot be used with"),
        (Part(name="hausdorff", options={"percentile": 0}), "percentile must lie in"),
        (Part(name="hausdorff", options={"percentile": "most"}), "cannot be used with"),
        (Part(name="assd", options={"surface": "skin"}), "surface must be voxel or mesh"),
    ],
    ids=lambda value: str(getattr(value, "options", "")) or None,
)
def test_a_wrong_request_is_refused_before_the_work(part: Part, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        columns([part])


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="the column dice is asked for twice"):
        names(Part(name="dice"), Part(name="iou"), Part(name="dice"))
    with pytest.raises(ConfigError, match="the column surface_dice_1mm is asked for twice"):
        names(tolerances_mm=(1.0, 1.0))


def test_no_metric_is_no_table() -> None:
    with pytest.raises(ConfigError, match="no metric is asked for"):
        columns([])


def test_a_column_can_be_sent_to_another_process() -> None:
    for column in columns():
        copy = pickle.loads(pickle.dumps(column))
        assert copy == column
        assert isinstance(copy, Column)
        assert hash(copy) == hash(column)
