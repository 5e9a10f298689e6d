"""Streamed labels are those of the plain way, voxel for voxel."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.errors import ModelError, RunError
from medseg3d.geometry.resampling import AxisMap
from medseg3d.inference.slab import Slab, least_slab_bytes, slab_bytes
from medseg3d.inference.stream import predict_labels, stream
from tests.inference.reference import (
    Network,
    interpolated,
    noisy,
    rolling_axis,
    stitched,
    zoom_map,
)

Size3 = tuple[int, int, int]


@pytest.fixture(scope="module", autouse=True)
def _fresh_memory_holds_nothing_useful() -> Iterator[None]:
    class Unset(Slab):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.ring.fill(np.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg3d.inference.stream.Slab", Unset)
        yield


def image_of(shape: Size3, *, channels: int = 1, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


def expected_labels(
    num_labels: int, image: Any, maps: Any, window: Size3, overlap: float, **mirror: Any
) -> npt.NDArray[np.int64]:
    axis = rolling_axis(image.shape[1:], window, overlap)
    logits = stitched(noisy(num_labels), image, window=window, overlap=overlap, axis=axis, **mirror)
    return interpolated(logits, maps, axis).argmax(axis=0)


def streamed(
    num_labels: int, image: Any, maps: Any, window: Size3, overlap: float, **options: Any
) -> npt.NDArray[np.uint8]:
    shape = tuple(axis_map.positions.size for axis_map in maps)
    out = np.full(shape, 255, np.uint8, order=options.pop("order", "F"))
    values = np.arange(num_labels)
    stream(Network(noisy(num_labels)), image, maps, out, values, window=window, overlap=overlap,
           **options)  # fmt: skip
    return out


CASES: list[tuple[Size3, Size3, Size3]] = [
    # working image, window, native
    ((31, 17, 19), (8, 8, 8), (20, 33, 25)),
    ((17, 31, 19), (8, 8, 8), (33, 20, 19)),
    ((17, 19, 31), (8, 8, 8), (17, 40, 62)),
    ((9, 30, 28), (9, 12, 12), (9, 50, 47)),
    ((5, 40, 7), (8, 16, 8), (10, 11, 12)),
    ((3, 4, 5), (8, 8, 8), (7, 4, 3)),
    ((40, 6, 1), (16, 8, 8), (80, 6, 2)),
    ((22, 22, 22), (6, 10, 16), (22, 22, 22)),
    ((33, 12, 13), (11, 12, 13), (100, 12, 13)),
]


@pytest.mark.parametrize(("shape", "window", "native"), CASES)
@pytest.mark.parametrize("num_labels", [2, 20])
def test_the_labels_are_those_of_the_plain_way(
    shape: Size3, window: Size3, native: Size3, num_labels: int
) -> None:
    image = image_of(shape)
    maps = tuple(zoom_map(n, m) for n, m in zip(shape, native, strict=True))
    found = streamed(num_labels, image, maps, window, 0.5, threads=2)
    expected = expected_labels(num_labels, image, maps, window, 0.5)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    window=st.tuples(*[st.integers(2, 12)] * 3),
    native=st.tuples(*[st.integers(1, 30)] * 3),
    num_labels=st.sampled_from([2, 3, 100]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    threads=st.sampled_from([1, 3]),
    batch_size=st.sampled_from([1, 3]),
    room=st.floats(0, 1),
    order=st.sampled_from(["C", "F"]),
    air=st.floats(0, 1),
)
def test_whatever_the_sizes_threads_batches_strips_and_order(
    shape: Size3,
    window: Size3,
    native: Size3,
    num_labels: int,
    overlap: float,
    threads: int,
    batch_size: int,
    room: float,
    order: str,
    air: float,
) -> None:
    image = image_of(shape)
    image[..., : int(air * shape[2])] = image[:, : int(2 * air * shape[0]), :2] = -1
    maps = tuple(zoom_map(n, m) for n, m in zip(shape, native, strict=True))
    network = Network(noisy(num_labels), divisor=(1000, 1000, 1000))  # windows stay as they are
    out = np.full(native, 255, np.uint8, order=order)  # type: ignore[call-overload]
    stream(
        network,
        image,
        maps,  # type: ignore[arg-type]
        out,
        np.arange(num_labels),
        window=window,
        overlap=overlap,
        threads=threads,
        batch_size=batch_size,
        max_slab_bytes=int(room * slab_bytes(num_labels, shape, window, overlap)),
    )
    expected = expected_labels(num_labels, image, maps, window, overlap)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flips", [(), (0,), (1,), (0, 1, 2)])
@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_any_strides_of_the_label_map(axis: int, flips: Any, turn: Any) -> None:
    shape = [13, 14, 15]
    shape[axis] = 30
    image = image_of((shape[0], shape[1], shape[2]))
    native = [21, 22, 23]
    maps = tuple(zoom_map(n, m) for n, m in zip(shape, native, strict=True))
    stored = np.empty([native[n] for n in turn], np.uint16, order="F")
    out = np.flip(stored, flips).transpose(np.argsort(turn))
    stream(Network(noisy(3)), image, maps, out, np.array([0, 400, 7]), window=(8, 8, 8), threads=2)  # type: ignore[arg-type]
    expected = expected_labels(3, image, maps, (8, 8, 8), 0.5)
    np.testing.assert_array_equal(out, np.array([0, 400, 7])[expected])


@pytest.mark.parametrize("high", [2**16 - 1, 2**16, 70_000, 2**31 - 1])
def test_no_label_is_too_large(high: int) -> None:
    image = image_of((20, 9, 10))
    maps = tuple(zoom_map(n, 2 * n) for n in image.shape[1:])
    out = np.empty((40, 18, 20), np.uint32)
    values = np.array([0, 5, high])
    stream(Network(noisy(3)), image, maps, out, values, window=(8, 8, 8))  # type: ignore[arg-type]
    np.testing.assert_array_equal(out, values[expected_labels(3, image, maps, (8, 8, 8), 0.5)])


def test_only_voxels_that_are_named_are_written() -> None:
    image = image_of((20, 9, 10))
    whole = tuple(zoom_map(n, 2 * n) for n in image.shape[1:])
    parts = [slice(7, 29), slice(3, 12), slice(0, 20)]
    maps = tuple(
        AxisMap(part.start, m.positions[part]) for m, part in zip(whole, parts, strict=True)
    )
    out = np.full((40, 18, 20), 99, np.uint8)
    stream(Network(noisy(4)), image, maps, out, np.arange(4), window=(8, 8, 8))  # type: ignore[arg-type]
    expected = np.full_like(out, 99)
    expected[tuple(parts)] = expected_labels(4, image, whole, (8, 8, 8), 0.5)[tuple(parts)]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirrored_copies_are_averaged(batch_size: int, axes: tuple[int, ...]) -> None:
    image = image_of((23, 9, 11))
    maps = tuple(zoom_map(n, n + 3) for n in image.shape[1:])
    mirror = {"mirror_axes": axes, "mirrored_labels": (0, 2, 1, 3)}
    found = streamed(4, image, maps, (8, 8, 8), 0.5, batch_size=batch_size, **mirror)
    np.testing.assert_array_equal(found, expected_labels(4, image, maps, (8, 8, 8), 0.5, **mirror))
    assert (found != expected_labels(4, image, maps, (8, 8, 8), 0.5)).any()


class Collecting:
    """A sink that keeps all logits."""

    def __init__(self, num_labels: int, shape: Size3) -> None:
        self.logits = np.full((num_labels, *shape), np.nan, np.float32)

    def take(self, axis: int, index: int, corner: tuple[int, int], logits: Any) -> None:
        across = [n for n in range(3) if n != axis]
        planes = self.logits.transpose(0, 1 + axis, *(1 + n for n in across))
        (a, b), (rows, columns) = corner, logits.shape[1:]
        planes[:, index, a : a + rows, b : b + columns] = logits


def logits_of(network: Network, image: Any, window: Size3, **options: Any) -> Any:
    """All logits on the working grid."""
    maps = tuple(zoom_map(n, n) for n in image.shape[1:])
    sink = Collecting(4, image.shape[1:])
    out = np.empty(image.shape[1:], np.uint8)
    stream(network, image, maps, out, np.arange(4), window=window, planes=[sink], **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(out, sink.logits.argmax(axis=0))
    return sink.logits


def sees_sides(batch: Any) -> Any:
    """Background, left, right, middle: bright voxels get the side of the dark gap they lie on.

    What lies to the left of its darker neighbor is left; in a mirror that is the right one's
    place, so the network is exact on patients and on mirrored ones, with sides changed.
    """
    rising = np.roll(batch, -1, 2) - np.roll(batch, 1, 2)
    return np.concatenate([-batch, -rising, rising, batch - 1], axis=1)


def lungs(shape: Size3 = (12, 9, 7)) -> npt.NDArray[np.float32]:
    """Smooth values that wrap around, so that rolling has no border."""
    i, j, k = np.indices(shape)
    image = np.sin(2 * np.pi * (i + 0.3) / shape[0]) + 0.1 * j - 0.2 * k
    return np.asarray(image[None], dtype=np.float32)


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2), (2, 0), (1, 2)])
def test_mirrored_copies_of_an_equivariant_network_change_nothing(axes: tuple[int, ...]) -> None:
    network, window = Network(sees_sides), (12, 9, 7)
    plain = logits_of(network, lungs(), window)
    labels = (0, 2, 1, 3)
    swapped = logits_of(network, lungs(), window, mirror_axes=axes, mirrored_labels=labels)
    np.testing.assert_allclose(swapped, plain, atol=1e-6)


@pytest.mark.parametrize("wrong", [(), (0, 1, 2, 3), (0, 2, 3, 1), (2, 1, 0, 3)])
def test_without_the_right_swap_the_sides_cancel_out(wrong: tuple[int, ...]) -> None:
    network, window = Network(sees_sides), (12, 9, 7)
    plain = logits_of(network, lungs(), window)
    found = logits_of(network, lungs(), window, mirror_axes=(0,), mirrored_labels=wrong)
    assert np.abs(found - plain).max() > 0.1


def test_agrees_with_torch_in_float64() -> None:
    image = image_of((30, 21, 22))
    native = (44, 37, 25)
    maps = tuple(zoom_map(n, m) for n, m in zip(image.shape[1:], native, strict=True))
    found = streamed(5, image, maps, (12, 12, 12), 0.5)
    logits = stitched(noisy(5), image, window=(12, 12, 12), overlap=0.5, axis=0)
    finer = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None].double(), size=native, mode="trilinear"
    )
    assert (finer[0].argmax(0).numpy() == found).mean() >= 0.9999


def test_of_equal_logits_the_first_wins() -> None:
    network = Network(lambda batch: np.zeros((len(batch), 3, *batch.shape[2:])))
    assert not predict_labels(network, image_of((9, 20, 8)), window=(8, 8, 8)).any()


def test_predict_labels_is_the_largest_logit_on_the_working_grid() -> None:
    image = image_of((20, 9, 7))
    logits = stitched(noisy(300), image, window=(8, 8, 8), overlap=0.5, axis=0)
    found = predict_labels(Network(noisy(300)), image, window=(8, 8, 8))
    np.testing.assert_array_equal(found, logits.argmax(axis=0))


def test_windows_without_anything_to_see_are_skipped_and_background() -> None:
    image = np.full((2, 64, 9, 8), -1, np.float32)
    image[0, 20:25] = image_of((5, 9, 8))[0]
    maps = tuple(zoom_map(n, n) for n in image.shape[1:])
    network = Network(lambda batch: np.stack([batch[:, 0] - 9, batch[:, 0] + 9], axis=1))
    out = np.full((64, 9, 8), 255, np.uint8)
    done = []
    timing = stream(network, image, maps, out, np.array([3, 5]), window=(8, 12, 8),  # type: ignore[arg-type]
                    advance=lambda *counts: done.append(counts))  # fmt: skip
    reached = [start for start in range(0, 57, 4) if start < 25 and start + 8 > 20]
    assert (timing.windows, timing.skipped) == (15, 15 - len(reached))
    assert len(network.seen) == len(reached)
    assert done == [(n, 15) for n in range(1, 16)]
    covered = slice(reached[0], reached[-1] + 8)
    assert (out[covered] == 5).all()
    out[covered] = 3
    assert (out == 3).all()


def test_an_image_of_one_value_is_background_without_any_network() -> None:
    image = np.full((1, 20, 30, 20), 2.5, np.float32)
    maps = tuple(zoom_map(n, 7) for n in image.shape[1:])
    network = Network(noisy(3))
    out = np.full((7, 7, 7), 255, np.uint8)
    timing = stream(network, image, maps, out, np.array([1, 2, 3]), window=(8, 8, 8))  # type: ignore[arg-type]
    assert timing.windows == timing.skipped
    assert not network.seen
    assert (out == 1).all()
    assert not predict_labels(network, image[:, :8, :8, :8] * 0, window=(8, 8, 8)).all()


def test_one_window_alone_is_not_weighted() -> None:
    network = Network(lambda batch: np.concatenate([batch, batch[:, :, ::-1]], axis=1))
    image = image_of((6, 7, 8))
    found = predict_labels(network, image, window=(8, 8, 8))
    assert network.seen == [(1, 1, 8, 8, 8)]
    np.testing.assert_array_equal(found, image[0] < image[0, ::-1])


def test_a_volume_little_larger_than_the_window_is_seen_whole() -> None:
    network = Network(noisy(2), divisor=(2, 2, 2))
    predict_labels(network, image_of((9, 10, 8)), window=(8, 8, 8))
    assert network.seen == [(1, 1, 10, 10, 8)]


def test_strips_compute_windows_at_their_boundaries_twice() -> None:
    image, window = image_of((40, 33, 10)), (8, 8, 8)
    maps = tuple(zoom_map(n, n) for n in image.shape[1:])
    least, most = (f(2, (40, 33, 10), window, 0.5) for f in (least_slab_bytes, slab_bytes))
    assert most == 4 * 3 * 9 * 33 * 10
    assert least == 4 * 3 * 9 * 9 * 10  # strips of 8 rows and one more, the last of 9
    windows = []
    for room in (most, least, 0):
        out = np.empty((40, 33, 10), np.uint8)
        timing = stream(Network(noisy(2)), image, maps, out, np.arange(2), window=window,  # type: ignore[arg-type]
                        max_slab_bytes=room)  # fmt: skip
        windows.append(timing.windows)
    assert windows[0] < windows[1] == windows[2] <= 2 * windows[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    network = Network(lambda batch: np.full((len(batch), 2, *batch.shape[2:]), bad))
    with pytest.raises(ModelError, match=r"not finite numbers .* --precision fp32"):
        predict_labels(network, image_of((9, 9, 9)), window=(8, 8, 8))


def test_another_number_of_logits_is_refused() -> None:
    image = image_of((9, 9, 9))
    maps = tuple(zoom_map(9, 9) for _ in range(3))
    with pytest.raises(ModelError, match="2 logits per voxel where 3 labels are named"):
        stream(Network(noisy(2)), image, maps, np.empty((9, 9, 9), np.uint8), np.arange(3),  # type: ignore[arg-type]
               window=(8, 8, 8))  # fmt: skip


class Failing:
    """A sink in which something goes wrong, or Ctrl-C is pressed meanwhile."""

    def __init__(self, fail: Callable[[], None]) -> None:
        self.fail = fail

    def take(self, axis: int, index: int, *_: Any) -> None:
        if axis == 0 and index == 5:
            self.fail()
        time.sleep(0.05)


def full() -> None:
    raise RunError("the disk is full")


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("fail", "error"), [(press_ctrl_c, KeyboardInterrupt), (full, RunError)])
def test_an_end_too_early_comes_soon_and_leaves_no_thread_behind(
    fail: Callable[[], None], error: type[BaseException]
) -> None:
    image = image_of((600, 9, 9))
    maps = tuple(zoom_map(n, n) for n in image.shape[1:])
    before, begun = set(threading.enumerate()), time.monotonic()
    with pytest.raises(error):
        stream(Network(noisy(2)), image, maps, np.empty((600, 9, 9), np.uint8), np.arange(2),  # type: ignore[arg-type]
               window=(500, 9, 9), threads=2, planes=[Failing(fail)])  # fmt: skip
    assert time.monotonic() - begun < 15
    assert set(threading.enumerate()) <= before
