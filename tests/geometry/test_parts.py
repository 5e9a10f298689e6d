"""Connected parts of masks, compared with SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from medseg3d.geometry.parts import connected_parts
from medseg3d.types import Mask

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))


@settings(max_examples=200)
@given(masks, st.sampled_from([6, 18, 26]))
def test_they_are_those_of_scipy(mask: Mask, connectivity: int) -> None:
    found, count = connected_parts(mask, connectivity)  # type: ignore[arg-type]
    rank = {6: 1, 18: 2, 26: 3}[connectivity]
    expected, num_expected = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
    assert count == num_expected
    assert found.shape == mask.shape
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == count + (not mask.all()), "one number of ours for each of theirs"
    assert np.array_equal(found == 0, ~mask)


@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 7, 7), (9, 9, 9), (8, 8, 8), (10, 5, 6)])
@pytest.mark.parametrize("connectivity", [6, 26])
def test_as_many_as_there_can_be_are_found(shape: tuple[int, int, int], connectivity: int) -> None:
    places = np.indices(shape)
    apart = places.sum(axis=0) % 2 == 0 if connectivity == 6 else (places % 2 == 0).all(axis=0)
    assert connected_parts(apart, connectivity)[1] == np.count_nonzero(apart)  # type: ignore[arg-type]
