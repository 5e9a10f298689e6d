"""Banded splines against scipy's matrix, and parts of an image against the whole."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg3d.geometry import splines
from medseg3d.geometry.splines import Band, cubic, nearest, resample_channel
from medseg3d.types import Size3

Float = npt.NDArray[np.float32]
shapes = st.tuples(*[st.integers(1, 40)] * 3)


def matrix(band: Band, before: int) -> Float:
    """The band as a whole matrix."""
    whole = np.zeros((len(band), before), np.float32)
    np.put_along_axis(whole, band.index(), band.weights, axis=1)
    return whole


@pytest.mark.parametrize(
    ("before", "after"),
    [(512, 273), (300, 500), (63, 64), (64, 63), (65, 300), (300, 40), (28, 9), (29, 90), (2, 7)],
)
def test_bands_are_the_splines_of_scipy(before: int, after: int) -> None:
    expected = ndimage.zoom(
        np.eye(before), (after / before, 1), order=3, mode="nearest", grid_mode=True
    )
    found = matrix(cubic(before, after), before)
    assert np.abs(found - expected).sum(axis=1).max() < 3e-7
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=2e-7)


def test_the_same_length_and_one_voxel_mix_nothing() -> None:
    np.testing.assert_array_equal(matrix(cubic(5, 5), 5), np.eye(5))
    np.testing.assert_array_equal(matrix(cubic(1, 3), 1), np.ones((3, 1)))
    np.testing.assert_array_equal(nearest(2, 5).first, [0, 0, 1, 1, 1])


def resampled(
    channel: npt.NDArray[np.generic],
    shape: Size3,
    *,
    coarse_axis: int | None = None,
    held: tuple[slice, slice, slice] | None = None,
    threads: int = 1,
) -> Float:
    cut = held or (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    out = np.full([part.stop - part.start for part in cut], np.nan, np.float32)
    resample_channel(channel, out, shape, coarse_axis=coarse_axis, held=cut, threads=threads)
    return out


@settings(max_examples=40)
@given(
    before=shapes,
    after=shapes,
    ends=st.tuples(*[st.tuples(st.floats(0, 1), st.floats(0, 1))] * 3),
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
    coarse_axis=st.sampled_from([None, 0, 1, 2]),
    seed=st.integers(0, 99),
)
def test_a_part_is_that_of_the_whole_however_it_lies_in_memory(
    before: Size3,
    after: Size3,
    ends: tuple[tuple[float, float], ...],
    order: list[int],
    flips: tuple[int, int, int],
    coarse_axis: int | None,
    seed: int,
) -> None:
    plain = np.random.default_rng(seed).integers(-1000, 1000, before).astype(np.int16)
    stored = np.ascontiguousarray(
        plain.transpose(order)[tuple(slice(None, None, f) for f in flips)]
    )
    turned = stored[tuple(slice(None, None, f) for f in flips)].transpose(np.argsort(order))
    np.testing.assert_array_equal(turned, plain)
    cut = []
    for n, (a, b) in zip(after, ends, strict=True):
        first = min(int(min(a, b) * n), n - 1)
        cut.append(slice(first, max(first + 1, round(max(a, b) * n))))
    whole = resampled(plain, after, coarse_axis=coarse_axis)
    held = cut[0], cut[1], cut[2]
    part = resampled(turned, after, coarse_axis=coarse_axis, held=held)
    np.testing.assert_allclose(part, whole[held], atol=5e-3)
    if coarse_axis is None:
        ratio = np.divide(after, before)
        wide = ndimage.zoom(plain.astype(float), ratio, order=3, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(whole, wide.clip(plain.min(), plain.max()), atol=0.05)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splines, "SMALL", 0)
    channel = np.random.default_rng(0).normal(size=(60, 50, 70)).astype(np.float32)
    one = resampled(channel, (40, 70, 61))
    np.testing.assert_array_equal(one, resampled(channel, (40, 70, 61), threads=3))
    channel = channel.T
    np.testing.assert_array_equal(one.T, resampled(channel, (61, 70, 40), threads=3))


@pytest.mark.parametrize("number", [np.uint8, np.int8, np.uint16, np.int32, np.float32])
def test_numbers_of_any_type_are_resampled(number: type[np.generic]) -> None:
    channel = np.random.default_rng(0).integers(0, 100, (9, 8, 7))
    expected = resampled(channel.astype(np.float64), (5, 9, 13))
    np.testing.assert_array_equal(resampled(channel.astype(number), (5, 9, 13)), expected)


def test_a_failure_in_a_thread_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(intensities: Float) -> None:
        raise ArithmeticError

    monkeypatch.setattr(splines, "SMALL", 0)
    out = np.empty((6, 6, 6), np.float32)
    with pytest.raises(ArithmeticError):
        resample_channel(np.ones((5, 5, 5)), out, (6, 6, 6), scale=fail, threads=2)


def test_little_is_held_beside_the_result() -> None:
    channel = np.zeros((96, 100, 300), np.int16, order="F")
    out = np.empty((60, 60, 500), np.float32)
    resample_channel(channel, out, (60, 60, 500), threads=2)
    tracemalloc.start()
    try:
        resample_channel(channel, out, (60, 60, 500), threads=2)
        assert tracemalloc.get_traced_memory()[1] < out.nbytes // 4
    finally:
        tracemalloc.stop()
