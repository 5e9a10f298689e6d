"""Volumes in millilitres."""

import numpy as np
import pytest

from medseg3d.geometry.grid import Grid
from medseg3d.metrics.volume import volume, volume_difference


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
    assert volume(np.ones((2, 2, 2), dtype=bool), grid) == pytest.approx(0.008)


def test_volume_difference_has_the_sign_of_the_prediction() -> None:
    small, large = np.zeros((2, 10, 10, 10), dtype=bool)
    small[:1], large[:3] = True, True
    assert volume_difference(large, small, (1.0, 2.0, 0.5)) == pytest.approx(0.2)
    assert volume_difference(small, large, (1.0, 2.0, 0.5)) == pytest.approx(-0.2)
