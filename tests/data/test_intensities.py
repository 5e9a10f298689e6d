"""Statistics taken in parts, against numpy's of the whole in float64."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.data.intensities import Moments, moments, scaling_of
from medseg3d.data.plan import Normalization

MR = Normalization(name="MR", scheme="zscore", lower=0, upper=1, mean=0, sd=1)
CT = Normalization(name="CT", scheme="ct", lower=-200, upper=300, mean=40, sd=90)


@given(
    st.one_of(
        arrays(np.int16, (4, 3, 5)),
        arrays(np.float32, (5, 1, 4), elements=st.floats(-1e6, 1e6, width=32)),
        arrays(np.uint8, (1, 7, 2), elements=st.integers(0, 2)),
    )
)
def test_moments_are_those_of_what_is_not_zero(channel: npt.NDArray[np.generic]) -> None:
    inside = channel[channel != 0].astype(np.float64)
    for laid_out in (channel, np.asfortranarray(channel)):
        found = moments(laid_out)
        assert found.voxels == inside.size
        if inside.size:
            assert (found.lowest, found.highest) == (inside.min(), inside.max())
            assert found.mean == pytest.approx(inside.mean(), rel=1e-9, abs=1e-6)
            assert found.sd == pytest.approx(inside.std(), rel=1e-9, abs=1e-6)


def test_nothing_has_no_spread() -> None:
    assert moments(np.zeros((2, 3, 4))) == Moments()
    assert Moments().sd == 0


def test_threads_change_nothing() -> None:
    channel = np.random.default_rng(0).integers(0, 900, (70, 64, 65)).astype(np.int16)
    assert moments(channel, threads=3) == moments(channel)


def normalized(channel: np.ndarray, rule: Normalization) -> np.ndarray:
    scaled = channel.astype(np.float32)
    scaling_of(channel, rule)(scaled)
    return scaled


@pytest.mark.parametrize("rule", [CT, MR])
def test_integers_are_scaled_as_floats_are(rule: Normalization) -> None:
    channel = np.random.default_rng(0).integers(-1024, 3000, (9, 8, 7)).astype(np.int16)
    np.testing.assert_array_equal(normalized(channel, rule), normalized(channel.astype("f4"), rule))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_mask_as_a_channel_is_not_lost(dtype: type[np.generic]) -> None:
    mask = np.zeros((6, 5, 4), dtype)
    mask[:3] = 1
    with_masks = MR.model_copy(update={"masks": True})
    np.testing.assert_allclose(normalized(mask, with_masks), np.where(mask, 1, -1), atol=1e-6)
    assert not normalized(mask, MR).any(), "what a model has not learned from it does not get"


@pytest.mark.parametrize("value", [0, 7])
def test_an_image_of_one_value_becomes_zero(value: int) -> None:
    assert not normalized(np.full((6, 5, 4), value, np.int16), MR).any()


def test_scaling_keeps_the_order() -> None:
    values = np.sort(np.random.default_rng(0).normal(0, 400, 4000)).astype(np.float32)
    for rule in (CT, MR):
        scaled = values.copy()
        scaling_of(values.reshape(10, 20, 20), rule)(scaled)
        assert (np.diff(scaled) >= 0).all()


def test_statistics_need_one_plane_at_a_time() -> None:
    channel = np.ones((64, 64, 200), np.int16, order="F")
    tracemalloc.start()
    try:
        moments(channel)
        assert tracemalloc.get_traced_memory()[1] < channel.nbytes // 4
    finally:
        tracemalloc.stop()
