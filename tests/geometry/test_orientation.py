"""Reorientation to RAS+: nothing is lost and nothing moves in the patient."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.geometry.orientation import Reorientation

SHAPE = (3, 4, 5)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Axes in any order and sense, unequal spacings, up to 30 degrees oblique."""
    order = draw(st.permutations(range(3)))
    senses = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 8.0)] * 3))
    angle = draw(st.floats(-0.5, 0.5))
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * senses * spacing
    c, s = np.cos(angle), np.sin(angle)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    affine = turn @ affine
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Grid(SHAPE, affine)


@given(grid=grids())
def test_inverting_what_was_applied_gives_the_same_array(grid: Grid) -> None:
    array = np.arange(2 * np.prod(SHAPE)).reshape(2, *SHAPE)
    turn = Reorientation.to_canonical(grid)
    np.testing.assert_array_equal(turn.invert(turn.apply(array)), array)


@given(grid=grids())
def test_every_voxel_stays_where_it_is_in_the_world(grid: Grid) -> None:
    indices = np.indices(SHAPE)
    world = np.tensordot(grid.affine[:3, :3], indices, 1) + grid.affine[:3, 3, None, None, None]
    turn = Reorientation.to_canonical(grid)
    there = np.indices(turn.grid.shape)
    expected = np.tensordot(turn.grid.affine[:3, :3], there, 1)
    expected += turn.grid.affine[:3, 3, None, None, None]
    np.testing.assert_allclose(turn.apply(world), expected, atol=1e-9)


@given(grid=grids())
def test_canonical_is_what_nibabel_calls_closest(grid: Grid) -> None:
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    closest = nib.as_closest_canonical(nib.Nifti1Image(array, grid.affine))
    turn = Reorientation.to_canonical(grid)
    np.testing.assert_array_equal(turn.apply(array), np.asarray(closest.dataobj))
    np.testing.assert_allclose(turn.grid.affine, closest.affine, atol=1e-9)
    assert turn.grid.spacing == pytest.approx(
        tuple(grid.spacing[axis] for axis in turn.order), rel=1e-12
    )


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("senses", list(product([-1.0, 1.0], repeat=3)))
def test_every_right_angled_storage_becomes_ras(
    order: tuple[int, ...], senses: tuple[float, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * senses
    assert Reorientation.to_canonical(Grid(SHAPE, affine)).grid.orientation == "RAS"


def test_nothing_is_copied() -> None:
    array = np.zeros(SHAPE)
    turn = Reorientation.to_canonical(Grid(SHAPE, np.diag([-1.0, 1.0, -1.0, 1.0])))
    assert np.shares_memory(turn.apply(array), array)


def test_an_array_of_another_shape_is_refused() -> None:
    turn = Reorientation.to_canonical(Grid(SHAPE, np.eye(4)[[1, 0, 2, 3]]))
    with pytest.raises(DataError, match=r"\(4, 3, 5\) does not fit the grid of shape \(3, 4, 5\)"):
        turn.apply(np.zeros((4, 3, 5)))
    with pytest.raises(DataError, match=r"\(3, 4, 5\) does not fit the grid of shape \(4, 3, 5\)"):
        turn.invert(np.zeros((3, 4, 5)))
