"""Attention over positions and channels against loops over all pairs."""

import pytest
import torch

from medseg3d.networks.blocks import Style
from medseg3d.networks.blocks.attention import ChannelAttention, PositionAttention


@pytest.mark.parametrize("dims", [2, 3])
def test_each_voxel_adds_all_voxels_weighted_by_agreement(dims: int) -> None:
    torch.manual_seed(dims)
    attention = PositionAttention(8, style=Style(spatial_dims=dims)).double()
    attention.share.data.fill_(0.7)
    x = torch.randn(2, 8, *(2, 3, 2)[:dims], dtype=torch.float64)
    query, key, value = (
        each(x).flatten(2) for each in (attention.query, attention.key, attention.value)
    )
    expected = x.flatten(2).clone()
    for case in range(2):
        for here in range(expected.shape[2]):
            agreement = torch.stack(
                [query[case, :, here] @ key[case, :, there] for there in range(expected.shape[2])]
            )
            weights = agreement.exp() / agreement.exp().sum()
            for there, weight in enumerate(weights):
                expected[case, :, here] += 0.7 * weight * value[case, :, there]
    torch.testing.assert_close(attention(x).flatten(2), expected)


def test_each_channel_adds_all_channels_weighted_by_disagreement() -> None:
    attention = ChannelAttention().double()
    attention.share.data.fill_(-1.5)
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    flat = x[0].flatten(1)
    expected = flat.clone()
    for here in range(3):
        agreement = torch.stack([flat[here] @ flat[there] for there in range(3)])
        weights = (-agreement).exp() / (-agreement).exp().sum()
        for there, weight in enumerate(weights):
            expected[here] -= 1.5 * weight * flat[there]
    torch.testing.assert_close(attention(x)[0].flatten(1), expected)


def test_both_begin_as_nothing_and_stand_large_values() -> None:
    x = 1e4 * torch.randn(1, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    for attention in (PositionAttention(8, style=Style(spatial_dims=2)), ChannelAttention()):
        assert torch.equal(attention(x), x)
        attention.share.data.fill_(1.0)
        assert attention(x).isfinite().all()


def test_large_features_stay_finite_in_half_precision() -> None:
    x = 300 * torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(0)).half()
    attention = ChannelAttention().half()
    attention.share.data.fill_(1.0)
    with torch.autocast("cpu", torch.float16):
        assert attention(x).isfinite().all()  # agreements are beyond 65504


def test_who_agrees_most_is_told_in_full_precision() -> None:
    x = torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(0)) + 4
    attention = ChannelAttention()
    attention.share.data.fill_(1.0)
    expected = attention(x) - x
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(x) - x
    assert (found - expected).norm() / expected.norm() < 0.01
