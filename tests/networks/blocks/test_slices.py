"""Volumes to slices with their neighbors and back."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.networks.blocks import from_slices, to_slabs


def test_triplets_are_before_slice_after_with_borders_repeated() -> None:
    volume = torch.arange(4.0).view(1, 1, 1, 1, 4)
    assert to_slabs(volume, 3).flatten(1).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_a_slab_may_be_larger_than_the_volume() -> None:
    volume = torch.arange(2.0).view(1, 1, 1, 1, 2)
    assert to_slabs(volume, 5).flatten(1).tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]


def test_a_single_slice_is_its_own_neighbor() -> None:
    assert to_slabs(torch.ones(2, 3, 4, 5, 1), 3).shape == (2, 9, 4, 5)


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    size=st.tuples(*[st.integers(1, 4)] * 3),
    half=st.integers(0, 2),
)
def test_stacking_the_middle_slices_restores_the_volume(
    batch: int, channels: int, size: tuple[int, int, int], half: int
) -> None:
    volume = torch.rand(batch, channels, *size)
    middle = to_slabs(volume, 2 * half + 1)[:, half * channels : (half + 1) * channels]
    assert torch.equal(from_slices(middle, batch), volume)
