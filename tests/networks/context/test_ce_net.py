"""Residual multi-kernel pooling: windows that an image is too small for."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from medseg3d.networks.context.ce_net import POOLS, _whole_windows

POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
lengths = st.integers(1, 14)


@given(
    size=st.one_of(st.tuples(lengths, lengths), st.tuples(lengths, lengths, lengths)),
    edge=st.sampled_from(POOLS),
    seed=st.integers(0, 1000),
)
def test_windows_shrink_to_a_short_axis_and_drop_what_is_left_over(
    size: tuple[int, ...], edge: int, seed: int
) -> None:
    x = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(seed))
    window = tuple(min(edge, length) for length in size)
    assert torch.equal(_whole_windows(x, edge), POOL[len(size)](x, window, window))


@pytest.mark.parametrize("first", [(1, 1, 1), (7, 4, 13)])
def test_what_one_size_recorded_serves_for_another(first: tuple[int, int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would like another recorder
        recorded = torch.jit.trace(lambda x: _whole_windows(x, 3), torch.randn(1, 1, *first))
    for size in ((2, 9, 5), (1, 3, 12)):
        x = torch.randn(1, 1, *size)
        assert torch.equal(recorded(x), _whole_windows(x, 3))
