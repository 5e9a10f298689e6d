"""Resampling against scipy and torch, its limits, and the memory that it takes."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn.functional import interpolate

from medseg3d.errors import DataError
from medseg3d.geometry.resampling import (
    resample_image,
    resample_labels,
)
from medseg3d.types import Size3

Float = npt.NDArray[np.float32]
shapes = st.tuples(*[st.integers(1, 12)] * 3)


def noise(*shape: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def zoomed(volume: Float, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """What scipy makes of it in float64."""
    ratio = np.divide(shape, volume.shape)
    wide = volume.astype(np.float64)
    return np.asarray(ndimage.zoom(wide, ratio, order=3, mode="nearest", grid_mode=True))


def interpolated(array: Float, shape: Size3) -> torch.Tensor:
    wide = torch.from_numpy(np.ascontiguousarray(array))[None]
    return interpolate(wide, size=shape, mode="trilinear", align_corners=False)[0]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(20, 9, 31), (7, 22, 14), (13, 14, 40), (1, 14, 15)])
def test_image_equals_scipy_within_the_input_range(shape: Size3, order: str) -> None:
    image = np.stack([noise(13, 14, 15), 100 * noise(13, 14, 15, seed=1)])
    laid_out = np.stack(list(image))
    if order == "F":
        laid_out = np.moveaxis(np.asfortranarray(np.moveaxis(image, 0, -1)), -1, 0)
    found = resample_image(laid_out, shape)
    assert found.shape == (2, *shape)
    assert found.dtype == np.float32
    for channel, result in zip(image, found, strict=True):
        expected = zoomed(channel, shape).clip(channel.min(), channel.max())
        np.testing.assert_allclose(result, expected, atol=2e-5 * np.abs(channel).max())


def test_clipping_has_something_to_clip() -> None:
    step = np.zeros((1, 20, 4, 4), np.float32)
    step[:, 10:] = 1.0
    assert zoomed(step[0], (33, 4, 4)).max() > 1.05
    found = resample_image(step, (33, 4, 4))
    assert found.min() == 0.0
    assert found.max() == 1.0


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("axis", "length"), [(0, 3), (0, 9), (2, 4), (1, 5)])
def test_slices_along_the_coarse_axis_do_not_mix(axis: int, length: int, order: str) -> None:
    volume = noise(5, 6, 7)
    shape = [8, 9, 10]
    shape[axis] = length
    image = np.asarray(volume, order=order)[None]  # type: ignore[call-overload]
    found = resample_image(image, (shape[0], shape[1], shape[2]), coarse_axis=axis)[0]
    before = volume.shape[axis]
    for new in range(length):
        old = min(int((new + 0.5) * before / length), before - 1)
        plane = volume.take(old, axis)
        expected = zoomed(plane, found.take(new, axis).shape).clip(plane.min(), plane.max())
        np.testing.assert_allclose(found.take(new, axis), expected, atol=1e-4)


def test_the_same_shape_costs_nothing() -> None:
    image, labels = noise(1, 4, 5, 6), np.zeros((4, 5, 6), np.uint8)
    assert resample_image(image, (4, 5, 6)) is image
    assert resample_labels(labels, (4, 5, 6)) is labels


def test_one_slice_is_repeated() -> None:
    image = noise(1, 6, 5, 1)
    np.testing.assert_array_equal(resample_image(image, (6, 5, 3)), np.repeat(image, 3, axis=-1))


@settings(max_examples=40, deadline=None)
@given(before=shapes, after=shapes, seed=st.integers(0, 99))
def test_labels_are_the_largest_interpolated_share(before: Size3, after: Size3, seed: int) -> None:
    labels = np.random.default_rng(seed).choice([0, 3, 4, 300], before).astype(np.uint16)
    found = resample_labels(labels, after)
    assert found.dtype == labels.dtype
    shares = interpolated(
        np.stack([labels == label for label in (0, 3, 4, 300)]).astype(np.float32), after
    )
    winner = np.array([0, 3, 4, 300])[shares.argmax(0).numpy()]
    best, second = shares.topk(2, dim=0).values.numpy()
    clear = best - second > 1e-4
    np.testing.assert_array_equal(found[clear], winner[clear])
    assert np.isin(found, labels).all()


def test_equal_shares_go_to_the_smaller_label() -> None:
    labels = np.array([5, 2], np.uint8).reshape(2, 1, 1)
    assert resample_labels(labels, (1, 1, 1)).item() == 2
    assert resample_labels(np.array([[[0, 1]]]), (1, 1, 1)).item() == 0


def test_labels_without_background_keep_no_background() -> None:
    labels = np.full((3, 3, 3), 7, np.uint8)
    assert (resample_labels(labels, (5, 2, 4)) == 7).all()


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 3)])
def test_impossible_shapes_are_refused(shape: Size3) -> None:
    with pytest.raises(DataError, match="cannot resample"):
        resample_image(noise(1, 3, 3, 3), shape)
