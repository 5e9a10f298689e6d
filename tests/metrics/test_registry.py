"""What holds for every metric: its facts, how it is called, and what does not change it."""

import inspect
from string import Formatter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.errors import DataError
from medseg3d.metrics import METRICS
from medseg3d.metrics.masks import MaskPair
from medseg3d.types import Mask

EMPTY = np.zeros((5, 4, 6), dtype=bool)
SPACING = (1.0, 2.0, 3.0)
masks = arrays(np.bool_, EMPTY.shape, elements=st.floats(0, 1).map(lambda draw: draw < 0.4))

OF_MASKS = [name for name in METRICS if METRICS.facts(name).get("of") == "masks"]
OF_IMAGE = {"specificity", "matthews_correlation", "cohen_kappa"}  # the background counts
COUNTS = {"volume_difference", "absolute_volume_difference", "lesion_false_positives"}
DIRECTED = {
    "precision", "recall", "specificity", "lesion_sensitivity", "lesion_precision",
    "lesion_false_positives", "relative_volume_difference", "absolute_relative_volume_difference",
}  # fmt: skip
each_of_masks = pytest.mark.parametrize("name", OF_MASKS)


def drawn() -> tuple[Mask, Mask]:
    half, third = EMPTY.copy(), EMPTY.copy()
    half[:3] = third[1:3, :2] = True
    return half, third


def test_the_metrics_of_the_specification_are_there() -> None:
    assert {
        "dice", "iou", "precision", "recall", "f_beta", "specificity", "matthews_correlation",
        "cohen_kappa", "hausdorff", "hausdorff_95", "assd", "masd", "surface_dice",
        "boundary_iou", "cldice", "volume_similarity", "volume_difference",
        "absolute_volume_difference", "relative_volume_difference",
        "absolute_relative_volume_difference", "lesion_sensitivity", "lesion_precision",
        "lesion_f1", "lesion_false_positives", "panoptic_quality", "recognition_quality",
        "segmentation_quality",
    } == set(OF_MASKS)  # fmt: skip
    others = {name: METRICS.facts(name)["of"] for name in METRICS if name not in OF_MASKS}
    of_labels = ("pixel_accuracy", "precision_macro", "recall_macro", "mean_iou")
    of_probabilities = ("auroc", "average_precision", "brier_score", "expected_calibration_error")
    assert others == {
        **dict.fromkeys((*of_labels, "frequency_weighted_iou"), "labels"),
        **dict.fromkeys(of_probabilities, "probabilities"),
    }


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_states_what_it_is(name: str) -> None:
    facts = METRICS.facts(name)
    assert set(facts) == {"of", "unit", "better", "definition", "source", "column"}
    assert facts["unit"] in {"1", "mm", "mL", "%"}
    assert facts["better"] in {"higher", "lower", "zero"}
    assert len(facts["definition"]) > 20
    assert facts["source"]
    assert (METRICS[name].__doc__ or "").strip()
    options = inspect.signature(getattr(METRICS[name], "of", METRICS[name])).parameters
    assert all(
        option.default is not inspect.Parameter.empty
        for option in options.values()
        if option.kind is inspect.Parameter.KEYWORD_ONLY
    )
    places = {place for _, place, _, _ in Formatter().parse(facts["column"]) if place}
    assert places <= set(options)


@each_of_masks
def test_every_metric_of_masks_is_called_the_same_way(name: str) -> None:
    found = METRICS.build(name, *drawn(), SPACING)
    assert isinstance(found, float)
    assert np.isfinite(found)
    assert found == METRICS[name].of(MaskPair(*drawn(), SPACING))


def test_options_are_passed_by_name() -> None:
    pair = (*drawn(), SPACING)
    assert METRICS["f_beta"](*pair, beta=1e6) == pytest.approx(METRICS["recall"](*pair))
    assert METRICS["boundary_iou"](*pair, width=99.0) == METRICS["iou"](*pair)


@each_of_masks
def test_empty_masks(name: str) -> None:
    facts = METRICS.facts(name)
    both = METRICS.build(name, EMPTY, EMPTY, SPACING)
    assert both == 0.0 if name in COUNTS else np.isnan(both)
    half, _ = drawn()
    missed = METRICS.build(name, EMPTY, half, SPACING)
    spurious = METRICS.build(name, half, EMPTY, SPACING)
    assert not np.isnan(missed)
    if facts["unit"] == "mm":
        assert missed == spurious == np.inf
    elif facts["unit"] == "1" and name not in COUNTS | {"specificity"}:
        assert missed == spurious == 0.0


