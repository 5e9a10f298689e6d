"""Lesions found and invented: the published vector, brute force, and every rule by hand."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics.lesions import (
    lesion_f1,
    lesion_false_positives,
    lesion_precision,
    lesion_sensitivity,
)
from medseg3d.metrics.masks import MaskPair
from medseg3d.metrics.matching import LesionRules, match_lesions
from medseg3d.metrics.overlap import dice
from medseg3d.types import Mask

ALL = (lesion_sensitivity, lesion_precision, lesion_f1, lesion_false_positives)
each_metric = pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
EMPTY = np.zeros((4, 3, 5), dtype=bool)
masks = arrays(np.bool_, (4, 3, 5), elements=st.floats(0, 1).map(lambda draw: draw < 0.3))
STEPS = {6: 1, 18: 2, 26: 3}


def row(*spans: tuple[int, int]) -> Mask:
    """Lesions along one line, each from its first to its last voxel."""
    mask = np.zeros((3, 3, 24), dtype=bool)
    for first, last in spans:
        mask[1, 1, first : last + 1] = True
    return mask


def scores(prediction: Mask, reference: Mask, spacing=(1.0, 1.0, 1.0), **rules) -> tuple:
    return tuple(metric(prediction, reference, spacing, **rules) for metric in ALL)


def near(*values: float) -> object:
    return pytest.approx(values, abs=1e-5)


def test_published_vector() -> None:
    reference, prediction = row((0, 3), (8, 11), (16, 17)), row((0, 4), (10, 13), (21, 22))
    assert scores(prediction, reference) == near(2 / 3, 2 / 3, 0.66667, 1)
    assert scores(prediction, reference, rule="iou", threshold=0.1) == near(2 / 3, 2 / 3, 2 / 3, 1)
    assert scores(prediction, reference, rule="iou", threshold=0.5) == near(1 / 3, 1 / 3, 1 / 3, 2)
    assert dice(prediction, reference) == pytest.approx(0.57143, abs=1e-5)


def test_a_split_lesion_was_found_and_is_one_to_one_only_once() -> None:
    reference, prediction = row((2, 9)), row((2, 4), (6, 9))
    assert scores(prediction, reference) == near(1, 1, 1, 0)
    assert scores(reference, prediction) == near(1, 1, 1, 0)
    assert scores(prediction, reference, rule="iou", threshold=0.0) == near(1, 1 / 2, 2 / 3, 1)
    assert scores(reference, prediction, rule="iou", threshold=0.0) == near(1 / 2, 1, 2 / 3, 0)


def test_an_intersection_over_union_equal_to_the_threshold_matches_unless_strict() -> None:
    pair = row((0, 1)), row((0, 3))
    assert lesion_f1(*pair, rule="iou", threshold=0.5) == 0.0
    assert lesion_f1(*pair, rule="iou", threshold=0.5, strict=False) == 1.0


def test_partners_are_chosen_for_the_largest_sum() -> None:
    # the first prediction fits the second lesion best (3/8), both ways round it is more
    reference, prediction = row((0, 2), (4, 8)), row((1, 6), (8, 9))
    found = match_lesions(MaskPair(prediction, reference), LesionRules("iou", threshold=0.0))
    assert found.pairs.tolist() == [[1, 1], [2, 2]]
    assert found.ious.tolist() == pytest.approx([2 / 7, 1 / 6])
    # here the one pair of 3/7 is more than 1/6 and 1/7
    reference, prediction = row((0, 1), (3, 7)), row((1, 5), (7, 9))
    found = match_lesions(MaskPair(prediction, reference), LesionRules("iou", threshold=0.0))
    assert found.pairs.tolist() == [[2, 1]]


def test_the_center_of_the_prediction_must_lie_inside() -> None:
    reference = row((4, 6))
    for prediction, expected in (
        (row((3, 9)), 1.0),  # center 6
        (row((3, 10)), 1.0),  # center 6.5: as much in 6 as in 7
        (row((4, 10)), 0.0),  # center 7, though they overlap
        (row((0, 7)), 1.0),  # center 3.5
        (row((0, 6)), 0.0),  # center 3
    ):
        assert scores(prediction, reference, rule="centroid")[:3] == near(*[expected] * 3)
        mirrored = prediction[..., ::-1], reference[..., ::-1]
        assert scores(*mirrored, rule="centroid")[:3] == near(*[expected] * 3)


def test_neighbors_across_corners_are_one_lesion_only_if_told() -> None:
    pair = np.zeros((3, 3, 3), dtype=bool)
    pair[0, 0, 0] = pair[1, 1, 1] = True
    edge = np.zeros((3, 3, 3), dtype=bool)
    edge[0, 0, 0] = edge[0, 1, 1] = True
    found = [
        [
            match_lesions(MaskPair(mask, mask), LesionRules(connectivity=c)).num_reference
            for c in (6, 18, 26)
        ]
        for mask in (pair, edge)
    ]
    assert found == [[2, 2, 1], [2, 1, 1]]


def test_small_lesions_do_not_exist() -> None:
    reference, prediction = row((0, 3), (8, 9), (20, 20)), row((0, 3), (12, 12), (15, 16))
    assert scores(prediction, reference) == near(1 / 3, 1 / 3, 1 / 3, 2)
    assert scores(prediction, reference, min_voxels=2) == near(1 / 2, 1 / 2, 1 / 2, 1)
    assert scores(prediction, reference, min_voxels=3) == near(1, 1, 1, 0)
    spacing = (0.5, 2.0, float(np.float32(0.7)))  # a voxel of a little less than 0.7 mm3
    assert scores(prediction, reference, spacing, min_mm3=0.7) == near(1 / 3, 1 / 3, 1 / 3, 2)
    assert scores(prediction, reference, spacing, min_mm3=1.4) == near(1 / 2, 1 / 2, 1 / 2, 1)
    assert scores(prediction, reference, spacing, min_mm3=1.5) == near(1, 1, 1, 0)
    assert np.isnan(lesion_f1(prediction, reference, min_voxels=5))


def test_the_volume_of_a_voxel_may_be_told() -> None:
    masks = MaskPair(row((0, 3)), row((0, 3)), (1.0, 1.0, 1.0), voxel_volume_mm3=0.5)
    assert lesion_f1.of(masks, min_mm3=2.0) == 1.0
    assert np.isnan(lesion_f1.of(masks, min_mm3=2.1))


def test_a_grown_reference_joins_its_parts_and_meets_what_is_near() -> None:
    reference, prediction = row((4, 5), (8, 9), (20, 20)), row((11, 12))
    spacing = (1.0, 1.0, float(np.float32(1.1)))
    assert scores(prediction, reference, spacing) == near(0, 0, 0, 1)
    # grown by one voxel, 4 to 5 and 8 to 9 touch at 6 and 7; by two, they reach 11
    joined = match_lesions(MaskPair(prediction, reference, spacing), LesionRules(dilation_mm=1.1))
    assert (joined.num_reference, joined.num_found) == (2, 0)
    assert scores(prediction, reference, spacing, dilation_mm=2.2) == near(1 / 2, 1, 2 / 3, 0)
    # sizes stay those of the masks: the joined lesion has 4 voxels, the other 1
    assert lesion_sensitivity(prediction, reference, spacing, dilation_mm=2.2, min_voxels=2) == 1
    for size in (4, 5):
        rules = {"dilation_mm": 1.1, "min_voxels": size, "rule": "iou", "threshold": 0.9}
        found = lesion_f1(reference & row((0, 12)), reference, spacing, **rules)
        assert np.isnan(found) if size == 5 else found == 0.0


def test_nothing_on_one_or_both_sides() -> None:
    full = ~EMPTY
    assert scores(EMPTY, full) == near(0, 0, 0, 0)
    assert scores(full, EMPTY) == near(0, 0, 0, 1)
    assert np.isnan(scores(EMPTY, EMPTY)[:3]).all()
    assert lesion_false_positives(EMPTY, EMPTY) == 0.0  # stays in the mean over cases
    none = np.zeros((0, 0, 0), dtype=bool)
    assert np.isnan(lesion_f1(none, none))


class Found(NamedTuple):
    num_reference: int
    num_predicted: int
    num_found: int
    num_right: int


def by_brute_force(prediction: Mask, reference: Mask, rules: LesionRules) -> Found:
    structure = ndimage.generate_binary_structure(3, STEPS[rules.connectivity])
    lesions = []
    for mask in (prediction, reference):
        numbers, count = ndimage.label(mask, structure)
        voxels = [set(map(tuple, np.argwhere(numbers == n))) for n in range(1, count + 1)]
        lesions.append([lesion for lesion in voxels if len(lesion) >= rules.min_voxels])
    predicted, expected = lesions
    matches = []
    for there, lesion in enumerate(expected):
        for here, other in enumerate(predicted):
            iou = len(lesion & other) / len(lesion | other)
            if rules.rule == "overlap":
                is_match = iou > 0
            elif rules.rule == "iou":
                is_match = iou > rules.threshold
            else:
                center = np.mean(list(other), axis=0)
                is_match = any(np.abs(center - place).max() <= 0.5 for place in lesion)
            if is_match:
                matches.append((there, here, iou))
    return Found(
        len(expected),
        len(predicted),
        len({there for there, _, _ in matches}),
        len({here for _, here, _ in matches}),
    )


@given(
    prediction=masks,
    reference=masks,
    rule=st.sampled_from(["overlap", "iou", "centroid"]),
    connectivity=st.sampled_from([6, 18, 26]),
    min_voxels=st.integers(1, 3),
)
def test_agrees_with_brute_force(prediction, reference, rule, connectivity, min_voxels) -> None:
    rules = LesionRules(rule, 0.5, connectivity=connectivity, min_voxels=min_voxels)
    found = match_lesions(MaskPair(prediction, reference), rules)
    counts = (found.num_reference, found.num_predicted, found.num_found, found.num_right)
    assert counts == by_brute_force(prediction, reference, rules)


@given(prediction=masks, reference=masks, threshold=st.sampled_from([0.0, 0.1, 0.25]))
def test_one_to_one_is_the_best_of_all_choices(prediction, reference, threshold) -> None:
    pair = MaskPair(prediction, reference)
    found = match_lesions(pair, LesionRules("iou", threshold))
    assert len(np.unique(found.pairs[:, 0])) == len(np.unique(found.pairs[:, 1]))
    assert found.num_found == found.num_right == len(found.pairs) == len(found.ious)
    numbers = [ndimage.label(m, np.ones((3, 3, 3)))[0] for m in (reference, prediction)]
    allowed = {}
    for there in range(1, numbers[0].max() + 1):
        for here in range(1, numbers[1].max() + 1):
            both = (numbers[0] == there) & (numbers[1] == here)
            either = (numbers[0] == there) | (numbers[1] == here)
            if both.sum() / either.sum() > threshold:
                allowed[there, here] = both.sum() / either.sum()

    def best(pairs: tuple) -> float:
        if not pairs:
            return 0.0
        (there, here), *others = pairs
        rest = tuple(p for p in others if p[0] != there and p[1] != here)
        return max(best(tuple(others)), allowed[there, here] + best(rest))

    assert found.ious.sum() == pytest.approx(best(tuple(allowed)))


def test_thousands_of_lesions_are_matched_one_to_one() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = rng.random((2, 60, 60, 60)) < 0.02
    found = match_lesions(
        MaskPair(prediction | (reference & (rng.random(reference.shape) < 0.5)), reference),
        LesionRules("iou", threshold=0.0),
    )
    assert found.num_reference > 2000
    assert found.num_found == found.num_right == len(found.pairs) > 1000


@each_metric
@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"rule": "touch"}, "rule must be one of overlap, iou, centroid, got 'touch'"),
        ({"connectivity": 8}, "connectivity must be one of 6, 18, 26, got 8"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"threshold": float("nan")}, r"threshold must lie in \[0, 1\], got nan"),
        ({"min_voxels": -1}, "min_voxels must be a number of at least 0, got -1"),
        ({"min_mm3": float("inf")}, "min_mm3 must be a number of at least 0, got inf"),
        ({"dilation_mm": -0.5}, "dilation_mm must be a number of at least 0, got -0.5"),
    ],
)
def test_rules_out_of_range_are_refused(metric, rules: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric(EMPTY, EMPTY, **rules)


@each_metric
def test_lengths_need_a_spacing_and_lesions_three_axes(metric) -> None:
    for rules in ({"min_mm3": 1.0}, {"dilation_mm": 1.0}):
        with pytest.raises(DataError, match="needs the spacing in mm"):
            metric(~EMPTY, ~EMPTY, **rules)
    with pytest.raises(DataError, match=r"lesions are found in 3D masks, got shape \(3, 5\)"):
        metric(EMPTY[0], EMPTY[0])


def test_metrics_of_one_pair_share_its_matches() -> None:
    masks = MaskPair(row((0, 3)), row((0, 3)))
    calls = []

    def counted(pair: MaskPair, *, rules: LesionRules):
        calls.append(rules)
        return match_lesions(pair, rules)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg3d.metrics.lesions.match_lesions", counted)
        for metric in ALL:
            metric.of(masks)
        assert len(calls) == 1
        lesion_f1.of(masks, rule="iou")
        assert len(calls) == 2
