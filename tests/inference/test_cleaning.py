"""Cleaning label maps, compared with SciPy and worked out by hand."""

import tracemalloc
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from medseg3d.config import Cleaning, validated
from medseg3d.errors import ConfigError
from medseg3d.inference.cleaning import Change, boxes_of, clean
from medseg3d.types import LabelMap

LARGEST = Cleaning(keep_largest=True)
HOLES = Cleaning(fill_holes=True)


def line(*values: int) -> LabelMap:
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def shell(inside: int = 0, *, label: int = 1, edge: int = 5) -> LabelMap:
    """A hollow cube in a margin of background, with another cube in its middle."""
    labels = np.zeros((edge + 2,) * 3, np.uint8)
    labels[1:-1, 1:-1, 1:-1] = label
    labels[2:-2, 2:-2, 2:-2] = inside
    return labels


# By hand


@pytest.mark.parametrize("axis", range(3))
def test_a_hole_in_an_image_of_one_slice_is_filled(axis: int) -> None:
    ring = np.zeros((10, 10), np.uint8)
    ring[1:9, 1:9] = 1
    ring[4:6, 4:6] = 0
    ring[0, 5] = 1
    labels = np.expand_dims(ring, axis)
    assert clean(labels, {1: HOLES}, voxel_mm3=1) == {1: Change(filled=4)}
    slices = np.stack([ring, np.zeros_like(ring)], axis)
    assert clean(slices, {1: HOLES}, voxel_mm3=1) == {1: Change()}


def test_a_row_of_voxels_has_no_holes() -> None:
    labels = line(1, 0, 1)
    assert clean(labels, {1: HOLES}, voxel_mm3=1) == {1: Change()}


def test_the_largest_part_stays() -> None:
    labels = line(1, 0, 1, 1, 1, 0, 1, 1, 2)
    assert clean(labels, {1: LARGEST}, voxel_mm3=1) == {1: Change(removed=3)}
    assert labels.ravel().tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 2]


