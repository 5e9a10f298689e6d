"""Stitching windows: coverage, exactness, padding, mirroring."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from medseg3d.inference.sliding_window import (
    fit_window,
    gaussian_weights,
    predict_logits,
    starts,
    window_starts,
)


class PerVoxel(nn.Module):
    """Logits that depend on the voxel alone, so that windows cannot matter."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, 1 - 2 * x], dim=1)


class FirstVoxelCounts(nn.Module):
    """A network that is not symmetric under mirroring along the first axis."""

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.arange(x.shape[2], dtype=x.dtype).view(1, 1, -1, 1, 1)
        return x * ramp


@given(
    length=st.integers(1, 300),
    window=st.integers(1, 96),
    overlap=st.floats(0, 0.9),
)
def test_windows_cover_every_voxel_and_overlap_as_asked(
    length: int, window: int, overlap: float
) -> None:
    places = starts(length, window, overlap)
    covered = np.zeros(max(length, window), dtype=bool)
    for place in places:
        covered[place : place + window] = True
    assert covered[:length].all()
    assert places == sorted(set(places))
    if length > window:
        assert places[-1] + window == length
        steps = np.diff(places)
        assert steps.max() <= max(1, np.ceil(window * (1 - overlap)))


def test_windows_of_a_volume_are_the_product_of_the_axes() -> None:
    assert window_starts((4, 6, 2), (4, 4, 2), 0.5) == [(0, 0, 0), (0, 2, 0)]


def test_gaussian_weights_are_symmetric_and_positive() -> None:
    weights = gaussian_weights((8, 6, 5))
    torch.testing.assert_close(weights, weights.flip(0, 1, 2))
    assert weights.min() > 0
    assert weights.max() == 1


@given(shape=st.tuples(*[st.integers(1, 20)] * 3), overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_a_network_without_context_gives_the_same_stitched_as_at_once(
    shape: tuple[int, int, int], overlap: float
) -> None:
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    logits = predict_logits(PerVoxel(), image, window=(8, 8, 8), overlap=overlap)
    expected = PerVoxel()(torch.from_numpy(image)[None])[0].numpy()
    assert logits.shape == (2, *shape)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_stitching_equals_a_plain_weighted_mean() -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1)
    image = np.random.default_rng(1).normal(size=(1, 11, 19, 13)).astype(np.float32)
    window = (8, 8, 8)
    found = predict_logits(network, image, window=window, overlap=0.5)
    total, norm = np.zeros((2, 11, 19, 13)), np.zeros((11, 19, 13))
    weights = gaussian_weights(window).numpy().astype(np.float64)
    with torch.no_grad():
        for i, j, k in window_starts((11, 19, 13), window, 0.5):
            box = (slice(i, i + 8), slice(j, j + 8), slice(k, k + 8))
            patch = torch.from_numpy(image[(slice(None), *box)])[None]
            total[(slice(None), *box)] += network(patch)[0].numpy() * weights
            norm[box] += weights
    np.testing.assert_allclose(found, total / norm, atol=1e-5)


def test_mirroring_averages_over_all_flips() -> None:
    image = np.ones((1, 4, 4, 4), dtype=np.float32)
    plain = predict_logits(FirstVoxelCounts(), image, window=(4, 4, 4))
    mirrored = predict_logits(FirstVoxelCounts(), image, window=(4, 4, 4), mirror_axes=(0,))
    np.testing.assert_allclose(mirrored, (plain + plain[:, ::-1]) / 2)


class SeesSides(nn.Module):
    """Background, left, right, middle: bright voxels get the side of the dark gap they lie on.

    What lies to the left of its darker neighbor is left; in a mirror that is the right one's
    place, so the network is exact on patients and on mirrored ones, with sides changed.
    """

    def forward(self, x: Tensor) -> Tensor:
        rising = torch.roll(x, -1, 2) - torch.roll(x, 1, 2)
        return torch.cat([-x, -rising, rising, x - 1], dim=1)


