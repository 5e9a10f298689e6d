"""Center lines of tubes, and clDice of trees that were followed or not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.losses.cldice import soft_skel

from medseg3d.metrics.centerline import cldice, skeleton
from medseg3d.types import Mask

LENGTH = 40
EMPTY = np.zeros((6, 7, 5), dtype=bool)
masks = arrays(np.bool_, EMPTY.shape, elements=st.floats(0, 1).map(lambda draw: draw < 0.8))


def tube(radius: float, *, start: int = 0, stop: int = LENGTH, at: float = 10.0) -> Mask:
    """A straight tube along the last axis."""
    rows, columns, along = np.indices((21, 21, LENGTH))
    distances = np.hypot(rows - at, columns - 10)
    return (distances <= radius) & (along >= start) & (along < stop)


def oblique_tube(radius: float) -> Mask:
    """A tube that climbs by one voxel in two."""
    rows, columns, along = np.indices((40, 21, LENGTH))
    axis = np.array([0.5, 0.0, 1.0]) / np.hypot(0.5, 1.0)
    steps = np.stack([rows - 10, columns - 10, along], axis=-1)
    across = steps - (steps @ axis)[..., None] * axis
    return np.linalg.norm(across, axis=-1) <= radius


@given(mask=masks)
@settings(max_examples=40)
def test_the_skeleton_is_that_of_the_published_algorithm(mask: Mask) -> None:
    padded = np.pad(mask, 2)  # theirs does not erode at the border
    theirs = soft_skel(torch.from_numpy(padded)[None, None].float(), 6)[0, 0].numpy()
    np.testing.assert_array_equal(np.pad(skeleton(mask), 2), theirs > 0)
    assert skeleton(mask).any() == mask.any()


@pytest.mark.parametrize("radius", [1.5, 3.2, 5.0, 7.4])
def test_the_skeleton_of_a_straight_tube_is_its_axis(radius: float) -> None:
    found = np.argwhere(skeleton(tube(radius)))
    # in the middle, away from the ends that the erosion eats as well
    middle = found[(found[:, 2] >= 10) & (found[:, 2] < LENGTH - 10)]
    assert np.unique(middle[:, :2], axis=0).tolist() == [[10, 10]]
    assert len(middle) == LENGTH - 20


def test_the_skeleton_of_an_oblique_tube_stays_at_its_axis() -> None:
    places = np.argwhere(skeleton(oblique_tube(4.0)))
    inner = places[(places[:, 2] > 6) & (places[:, 2] < LENGTH - 6)]
    off_axis = np.hypot(inner[:, 0] - 10 - inner[:, 2] / 2, inner[:, 1] - 10)
    assert off_axis.max() <= 1.5
    assert set(range(7, LENGTH - 6, 3)) <= {int(k + d) for k in inner[:, 2] for d in (-1, 0, 1)}


def test_the_width_of_a_vessel_does_not_matter() -> None:
    narrow, wide = tube(2.0), tube(5.0)
    assert cldice(narrow, wide) == cldice(wide, narrow) == 1.0


def test_half_a_vessel_is_half_of_the_recall() -> None:
    whole, half = tube(0.5), tube(0.5, stop=LENGTH // 2)
    assert cldice(half, whole) == pytest.approx(2 * 1.0 * 0.5 / 1.5)
    assert cldice(whole, half) == pytest.approx(2 * 0.5 * 1.0 / 1.5)


def test_vessels_whose_axes_miss_each_other() -> None:
    reference = tube(2.0)
    assert cldice(tube(2.0, at=11.0), reference) == 1.0
    assert cldice(tube(2.0, at=13.0), reference) == 0.0  # they overlap, their axes do not


def test_a_missed_branch_costs_its_length() -> None:
    trunk = tube(1.0)
    tree = trunk.copy()
    tree[10, 11:21, 20] = True  # a thin branch of 10 voxels
    line = np.count_nonzero(skeleton(tree))
    inside = np.count_nonzero(skeleton(tree) & trunk)
    assert 7 <= line - inside <= 10
    assert cldice(trunk, tree) == pytest.approx(2 * (inside / line) / (1 + inside / line))


@given(prediction=masks, reference=masks, axis=st.sampled_from([0, 1, 2]))
@settings(max_examples=40)
def test_order_and_direction_of_the_axes_change_nothing(prediction, reference, axis: int) -> None:
    found = cldice(prediction, reference)
    assert cldice(reference, prediction) == pytest.approx(found, nan_ok=True)
    flipped = cldice(np.flip(prediction, axis), np.flip(reference, axis))
    assert flipped == pytest.approx(found, nan_ok=True)
    turned = cldice(np.moveaxis(prediction, axis, 0), np.moveaxis(reference, axis, 0))
    assert turned == pytest.approx(found, nan_ok=True)


def test_empty_masks() -> None:
    assert np.isnan(cldice(EMPTY, EMPTY))
    assert cldice(EMPTY, ~EMPTY) == cldice(~EMPTY, EMPTY) == 0.0
    assert not skeleton(EMPTY).any()
