"""Areas of a mesh: by hand, of shapes whose area is known, and as MONAI tabulates them."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics.utils import create_table_neighbour_code_to_surface_area

from medseg3d.errors import DataError
from medseg3d.metrics.mesh import areas, pieces
from medseg3d.types import Mask, Spacing

spacings = st.tuples(*[st.floats(0.1, 10.0)] * 3)
masks = arrays(np.bool_, (4, 3, 5), elements=st.booleans())


@given(spacing=spacings)
def test_every_case_has_the_area_that_monai_gives_it(spacing: Spacing) -> None:
    theirs, kernel = create_table_neighbour_code_to_surface_area(spacing)
    weights = kernel.numpy().reshape(-1).astype(int)  # of the corners, the last axis fastest
    case_of = [
        int(weights[[case >> place & 1 == 1 for place in range(8)]].sum()) for case in range(256)
    ]
    np.testing.assert_allclose(areas(spacing), theirs.numpy()[case_of], rtol=1e-5)


@given(spacing=spacings)
def test_inside_and_outside_have_one_surface(spacing: Spacing) -> None:
    found = areas(spacing)
    np.testing.assert_array_equal(found, found[::-1])
    assert (found > 0).sum() == 254


def test_a_voxel_is_an_octahedron() -> None:
    i, j, k = spacing = (2.0, 3.0, 5.0)
    where, found = pieces(np.ones((1, 1, 1), dtype=bool), spacing)
    assert where.shape == (2, 2, 2)
    assert where.all()
    a, b, c = (np.array(corner) / 2 for corner in ((i, 0, 0), (0, j, 0), (0, 0, k)))
    triangle = np.linalg.norm(np.cross(b - a, c - a)) / 2
    assert found == pytest.approx([triangle] * 8)


@pytest.mark.parametrize("axis", range(3))
def test_a_cut_through_the_volume_has_the_area_of_its_section(axis: int) -> None:
    spacing = np.array([2.0, 3.0, 5.0])
    mask = np.zeros((6, 7, 8), dtype=bool)
    np.moveaxis(mask, axis, 0)[:3] = True
    where, found = pieces(mask, tuple(spacing), border=False)
    others = [other for other in range(3) if other != axis]
    size = np.array(mask.shape) - 1  # from the first center to the last
    assert found.sum() == pytest.approx(float(np.prod((size * spacing)[others])))
    assert np.unique(np.nonzero(where)[axis]).tolist() == [2]


def test_a_ball_has_nearly_the_area_of_a_sphere() -> None:
    spacing = np.array([1.0, 0.5, 0.8])
    place = (np.indices((34, 66, 42)).reshape(3, -1).T - (16.6, 32.3, 20.4)) * spacing
    ball = (np.linalg.norm(place, axis=1) <= 15.0).reshape(34, 66, 42)
    area = pieces(ball, tuple(spacing))[1].sum()
    assert 1.0 < area / (4 * np.pi * 15.0**2) < 1.15  # steps make it larger


@given(mask=masks, spacing=spacings, order=st.permutations(range(3)))
def test_the_order_of_the_axes_changes_no_area(mask: Mask, spacing: Spacing, order) -> None:
    turned = tuple(spacing[axis] for axis in order)
    area = pieces(mask, spacing)[1].sum()
    assert pieces(mask.transpose(order), turned)[1].sum() == pytest.approx(area)
    assert pieces(np.flip(mask, order[0]), spacing)[1].sum() == pytest.approx(area)


@given(mask=masks)
def test_areas_come_in_the_order_of_the_corners(mask: Mask) -> None:
    spacing = (2.0, 3.0, 5.0)
    where, found = pieces(mask, spacing)
    padded = np.pad(mask, 1)
    table = areas(spacing)
    expected = []
    for i, j, k in np.argwhere(where):
        corners = padded[i : i + 2, j : j + 2, k : k + 2].ravel()
        expected.append(table[sum(1 << place for place in range(8) if corners[place])])
    np.testing.assert_array_equal(found, expected)
    assert np.count_nonzero(where) == found.size


def test_the_table_knows_all_turns_of_a_case() -> None:
    for order in permutations(range(3)):
        spacing = tuple((2.0, 3.0, 5.0)[axis] for axis in order)
        assert sorted(areas(spacing)) == pytest.approx(sorted(areas((2.0, 3.0, 5.0))))


def test_a_flat_mask_has_no_mesh() -> None:
    with pytest.raises(DataError, match="three axes, found 2"):
        pieces(np.ones((3, 3), dtype=bool), (1.0, 1.0))
