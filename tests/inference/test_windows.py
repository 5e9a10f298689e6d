"""Where windows lie, what they weigh and what they see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.inference.windows import (
    copy_window,
    fit_window,
    gaussian_weights,
    inside,
    is_air,
    mirrored,
    mirrorings,
    starts,
)


@given(length=st.integers(1, 300), window=st.integers(1, 96), overlap=st.floats(0, 0.9))
def test_windows_cover_every_voxel_and_overlap_as_asked(
    length: int, window: int, overlap: float
) -> None:
    places = starts(length, window, overlap)
    covered = np.zeros(length, dtype=bool)
    for place in places:
        covered[max(0, place) : place + window] = True
    assert covered.all()
    assert places == sorted(set(places))
    if length > window:
        assert places[0] == 0
        assert places[-1] + window == length
        assert np.diff(places).max() <= max(1, np.ceil(window * (1 - overlap)))


def test_a_window_larger_than_the_volume_reaches_beyond_both_ends() -> None:
    assert starts(5, 8, 0.5) == [-1]
    assert starts(4, 8, 0.5) == [-2]


def test_gaussian_weights_by_hand() -> None:
    weights = gaussian_weights((8, 6, 5))
    assert weights.dtype == np.float32
    assert weights.max() == 1
    np.testing.assert_array_equal(weights, weights[::-1, ::-1, ::-1])
    # standard deviation 1, 0.75 and 0.625 voxels; the middle lies between voxels of even axes
    expected = np.exp(-0.5 * (1.5**2 - 0.5**2)) * np.exp(-0.5 * (1 / 0.625) ** 2)
    assert weights[5, 3, 3] == pytest.approx(expected, rel=1e-6)
    assert weights[0, 0, 0] == np.float32(1e-4)


def test_one_window_holds_a_volume_little_larger() -> None:
    assert fit_window((12, 4, 4), (4, 4, 4), (1, 1, 1)) == (4, 4, 4)
    assert fit_window((9, 10, 8), (8, 8, 8), (2, 2, 2)) == (10, 10, 8)
    assert fit_window((3, 3, 3), (8, 8, 8), (8, 8, 8)) == (8, 8, 8)


@given(
    shape=st.tuples(*[st.integers(1, 90)] * 3),
    window=st.tuples(*[st.integers(8, 64)] * 3),
    divisor=st.tuples(*[st.sampled_from((1, 2, 8, 16, 32))] * 3),
)
def test_a_window_that_grows_is_padded_by_the_network_as_the_patch_was(
    shape: tuple[int, int, int], window: tuple[int, int, int], divisor: tuple[int, int, int]
) -> None:
    found = fit_window(shape, window, divisor)
    for grown, edge, step in zip(found, window, divisor, strict=True):
        assert grown >= edge
        assert -grown % step == -edge % step
    if found != window:
        assert all(grown >= n for grown, n in zip(found, shape, strict=True))
        assert all(
            grown == edge or grown - step < n
            for grown, edge, step, n in zip(found, window, divisor, shape, strict=True)
        )


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    window=st.tuples(*[st.integers(1, 9)] * 3),
    axes=st.sampled_from(mirrorings((0, 1, 2))),
)
def test_a_window_is_what_padding_on_both_sides_gives(
    shape: tuple[int, int, int], window: tuple[int, int, int], axes: tuple[int, ...]
) -> None:
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    start = tuple(starts(n, w, 0.5)[-1] for n, w in zip(shape, window, strict=True))
    into = np.full((2, *window), 7, np.float32)
    copy_window(image, start, mirrored(into, axes))  # type: ignore[arg-type]
    padded = np.pad(image, [(0, 0), *[(9, 9)] * 3])
    box = tuple(slice(9 + s, 9 + s + w) for s, w in zip(start, window, strict=True))
    expected = np.flip(padded[(slice(None), *box)], [axis + 1 for axis in axes])
    np.testing.assert_array_equal(into, expected)


def test_the_part_inside_is_cut_at_the_ends_of_the_image() -> None:
    image = np.zeros((1, 5, 6, 7), np.float32)
    assert image[inside(image, (-2, 1, 3), (9, 3, 4))].shape == (1, 5, 3, 4)


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 19, 18, 17), (0, 1, 2, 3), (1, 0, 0, 0)])
def test_one_voxel_is_enough_to_be_looked_at(place: tuple[int, int, int, int]) -> None:
    patch = np.full((2, 20, 19, 18), -3, np.float32)
    patch[1] = 4
    assert is_air(patch)
    patch[place] += 1e-6
    assert not is_air(patch)
    assert is_air(np.zeros((1, 1, 1, 1), np.float32))


def test_all_subsets_of_the_axes() -> None:
    assert mirrorings(()) == [()]
    assert mirrorings((0, 1, 2)) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
