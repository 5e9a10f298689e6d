"""Grids: what they say of themselves and how far two of them lie apart."""

import pickle
import re

import numpy as np
import pytest

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.types import Affine

LPS = np.diag([-1.0, -1.5, 2.0, 1.0])


def turned(degrees: float, affine: Affine = LPS) -> Affine:
    """The affine after a turn about the third world axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[:2, :2] = [[c, -s], [s, c]]
    return np.asarray(turn @ affine)


def shifted(mm: tuple[float, float, float], affine: Affine = LPS) -> Affine:
    moved = affine.copy()
    moved[:3, 3] += mm
    return moved


def test_spacing_orientation_and_volume_follow_from_the_affine() -> None:
    grid = Grid((4, 5, 6), turned(17.0))
    assert grid.spacing == pytest.approx((1.0, 1.5, 2.0))
    assert grid.orientation == "LPS"
    assert grid.voxel_volume_ml == pytest.approx(0.003)
    assert grid.shear == pytest.approx(0.0, abs=1e-12)


def test_shear_is_the_cosine_between_two_axes() -> None:
    affine = np.eye(4)
    affine[0, 1] = 1.0
    assert Grid((4, 5, 6), affine).shear == pytest.approx(np.cos(np.pi / 4))


def test_affine_is_a_locked_copy() -> None:
    affine = LPS.copy()
    grid = Grid((4, 5, 6), affine)
    affine[0, 0] = 7.0
    assert grid.affine[0, 0] == -1.0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7.0


def test_pickled_grid_is_equal_and_still_locked() -> None:
    grid = Grid((4, 5, 6), turned(17.0))
    copy = pickle.loads(pickle.dumps(grid))
    assert copy == grid
    assert hash(copy) == hash(grid)
    assert not copy.affine.flags.writeable


def test_equality_is_exact() -> None:
    assert Grid((4, 5, 6), LPS) == Grid((4, 5, 6), LPS)
    assert Grid((4, 5, 6), LPS) != Grid((4, 5, 7), LPS)
    assert Grid((4, 5, 6), LPS) != Grid((4, 5, 6), shifted((1e-9, 0, 0)))
    assert Grid((4, 5, 6), LPS) != "grid"


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.diag([np.nan, 1, 1, 1]), "not finite"),
        (np.diag([1.0, 1.0, 0.0, 1.0]), "singular"),
        (np.eye(3), r"\(3, 3\), expected \(4, 4\)"),
    ],
)
def test_impossible_affines_are_refused(affine: Affine, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Grid((4, 5, 6), affine)


def test_tiny_voxels_are_no_plane() -> None:
    assert Grid((4, 5, 6), np.diag([1e-6, 1e-6, 1.0, 1.0])).spacing == (1e-6, 1e-6, 1.0)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 0), (4, 5, 6, 1)])
def test_only_three_lengths_make_a_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="3D"):
        Grid(shape, LPS)  # type: ignore[arg-type]


def test_shift_is_measured_in_voxels() -> None:
    grid = Grid((4, 5, 6), LPS)
    assert grid.corner_displacement(Grid((4, 5, 6), shifted((0, 0, 3.0)))) == pytest.approx(1.5)
    assert grid.corner_displacement(Grid((4, 5, 7), LPS)) == np.inf


def test_rotation_counts_at_the_farthest_corner() -> None:
    grid = Grid((101, 1, 1), np.eye(4))
    other = Grid((101, 1, 1), turned(0.1, np.eye(4)))
    assert grid.corner_displacement(other) == pytest.approx(100 * np.radians(0.1), rel=1e-3)
    assert not grid.same_as(other)


def test_rounding_of_the_affine_does_not_part_grids() -> None:
    affine = shifted((-123.4567, 98.7654, 12.3456), turned(17.0))
    rounded = affine.astype(np.float32).astype(np.float64)
    assert Grid((512, 512, 300), affine) != Grid((512, 512, 300), rounded)
    assert Grid((512, 512, 300), affine).same_as(Grid((512, 512, 300), rounded))


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (Grid((4, 5, 7), LPS), r"shapes \(4, 5, 6\) and \(4, 5, 7\) differ$"),
        (Grid((6, 4, 5), LPS), r"fit with the axes in the order \(1, 2, 0\)"),
        (Grid((4, 5, 6), LPS * 2), r"1 x 1.5 x 2 mm and 2 x 3 x 4 mm differ"),
        (Grid((4, 5, 6), shifted((0, 3, 4))), r"up to 5 mm \(2.828 voxels\) apart"),
        (Grid((4, 5, 6), LPS * [-1, 1, 1, 1]), r"orientations LPS and RPS differ, corners"),
        (Grid((4, 5, 6), LPS).canonical(), r"one is stored as LPS and the other as RAS"),
    ],
)
def test_difference_is_said_in_words(other: Grid, sentence: str) -> None:
    found = Grid((4, 5, 6), LPS).difference(other)
    assert re.search(sentence, found), found


@pytest.mark.parametrize("scale", [1e-200, 1e200, 5e-324])
def test_affines_beyond_arithmetic_are_refused(scale: float) -> None:
    with pytest.raises(DataError, match="affine"):
        Grid((3, 4, 5), np.diag([scale, scale, scale, 1.0]))
