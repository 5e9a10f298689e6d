"""Boundary IoU: the definition by brute force, its limits, and rims of coarse slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics import nearest
from medseg3d.metrics.boundary import boundary_iou
from medseg3d.metrics.overlap import iou
from medseg3d.types import Mask, Spacing

UNIT = (1.0, 1.0, 1.0)
EMPTY = np.zeros((5, 4, 6), dtype=bool)
masks = arrays(np.bool_, (5, 4, 6), elements=st.floats(0, 1).map(lambda draw: draw < 0.85))
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 4.0])] * 3)


def cube(start: int, stop: int, size: int = 12) -> Mask:
    mask = np.zeros((size,) * 3, dtype=bool)
    mask[start:stop, start:stop, start:stop] = True
    return mask


def rim_by_brute_force(mask: Mask, spacing: Spacing, width: float) -> Mask:
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    rim = np.zeros_like(mask)
    for voxel in np.argwhere(mask):
        steps = outside - voxel
        is_surface = (np.abs(steps).sum(axis=1) == 1).any()
        nearest = np.linalg.norm(steps * spacing, axis=1).min()
        rim[tuple(voxel)] = is_surface or nearest <= width * (1 + 1e-9)
    return rim


@given(prediction=masks, reference=masks, spacing=spacings, width=st.sampled_from([0.4, 1.7, 3.5]))
@settings(max_examples=40)
def test_agrees_with_the_definition(prediction, reference, spacing: Spacing, width) -> None:
    rims = [rim_by_brute_force(mask, spacing, width) for mask in (prediction, reference)]
    found = boundary_iou(prediction, reference, spacing, width=width)
    assert found == pytest.approx(iou(*rims), nan_ok=True)


def test_a_shell_counts_where_the_inside_does_not() -> None:
    reference = cube(1, 11)
    hollow = reference & ~cube(4, 8)
    outer, around_the_hole = 10**3 - 8**3, 6 * 4**2
    found = boundary_iou(hollow, reference, UNIT, width=1.0)
    assert found == pytest.approx(outer / (outer + around_the_hole))
    assert boundary_iou(hollow & cube(2, 10), reference, UNIT, width=1.0) == 0.0


def test_one_layer_too_few_by_hand() -> None:
    # rims of one voxel: 10^3 - 8^3 and 8^3 - 6^3 do not meet; of two voxels: 8^3 - 6^3 is shared
    reference, prediction = cube(1, 11), cube(2, 10)
    assert boundary_iou(prediction, reference, UNIT, width=1.0) == 0.0
    shared, union = 8**3 - 6**3, 10**3 - 4**3
    assert boundary_iou(prediction, reference, UNIT, width=2.0) == pytest.approx(shared / union)


def test_a_rim_as_wide_as_the_structure_is_the_structure() -> None:
    reference, prediction = cube(1, 11), cube(3, 12)
    found = boundary_iou(prediction, reference, UNIT, width=50.0)
    assert found == pytest.approx(iou(prediction, reference))


def test_a_rim_is_never_thinner_than_a_voxel() -> None:
    reference = cube(1, 11)
    thin = boundary_iou(reference, cube(2, 11), (5.0, 5.0, 5.0), width=0.1)
    assert thin == boundary_iou(reference, cube(2, 11), (5.0, 5.0, 5.0), width=5.0)
    assert 0 < thin < 1


def test_a_distance_equal_to_the_width_belongs_to_the_rim() -> None:
    reference = cube(1, 11)
    spacing = (float(np.float32(0.8)),) * 3  # two of them are a little more than 1.6
    wide, narrow = (
        boundary_iou(reference, cube(2, 10), spacing, width=width) for width in (1.6, 1.59)
    )
    assert wide > narrow == 0.0


def test_empty_masks() -> None:
    assert np.isnan(boundary_iou(EMPTY, EMPTY, UNIT))
    assert boundary_iou(EMPTY, ~EMPTY, UNIT) == boundary_iou(~EMPTY, EMPTY, UNIT) == 0.0


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), float("inf")])
def test_the_width_must_be_a_length(width: float) -> None:
    with pytest.raises(ConfigError, match="width must be a length in mm above 0"):
        boundary_iou(EMPTY, EMPTY, UNIT, width=width)


def test_the_width_needs_a_spacing() -> None:
    with pytest.raises(DataError, match="needs the spacing in mm"):
        boundary_iou(~EMPTY, ~EMPTY)


@given(mask=masks, spacing=spacings, distance=st.sampled_from([0.0, 0.5, 1.7, 30.0]))
@settings(max_examples=40)
def test_what_is_near_is_found_slab_by_slab(mask: Mask, spacing: Spacing, distance: float) -> None:
    far = ndimage.distance_transform_edt(~mask, sampling=spacing)
    expected = far <= distance * (1 + 1e-9) if mask.any() else np.zeros_like(mask)
    with pytest.MonkeyPatch.context() as patch:
        for voxels in (1, 48, 1 << 23):
            patch.setattr(nearest, "SLAB_VOXELS", voxels)
            np.testing.assert_array_equal(nearest.near(mask, spacing, distance), expected)