@each_of_masks
def test_a_perfect_prediction_has_the_best_value(name: str) -> None:
    half, _ = drawn()
    best = {"higher": 1.0, "lower": 0.0, "zero": 0.0}[METRICS.facts(name)["better"]]
    assert METRICS.build(name, half, half, SPACING) == pytest.approx(best)


@each_of_masks
def test_what_are_no_masks_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="mask must be boolean, found uint8"):
        METRICS.build(name, EMPTY.astype(np.uint8), EMPTY, SPACING)
    with pytest.raises(DataError, match="masks differ in shape"):
        METRICS.build(name, EMPTY[1:], EMPTY, SPACING)
    with pytest.raises(DataError, match="spacing must be 3 lengths in mm"):
        METRICS.build(name, EMPTY, EMPTY, (1.0, 0.0, 1.0))


@given(prediction=masks, reference=masks, axis=st.sampled_from([0, 1, 2]))
@settings(max_examples=25)
def test_nothing_depends_on_how_the_image_lies(prediction: Mask, reference: Mask, axis) -> None:
    pair = MaskPair(prediction, reference, SPACING)
    flipped = MaskPair(np.flip(prediction, axis), np.flip(reference, axis), SPACING)
    order = (axis, *(other for other in range(3) if other != axis))
    i, j, k = (SPACING[other] for other in order)
    turned = MaskPair(prediction.transpose(order), reference.transpose(order), (i, j, k))
    fortran = MaskPair(np.asfortranarray(prediction), np.asfortranarray(reference), SPACING)
    for name in OF_MASKS:
        expected = pytest.approx(METRICS[name].of(pair), nan_ok=True)
        for other in (flipped, turned, fortran):
            assert METRICS[name].of(other) == expected, name


@given(prediction=masks, reference=masks)
@settings(max_examples=25)
def test_a_margin_changes_only_what_is_about_the_background(prediction, reference) -> None:
    pair = MaskPair(prediction, reference, SPACING)
    padded = MaskPair(np.pad(prediction, 2), np.pad(reference, 2), SPACING)
    cut = MaskPair(prediction, reference, SPACING, image_shape=padded.prediction.shape)
    for name in OF_MASKS:
        wide = METRICS[name].of(padded)
        assert METRICS[name].of(cut) == pytest.approx(wide, nan_ok=True), name
        if name not in OF_IMAGE:
            assert METRICS[name].of(pair) == pytest.approx(wide, nan_ok=True), name


@given(prediction=masks, reference=masks)
@settings(max_examples=25)
def test_swapping_both_masks_changes_only_what_has_a_direction(prediction, reference) -> None:
    there, back = (
        MaskPair(prediction, reference, SPACING), MaskPair(reference, prediction, SPACING)
    )  # fmt: skip
    for name in OF_MASKS:
        if name in DIRECTED:
            continue
        sign = -1.0 if METRICS.facts(name)["better"] == "zero" else 1.0
        found = sign * METRICS[name].of(back)
        assert found == pytest.approx(METRICS[name].of(there), nan_ok=True), name
    exchanged = (("precision", "recall"), ("lesion_precision", "lesion_sensitivity"))
    for one, other in exchanged:
        found = METRICS[one].of(back)
        assert found == pytest.approx(METRICS[other].of(there), nan_ok=True)


def test_options_reach_a_metric_through_the_registry() -> None:
    half, third = drawn()
    found = METRICS.build("f_beta", half, third, SPACING, beta=2.0)
    assert found == METRICS["f_beta"](half, third, SPACING, beta=2.0)
    assert found != METRICS["f_beta"](half, third, SPACING, beta=1.0)
    parameters = inspect.signature(METRICS["f_beta"]).parameters
    assert list(parameters) == ["prediction", "reference", "spacing", "beta"]


OF_LESIONS = {name for name in OF_MASKS if "lesion" in name or "quality" in name}


@given(plane=arrays(np.bool_, (2, 5, 4)), axis=st.sampled_from([0, 1, 2]))
@settings(max_examples=25)
def test_an_image_of_one_slice_scores_as_its_plane(plane: Mask, axis: int) -> None:
    spacing = np.insert([1.0, 2.0], axis, 1.0)
    volume = MaskPair(*np.expand_dims(plane, axis + 1), tuple(spacing))
    for name in set(OF_MASKS) - OF_LESIONS:
        expected = METRICS[name].of(MaskPair(*plane, (1.0, 2.0)))
        assert METRICS[name].of(volume) == pytest.approx(expected, nan_ok=True), name
