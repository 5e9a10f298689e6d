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
