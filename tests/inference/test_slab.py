"""The slab: which planes it holds, what it sums up, how small it can be."""

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.inference.course import Course, Strip
from medseg3d.inference.kernels import AIR, compiled
from medseg3d.inference.slab import Slab, least_slab_bytes, slab_bytes
from medseg3d.inference.windows import gaussian_weights

Size3 = tuple[int, int, int]


@pytest.mark.parametrize(
    ("shape", "window", "axis", "depth"),
    [
        ((500, 273, 273), (96, 96, 96), 0, 97),
        ((273, 273, 500), (96, 96, 96), 2, 97),
        ((20, 300, 300), (20, 96, 192), 1, 97),  # the last axis is as long, but its window longer
        ((20, 30, 40), (32, 32, 40), 2, 40),  # one window: the longest, all of it
    ],
)
def test_the_slab_rolls_where_it_holds_the_least(
    shape: Size3, window: Size3, axis: int, depth: int
) -> None:
    course = Course(shape, window, 0.5)
    assert (course.axis, course.depth) == (axis, depth)


def test_bytes_by_hand() -> None:
    # 97 planes of 273 x 273 voxels, 20 labels and the sum of the weights
    assert slab_bytes(20, (500, 273, 273), (96,) * 3, 0.5) == 4 * 21 * 97 * 273 * 273
    # strips of 136 or 137 voxels, the first with one more; three would be narrower than a window
    assert least_slab_bytes(20, (500, 273, 273), (96,) * 3, 0.5) == 4 * 21 * 97 * 273 * 137
    # seen whole
    whole = 4 * 3 * 90 * 90 * 90
    assert slab_bytes(2, (90, 90, 90), (80, 80, 80), 0.5) == whole
    assert least_slab_bytes(2, (90, 90, 90), (80, 80, 80), 0.5) == whole


@given(
    shape=st.tuples(*[st.integers(1, 60)] * 3),
    window=st.tuples(*[st.integers(1, 20)] * 3),
    room=st.floats(0, 1.2),
)
def test_strips_divide_the_plane_and_fit_if_they_can(
    shape: Size3, window: Size3, room: float
) -> None:
    course = Course(shape, window, 0.5)
    most = course.bytes_of(course.strips(3, None), 3)
    strips = course.strips(3, int(room * most))
    assert [strip.first for strip in strips[1:]] == [strip.end for strip in strips[:-1]]
    assert (strips[0].first, strips[-1].end) == (0, shape[strips[0].axis])
    for strip in strips:
        assert strip.stop == min(strip.end + 1, shape[strip.axis])
        assert len(strips) == 1 or strip.end - strip.first >= window[strip.axis]
    taken = course.bytes_of(strips, 3)
    least = course.bytes_of(course.strips(3, 0), 3)
    assert taken <= max(room * most, least)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("threads", [1, 2])
def test_windows_are_summed_with_their_weights(
    axis: int, flips: tuple[int, ...], threads: int
) -> None:
    shape = [9, 10, 11]
    shape[axis] = 40
    window = (18, 6, 7)
    course = Course((shape[0], shape[1], shape[2]), window, 0.5)
    assert course.axis in (axis, 1, 2)
    strip = Strip(course.axes[1], 1, 7, 8)
    weights = gaussian_weights(window)
    slab = Slab(course, strip, 3, weights, threads=threads)
    generator = np.random.default_rng(0)
    channels = np.array([0, 2, 1])
    total = np.zeros((4, *shape))
    for start in course.places(course.layers[0], strip):
        logits = generator.normal(size=(3, *window)).astype(np.float32)
        slab.add(logits, start, flips=flips, channels=channels)
        seen = np.flip(logits, [n + 1 for n in flips])[channels] * weights.astype(np.float64)
        there = tuple(slice(max(0, s), s + w) for s, w in zip(start, window, strict=True))
        size = total[(slice(None), *there)].shape[1:]
        part = tuple(slice(max(0, -s), max(0, -s) + n) for s, n in zip(start, size, strict=True))
        total[:3][(slice(None), *there)] += seen[(slice(None), *part)]
        total[3][there] += weights[part]
    planes = min(window[course.axis], course.shape[course.axis])
    found = slab.ring[:planes]
    expected = total.transpose(course.axis + 1, 0, *(n + 1 for n in course.axes[1:]))
    np.testing.assert_allclose(found, expected[:planes, :, 1:8], atol=1e-5)


def test_settled_planes_hold_factors_and_air() -> None:
    course = Course((20, 4, 4), (4, 4, 4), 0.5)
    slab = Slab(course, Strip(1, 0, 4, 4), 3, gaussian_weights((4, 4, 4)), threads=1)
    slab.add(np.ones((3, 4, 4, 4), np.float32), (0, 0, 0))
    slab.settle(2)
    means = slab.ring[:2, :3] * slab.ring[:2, 3:]
    np.testing.assert_allclose(means, 1, rtol=1e-6)
    slab.settle(4)
    slab.settle(6)  # planes that no window has reached, one of them where plane 0 was
    empty = slab.ring[np.array([4, 5]) % 5]
    assert (empty[:, 0] == 0).all()
    assert (empty[:, 1:3] == AIR).all()
    assert (empty[:, 3] == 1).all()


@pytest.mark.parametrize("error", [RuntimeError, OSError, EOFError])
def test_machine_code_that_cannot_be_kept_is_made_anew(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    njit = numba.njit

    def fails_to_keep(*arguments: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise error("no room")
        return njit(*arguments, **options)

    monkeypatch.setattr(numba, "njit", fails_to_keep)

    @compiled("void(f4[::1])")
    def double(values: Any) -> None:
        for n in range(values.size):
            values[n] *= 2

    values = np.ones(3, np.float32)
    double(values)
    assert values.tolist() == [2, 2, 2]