def lungs(shape: tuple[int, int, int] = (12, 9, 7)) -> np.ndarray:
    """Smooth values that wrap around, so that rolling has no border."""
    i, j, k = np.indices(shape)
    image = np.sin(2 * np.pi * (i + 0.3) / shape[0]) + 0.1 * j - 0.2 * k
    return np.asarray(image[None], dtype=np.float32)


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2), (2, 0)])
def test_mirrored_copies_of_an_equivariant_network_change_nothing(axes: tuple[int, ...]) -> None:
    window = (12, 9, 7)
    plain = predict_logits(SeesSides(), lungs(), window=window)
    swapped = predict_logits(
        SeesSides(), lungs(), window=window, mirror_axes=axes, mirrored_labels=(0, 2, 1, 3)
    )
    np.testing.assert_allclose(swapped, plain, atol=1e-6)


@pytest.mark.parametrize("wrong", [(), (0, 1, 2, 3), (0, 2, 3, 1), (2, 1, 0, 3)])
def test_without_the_right_swap_the_sides_cancel_out(wrong: tuple[int, ...]) -> None:
    plain = predict_logits(SeesSides(), lungs(), window=(12, 9, 7))
    found = predict_logits(
        SeesSides(), lungs(), window=(12, 9, 7), mirror_axes=(0,), mirrored_labels=wrong
    )
    assert np.abs(found - plain).max() > 0.1


def test_other_axes_swap_nothing() -> None:
    options = {"window": (12, 9, 7), "mirror_axes": (1, 2)}
    plain = predict_logits(SeesSides(), lungs(), **options)  # type: ignore[arg-type]
    found = predict_logits(SeesSides(), lungs(), mirrored_labels=(0, 2, 1, 3), **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, plain)


def test_swapping_works_window_by_window() -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 3, 3, padding=1)
    mirrored = {"mirror_axes": (0,), "mirrored_labels": (0, 2, 1)}
    image = np.random.default_rng(1).normal(size=(1, 19, 9, 8)).astype(np.float32)
    there = predict_logits(network, image, window=(8, 8, 8), **mirrored)  # type: ignore[arg-type]
    back = predict_logits(network, image[:, ::-1], window=(8, 8, 8), **mirrored)  # type: ignore[arg-type]
    np.testing.assert_allclose(back[[0, 2, 1], ::-1], there, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 44, 1), (300, 3, 3), (1, 1, 1)])
def test_volumes_shorter_than_the_window_are_padded_and_cut_back(
    shape: tuple[int, int, int],
) -> None:
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    seen: set[tuple[int, ...]] = set()

    class Watched(PerVoxel):
        divisor = (8, 8, 4)

        def forward(self, x: Tensor) -> Tensor:
            seen.add(tuple(x.shape[2:]))
            return super().forward(x)

    logits = predict_logits(Watched(), image, window=(16, 16, 8))
    assert all(n % d == 0 for size in seen for n, d in zip(size, (8, 8, 4), strict=True))
    np.testing.assert_allclose(
        logits, PerVoxel()(torch.from_numpy(image)[None])[0].numpy(), atol=1e-5
    )


def test_progress_counts_the_windows() -> None:
    seen: list[tuple[int, int]] = []
    image = np.zeros((1, 12, 4, 4), dtype=np.float32)
    assert fit_window((12, 4, 4), (4, 4, 4), (1, 1, 1)) == (4, 4, 4)
    predict_logits(
        PerVoxel(),
        image,
        window=(4, 4, 4),
        overlap=0.5,
        advance=lambda done, windows: seen.append((done, windows)),
    )
    assert seen == [(n, 5) for n in range(1, 6)]


def test_a_volume_little_larger_than_the_window_is_seen_whole() -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1)
    image = np.random.default_rng(1).normal(size=(1, 9, 10, 8)).astype(np.float32)
    seen: list[tuple[int, int]] = []
    logits = predict_logits(
        network, image, window=(8, 8, 8), advance=lambda done, windows: seen.append((done, windows))
    )
    assert seen == [(1, 1)]
    with torch.no_grad():
        expected = network(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_bf16_stays_close_to_float32() -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1)
    image = np.random.default_rng(1).normal(size=(1, 8, 8, 8)).astype(np.float32)
    exact = predict_logits(network, image, window=(8, 8, 8))
    rounded = predict_logits(network, image, window=(8, 8, 8), precision="bf16")
    assert rounded.dtype == np.float32
    assert np.abs(exact - rounded).max() == pytest.approx(0, abs=0.05)
