"""Pooling that remembers places does what torch's own does, ties included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from medseg3d.networks.blocks.unpooling import max_pool, max_unpool

POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
UNPOOL = {2: functional.max_unpool2d, 3: functional.max_unpool3d}
edges = st.integers(1, 3)


@given(
    step=st.one_of(st.tuples(edges, edges), st.tuples(edges, edges, edges)),
    windows=st.tuples(edges, edges, edges),
    seed=st.integers(0, 10_000),
)
def test_values_places_and_gradients_are_those_of_torch(
    step: tuple[int, ...], windows: tuple[int, int, int], seed: int
) -> None:
    size = [edge * number for edge, number in zip(step, windows, strict=False)]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 3, (2, 2, *size), generator=generator).double()  # with many ties
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()

    pooled, places = max_pool(ours, step)
    back = max_unpool(pooled, places, step)
    expected, indices = POOL[len(step)](theirs, step, step, return_indices=True)
    expected_back = UNPOOL[len(step)](expected, indices, step, step, output_size=size)
    assert torch.equal(pooled, expected)
    assert torch.equal(back, expected_back)

    weights = torch.rand(back.shape, generator=generator, dtype=torch.float64)
    ((back * weights).sum() + (pooled**2).sum()).backward()
    ((expected_back * weights).sum() + (expected**2).sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("step", [(2, 2), (1, 2, 2), (2, 3, 1)])
def test_every_value_comes_back_once(step: tuple[int, ...]) -> None:
    x = torch.ones(1, 1, *(2 * edge for edge in step))
    back = max_unpool(*max_pool(x, step), step)
    assert back.shape == x.shape
    assert back.sum() == 2 ** len(step)
