"""Draws that repeat themselves, and the entropy of label maps against the definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from medseg3d.geometry.resampling import AxisMap
from medseg3d.inference.planes import ONE
from medseg3d.inference.sampling import Sampler, draw, entropy_of
from medseg3d.inference.stream import stream

SHAPE = (3, 4, 2)
maps = st.lists(arrays(np.uint8, SHAPE, elements=st.integers(0, 3)), min_size=1, max_size=5)


def test_a_draw_depends_on_seed_and_number_only() -> None:
    first = draw(0, 6, seed=1)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, draw(0, 6, seed=1))
    others = [draw(1, 6, seed=1), draw(0, 6, seed=2), draw(1, 6, seed=0)]
    assert all(np.abs(other - first).min() > 1e-3 for other in others)
    many = draw(3, 40_000, seed=0)
    assert abs(many.mean()) < 0.02
    assert many.std() == pytest.approx(1, abs=0.02)


@given(samples=maps)
def test_entropy_is_that_of_the_votes(samples: list[np.ndarray]) -> None:
    found = entropy_of(samples, 4)
    assert found.dtype == np.uint16
    for voxel in np.ndindex(SHAPE):
        shares = np.bincount([int(sample[voxel]) for sample in samples]) / len(samples)
        shares = shares[shares > 0]
        expected = -(shares * np.log(shares)).sum() / np.log(4)
        assert found[voxel] / ONE == pytest.approx(expected, abs=1 / ONE)


@pytest.mark.parametrize("order", ["C", "F"])
def test_entropy_has_the_order_of_the_label_maps(order: str) -> None:
    samples = [np.array(np.arange(24).reshape(SHAPE) % n, np.uint8, order=order) for n in (2, 3)]
    found = entropy_of(samples, 3)
    assert found.strides[0] < found.strides[-1] if order == "F" else found.flags.c_contiguous
    np.testing.assert_array_equal(found > 0, samples[0] != samples[1])


class Telling(nn.Module):
    """Answers with its noise, wherever it looks."""

    divisor = (2, 2, 2)

    def sample(self, x: Tensor, noise: Tensor) -> Tensor:
        return noise.reshape(1, -1, 1, 1, 1).expand(len(x), -1, *x.shape[2:])


def test_all_windows_get_the_same_draw() -> None:
    noise = np.array([0.5, -1.5, 3.0], np.float32)
    sampler = Sampler(Telling(), noise, device=torch.device("cpu"))
    assert sampler.divisor == (2, 2, 2)
    batch = np.zeros((2, 1, 4, 2, 2), np.float32)
    batch.flags.writeable = False
    logits = sampler(batch)
    assert logits.shape == (2, 3, 4, 2, 2)
    assert (logits == noise[:, None, None, None]).all()
    image = np.random.default_rng(0).normal(size=(1, 9, 8, 7)).astype(np.float32)
    i, j, k = (AxisMap(0, np.arange(n, dtype=float)) for n in image.shape[1:])
    out = np.zeros(image.shape[1:], np.uint8)
    timing = stream(sampler, image, (i, j, k), out, np.array([0, 3, 7]), window=(4, 4, 4))
    assert timing.windows > 8
    assert (out == 7).all()