def test_equally_large_parts_all_stay() -> None:
    labels = line(1, 1, 0, 1, 0, 1, 1)
    clean(labels, {1: LARGEST}, voxel_mm3=1)
    assert labels.ravel().tolist() == [1, 1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("voxel_mm3", "least", "expected"),
    [
        (1.0, 2, [1, 1, 0, 0, 0, 1, 1, 1]),
        (1.0, 2.01, [0, 0, 0, 0, 0, 1, 1, 1]),
        (0.5, 2, [0, 0, 0, 0, 0, 0, 0, 0]),
        (3.0, 2, [1, 1, 0, 1, 0, 1, 1, 1]),
        (float(np.float32(0.1)) ** 3 * (1 - 1e-7), 0.002, [1, 1, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_parts_are_measured_in_mm3(voxel_mm3: float, least: float, expected: list[int]) -> None:
    labels = line(1, 1, 0, 1, 0, 1, 1, 1)
    clean(labels, {1: Cleaning(min_volume_mm3=least)}, voxel_mm3=voxel_mm3)
    assert labels.ravel().tolist() == expected


def test_the_largest_part_goes_too_if_it_is_too_small() -> None:
    labels = line(1, 0, 1, 1)
    clean(labels, {1: Cleaning(keep_largest=True, min_volume_mm3=3)}, voxel_mm3=1)
    assert not labels.any()


def test_parts_touch_over_corners() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = labels[3, 0, 3] = 1
    assert clean(labels, {1: LARGEST}, voxel_mm3=1) == {1: Change(removed=1)}
    assert labels[3, 0, 3] == 0


def test_a_hole_is_filled() -> None:
    labels = shell()
    assert clean(labels, {1: HOLES}, voxel_mm3=1) == {1: Change(filled=27)}
    assert (labels[1:-1, 1:-1, 1:-1] == 1).all()
    assert np.count_nonzero(labels) == 125


def test_a_gap_over_an_edge_does_not_open_a_hole_and_one_over_a_face_does() -> None:
    labels = shell()
    labels[1, 1, 3] = 0  # an edge of the cube, which touches the hole at no face
    labels[1, 1, 1] = 0
    assert clean(labels.copy(), {1: HOLES}, voxel_mm3=1) == {1: Change(filled=27)}
    labels[1, 3, 3] = 0
    assert clean(labels, {1: HOLES}, voxel_mm3=1) == {1: Change()}


def test_what_is_open_to_the_border_of_the_image_is_no_hole() -> None:
    labels = shell()[3:]
    assert clean(labels, {1: HOLES}, voxel_mm3=1) == {1: Change()}


def test_other_structures_in_a_hole_stay() -> None:
    labels = shell(inside=2, edge=7)
    labels[4, 4, 4] = 0  # in the middle of the inner cube of 5 voxels
    labels[2, 2, 2] = 0  # between both
    clean(labels, {1: HOLES}, voxel_mm3=1)
    assert np.count_nonzero(labels == 2) == 123
    assert labels[2, 2, 2] == labels[4, 4, 4] == 1


def test_of_nested_structures_the_inner_one_is_filled_first() -> None:
    labels = shell(inside=2, label=9, edge=9)
    labels[4:-4, 4:-4, 4:-4] = 0  # a hole in a cube in a cube
    expected = labels.copy()
    expected[4:-4, 4:-4, 4:-4] = 2
    assert clean(labels, {9: HOLES, 2: HOLES}, voxel_mm3=1) == {
        9: Change(),
        2: Change(filled=27),
    }
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("value", [1, 9])
def test_a_speck_in_a_structure_becomes_that_structure_if_its_holes_are_filled(value: int) -> None:
    labels = np.full((7, 7, 9), 5, np.uint8)
    labels[2:4, 2:4, 2:6] = value
    labels[5, 5, 5] = value
    speck = {value: Cleaning(min_volume_mm3=2)}
    left = labels.copy()
    assert clean(left, speck, voxel_mm3=1) == {value: Change(removed=1)}
    assert left[5, 5, 5] == 0
    assert clean(labels, {**speck, 5: HOLES}, voxel_mm3=1)[5] == Change(filled=1)
    assert labels[5, 5, 5] == 5
    assert (labels[2:4, 2:4, 2:6] == value).all()


def test_large_values_and_absent_labels_are_no_problem() -> None:
    labels = np.zeros((3, 4, 5), np.uint32)
    labels[0, 0, :2] = labels[2, 3, 4] = 4_000_000_000
    rules = {4_000_000_000: LARGEST, 70_000: HOLES, 3: LARGEST}
    assert clean(labels, rules, voxel_mm3=1) == {
        4_000_000_000: Change(removed=1),
        70_000: Change(),
        3: Change(),
    }
    assert np.argwhere(labels).tolist() == [[0, 0, 0], [0, 0, 1]]
    assert boxes_of(labels, [4_000_000_000, 2]) == {
        4_000_000_000: (slice(0, 1), slice(0, 1), slice(0, 2))
    }


def test_without_rules_nothing_is_looked_at() -> None:
    labels = line(1, 0, 1)
    labels.flags.writeable = False
    assert clean(labels, {}, voxel_mm3=1) == {}
    assert clean(labels, {1: Cleaning()}, voxel_mm3=1) == {1: Change()}


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_a_volume_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ConfigError, match="min_volume_mm3"):
        validated(Cleaning, {"min_volume_mm3": wrong})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "as it is"),
        ({"keep_largest": True, "fill_holes": True}, "only the largest part kept, holes filled"),
        ({"min_volume_mm3": 12.5}, "parts under 12.5 mm3 removed"),
    ],
)
def test_a_rule_is_told_in_words(rule: dict[str, Any], words: str) -> None:
    assert Cleaning(**rule).in_words == words


# By SciPy


def by_scipy(labels: LabelMap, rules: Mapping[int, Cleaning], voxel_mm3: float) -> LabelMap:
    """The same, one whole volume at a time."""
    result = labels.copy()
    for value, rule in rules.items():
        mask = labels == value
        numbers, count = ndimage.label(mask, np.ones((3, 3, 3)))
        sizes = [np.count_nonzero(numbers == number) for number in range(1, count + 1)]
        for number, size in enumerate(sizes, start=1):
            too_small = size * voxel_mm3 < rule.min_volume_mm3
            if too_small or (rule.keep_largest and size < max(sizes)):
                result[numbers == number] = 0

    def extent(value: int) -> int:
        places = np.argwhere(result == value)
        return int(np.prod(np.ptp(places, axis=0) + 1)) if len(places) else 0

    extents = {value: extent(value) for value in rules}
    for value in sorted(rules, key=lambda value: (extents[value], value)):
        if rules[value].fill_holes:
            flat = tuple(axis for axis, length in enumerate(result.shape) if length == 1)
            mask = (result == value).squeeze(flat if len(flat) == 1 else ())
            whole = ndimage.binary_fill_holes(mask).reshape(result.shape)
            result[whole & (result == 0)] = value
    return result


