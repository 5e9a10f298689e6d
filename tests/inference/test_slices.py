"""Slice by slice: each slice once, whatever the windows, and as if it were alone."""

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.errors import ModelError
from medseg3d.inference.course import Course
from medseg3d.inference.slab import least_slab_bytes, slab_bytes
from medseg3d.inference.stream import predict_labels
from medseg3d.inference.windows import fit_window
from tests.inference.reference import Network, stitched

Size3 = tuple[int, int, int]
Array = npt.NDArray[Any]


def by_slice(axis: int) -> Any:
    """Logits that depend on all of a slice and on no other slice."""
    within = tuple(n + 1 for n in range(3) if n != axis)

    def function(batch: Array) -> Array:
        x = batch[:, 0]
        mean = x.mean(axis=within, keepdims=True)
        return np.stack([0.2 + 0 * x, x - mean, mean - x], axis=1)

    return function


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_labels_are_those_of_slices_seen_alone(axis: int, at_once: int) -> None:
    image = np.random.default_rng(axis).normal(size=(1, 13, 15, 14)).astype(np.float32)
    window = [6, 8, 6]
    window[axis] = at_once
    network = Network(by_slice(axis))
    found = predict_labels(
        network, image, window=(window[0], window[1], window[2]), overlap=0.5, slice_axis=axis
    )
    window[axis] = 1
    for number in range(image.shape[axis + 1]):
        part = image.take([number], axis=axis + 1)
        single = (window[0], window[1], window[2])
        expected = stitched(by_slice(axis), part, window=single, overlap=0.5, axis=axis)
        np.testing.assert_array_equal(
            found.take(number, axis), expected.argmax(axis=0).take(0, axis)
        )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_numbers_that_are_not_finite_in_one_slice_are_refused(axis: int) -> None:
    edges = [32, 32, 32]
    edges[axis] = 6
    shape = (edges[0], edges[1], edges[2])

    def function(batch: Array) -> Array:
        logits = np.zeros((len(batch), 2, *batch.shape[2:]), np.float32)
        np.moveaxis(logits, axis + 2, 0)[3] = np.nan
        return logits

    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    with pytest.raises(ModelError, match="not finite numbers"):
        predict_labels(Network(function), image, window=shape, slice_axis=axis)


@given(
    length=st.integers(1, 200),
    at_once=st.integers(1, 60),
    axis=st.integers(0, 2),
    overlap=st.floats(0, 0.9),
)
def test_hardly_any_slice_is_computed_twice(
    length: int, at_once: int, axis: int, overlap: float
) -> None:
    shape, window = [9, 9, 9], [9, 9, 9]
    shape[axis], window[axis] = length, at_once
    course = Course.through(tuple(shape), tuple(window), overlap, slice_axis=axis)  # type: ignore
    places = course.starts[axis]
    depth = course.window[axis]
    assert depth <= at_once
    assert len(places) == ceil(length / at_once)
    assert 0 <= len(places) * depth - length < len(places)
    covered = {place + step for place in places for step in range(depth)}
    assert covered == set(range(length))


def test_slices_a_little_larger_than_the_window_are_seen_whole() -> None:
    assert fit_window((43, 50, 200), (40, 56, 58), (8, 8, 1)) == (40, 56, 58)
    assert fit_window((43, 50, 200), (40, 56, 58), (8, 8, 1), slice_axis=2) == (48, 56, 50)
    assert fit_window((90, 90, 7), (40, 56, 58), (8, 8, 1), slice_axis=2) == (40, 56, 7)


def test_the_slab_of_slices_holds_no_more_than_a_window_and_a_plane() -> None:
    facts: tuple[int, Size3, Size3, float] = (2, (300, 300, 100), (128, 128, 16), 0.5)
    # 100 slices in 7 windows of 15; 3 numbers per voxel
    assert slab_bytes(*facts, slice_axis=2) == 4 * 3 * 16 * 300 * 300
    assert least_slab_bytes(*facts, slice_axis=2) < slab_bytes(*facts, slice_axis=2)
