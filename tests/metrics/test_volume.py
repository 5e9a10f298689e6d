"""Volumes in millilitres, and the ways to tell how far two of them are apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.metrics.masks import MaskPair
from medseg3d.metrics.volume import (
    absolute_relative_volume_difference,
    absolute_volume_difference,
    relative_volume_difference,
    volume,
    volume_difference,
    volume_similarity,
)
from medseg3d.types import Mask
from tests.metrics.test_surface import (
    box_at_the_border,
    missed_lesion,
    noise_and_an_outlier,
    shifted_ellipsoid,
    two_single_voxels,
)

EMPTY = np.zeros((4, 3, 5), dtype=bool)
masks = arrays(np.bool_, (4, 3, 5), elements=st.booleans())

VECTORS = {  # similarity, difference in mL, relative difference of the published drawings
    shifted_ellipsoid: (0.91163, -0.456, -0.16239),
    box_at_the_border: (0.96644, 0.096, 0.06944),
    noise_and_an_outlier: (0.94987, 0.156, 0.10555),
    missed_lesion: (0.88372, -0.20825, -0.20833),
    two_single_voxels: (1.0, 0.0, 0.0),
}


@pytest.mark.parametrize(
    ("draw", "expected"), VECTORS.items(), ids=[draw.__name__ for draw in VECTORS]
)
def test_published_vectors(draw, expected: tuple[float, float, float]) -> None:
    reference, prediction, spacing = draw()
    pair = MaskPair(prediction, reference, spacing)
    similarity, difference_ml, relative = expected
    assert volume_similarity.of(pair) == pytest.approx(similarity, abs=1e-5)
    assert volume_difference.of(pair) == pytest.approx(difference_ml, abs=1e-5)
    assert relative_volume_difference.of(pair) / 100 == pytest.approx(relative, abs=1e-5)


def test_volume_counts_voxels_of_a_rotated_grid() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[:2] = True
    turn = np.array([[0.0, -0.5, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn
    assert volume(mask, Grid((4, 4, 4), affine)) == pytest.approx(32 * 3.0 / 1000)


def test_volume_of_a_sheared_grid_is_not_the_product_of_its_spacing() -> None:
    affine = np.eye(4)
    affine[0, 1] = 1.0  # the second axis leans by 45 degrees: length sqrt(2), same volume
    grid = Grid((2, 2, 2), affine)
    assert grid.spacing[1] == pytest.approx(np.sqrt(2))
    full = np.ones((2, 2, 2), dtype=bool)
    assert volume(full, grid) == pytest.approx(0.008)
    pair = MaskPair(full, ~full, grid.spacing, voxel_volume_mm3=1000 * grid.voxel_volume_ml)
    assert volume_difference.of(pair) == pytest.approx(0.008)


def test_volume_difference_has_the_sign_of_the_prediction() -> None:
    small, large = np.zeros((2, 10, 10, 10), dtype=bool)
    small[:1], large[:3] = True, True
    spacing = (1.0, 2.0, 0.5)
    assert volume_difference(large, small, spacing) == pytest.approx(0.2)
    assert volume_difference(small, large, spacing) == pytest.approx(-0.2)
    assert absolute_volume_difference(small, large, spacing) == pytest.approx(0.2)
    assert relative_volume_difference(large, small) == pytest.approx(200.0)
    assert relative_volume_difference(small, large) == pytest.approx(-200 / 3)
    assert absolute_relative_volume_difference(small, large) == pytest.approx(200 / 3)


def test_a_missed_structure_is_never_undefined_and_a_spurious_one_has_no_relative_size() -> None:
    missed, spurious = (EMPTY, ~EMPTY), (~EMPTY, EMPTY)
    assert relative_volume_difference(*missed) == -100.0
    assert absolute_relative_volume_difference(*missed) == 100.0
    assert np.isnan(relative_volume_difference(*spurious))
    assert np.isnan(absolute_relative_volume_difference(*spurious))
    assert volume_similarity(*missed) == volume_similarity(*spurious) == 0.0


def test_two_empty_masks_differ_by_no_volume_but_have_none_to_compare() -> None:
    assert volume_difference(EMPTY, EMPTY, (1.0, 1.0, 1.0)) == 0.0
    assert absolute_volume_difference(EMPTY, EMPTY, (1.0, 1.0, 1.0)) == 0.0
    for metric in (volume_similarity, relative_volume_difference):
        assert np.isnan(metric(EMPTY, EMPTY))


def test_millilitres_need_a_spacing() -> None:
    with pytest.raises(DataError, match="needs the spacing in mm"):
        volume_difference(~EMPTY, EMPTY)


@given(prediction=masks, reference=masks)
def test_similarity_looks_at_sizes_only(prediction: Mask, reference: Mask) -> None:
    found = volume_similarity(prediction, reference)
    moved = prediction.ravel()[::-1].reshape(prediction.shape)
    assert volume_similarity(moved, reference) == pytest.approx(found, nan_ok=True)
    assert volume_similarity(reference, prediction) == pytest.approx(found, nan_ok=True)
    if prediction.any() and reference.any():
        sizes = sorted((int(prediction.sum()), int(reference.sum())))
        assert found == pytest.approx(2 * sizes[0] / sum(sizes))