label_maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7),
    elements=st.sampled_from([0, 0, 1, 1, 1, 2, 4]),
)
one_rule = st.builds(
    Cleaning,
    keep_largest=st.booleans(),
    min_volume_mm3=st.sampled_from([0.0, 1.0, 3.0, 7.0]),
    fill_holes=st.booleans(),
)
some_rules = st.dictionaries(st.sampled_from([1, 2, 4, 6]), one_rule)


@settings(max_examples=150)
@given(label_maps, some_rules, st.sampled_from([1.0, 0.7, 2.5]))
def test_it_is_what_scipy_makes_of_whole_volumes(
    labels: LabelMap, rules: dict[int, Cleaning], voxel_mm3: float
) -> None:
    found = labels.copy()
    changes = clean(found, rules, voxel_mm3=voxel_mm3)
    np.testing.assert_array_equal(found, by_scipy(labels, rules, voxel_mm3))
    for value, change in changes.items():
        before, after = np.count_nonzero(labels == value), np.count_nonzero(found == value)
        assert after == before - change.removed + change.filled


def test_larger_ones_with_noise_are_too() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, 40, 36, 50)), (0, 2, 2, 2)).argmax(axis=0)
    labels = np.where(rng.random(smooth.shape) < 0.03, rng.integers(0, 3, smooth.shape), smooth)
    labels = labels.astype(np.int16)
    rules = {1: Cleaning(keep_largest=True, fill_holes=True), 2: Cleaning(min_volume_mm3=40)}
    found = labels.copy()
    changes = clean(found, rules, voxel_mm3=1.5)
    np.testing.assert_array_equal(found, by_scipy(labels, rules, 1.5))
    assert changes[1].removed > 20
    assert changes[1].filled > 20
    assert changes[2].removed > 20


@settings(max_examples=60)
@given(label_maps, some_rules)
def test_no_other_structure_changes(labels: LabelMap, rules: dict[int, Cleaning]) -> None:
    found = labels.copy()
    clean(found, rules, voxel_mm3=1)
    for before, after in set(zip(labels[labels != found], found[labels != found], strict=True)):
        assert before == 0 or rules[int(before)].removes
        assert after == 0 or rules[int(after)].fill_holes


@settings(max_examples=60)
@given(label_maps, some_rules, st.sampled_from(list(permutations(range(3)))), st.integers(0, 7))
def test_the_order_of_the_axes_and_of_the_memory_does_not_matter(
    labels: LabelMap, rules: dict[int, Cleaning], order: tuple[int, int, int], flips: int
) -> None:
    def turned(array: LabelMap) -> LabelMap:
        i, j, k = (slice(None, None, -1 if flips >> axis & 1 else 1) for axis in range(3))
        return array.transpose(order)[i, j, k]

    expected = labels.copy()
    clean(expected, rules, voxel_mm3=1)
    view = labels.copy()
    clean(turned(view), rules, voxel_mm3=1)  # in place, through a view with negative steps
    np.testing.assert_array_equal(view, expected)
    fortran = np.asfortranarray(turned(labels))
    clean(fortran, rules, voxel_mm3=1)
    np.testing.assert_array_equal(fortran, turned(expected))


def test_memory_is_taken_for_the_box_of_the_labels_only() -> None:
    labels = np.zeros((160, 160, 160), np.uint8, order="F")
    for value in range(1, 21):
        labels[2 * value : 2 * value + 12, 20:34, 30:44] = value
        labels[2 * value + 1, 25:28, 35:38] = 0
    rules = {value: Cleaning(keep_largest=True, fill_holes=True) for value in range(1, 21)}
    clean(labels[:8, :8, :8], rules, voxel_mm3=1)  # imports
    tracemalloc.start()
    try:
        clean(labels, rules, voxel_mm3=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.2 * labels.nbytes
