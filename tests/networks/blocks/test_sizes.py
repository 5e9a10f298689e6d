"""Padding up to a multiple and cutting back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.errors import ConfigError
from medseg3d.networks.blocks import crop, pad_to_multiple, per_axis, per_stage

axes = st.integers(1, 9)


@given(size=st.tuples(axes, axes, axes), divisor=st.tuples(axes, axes, axes))
def test_padding_reaches_the_next_multiple_and_is_undone_by_crop(
    size: tuple[int, int, int], divisor: tuple[int, int, int]
) -> None:
    x = torch.rand(1, 2, *size)
    padded = pad_to_multiple(x, divisor)
    for before, after, step in zip(size, padded.shape[2:], divisor, strict=True):
        assert after % step == 0
        assert before <= after < before + step
    assert torch.equal(crop(padded, size), x)


def test_padding_repeats_the_last_voxels() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert pad_to_multiple(x, (2, 4)).tolist() == [[[[1, 2, 3, 3], [1, 2, 3, 3]]]]


def test_coarse_logits_keep_every_voxel_that_touches_the_image() -> None:
    coarse = torch.rand(1, 1, 4, 4, 4)
    assert crop(coarse, (7, 8, 9), (2, 4, 3)).shape == (1, 1, 4, 2, 3)


@pytest.mark.parametrize("size", [(1, 2), (0, 1, 1), 0])
def test_sizes_per_axis_must_fit(size: int | tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="one positive integer or 3 of them"):
        per_axis(size, 3)


def test_one_size_serves_all_stages() -> None:
    assert per_stage(3, 2, 3) == ((3, 3, 3), (3, 3, 3))
    assert per_stage([[1, 3, 3], 5], 2, 3, odd=True) == ((1, 3, 3), (5, 5, 5))
