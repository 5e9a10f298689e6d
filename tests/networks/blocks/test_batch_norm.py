"""Batch normalization of one value per channel, and that of more is torch's."""

import pytest
import torch
from torch import Tensor, nn

from medseg3d.networks import build_network
from medseg3d.networks.blocks import Style


@pytest.mark.parametrize(("spatial_dims", "plain"), [(2, nn.BatchNorm2d), (3, nn.BatchNorm3d)])
def test_one_value_is_normalized_by_what_was_seen_before(
    spatial_dims: int, plain: type[nn.BatchNorm2d | nn.BatchNorm3d]
) -> None:
    norm = Style(norm="batch", spatial_dims=spatial_dims).make_norm(3).train()
    torch_norm = plain(3).train()
    assert list(norm.state_dict()) == list(torch_norm.state_dict())
    several = torch.randn(4, 3, *(2,) * spatial_dims)
    assert torch.equal(norm(several), torch_norm(several))
    seen = {name: each.clone() for name, each in norm.state_dict().items()}
    single: Tensor = torch.randn(1, 3, *(1,) * spatial_dims)
    assert torch.equal(norm(single), torch_norm.eval()(single))
    assert all(torch.equal(each, seen[name]) for name, each in norm.state_dict().items())


@pytest.mark.parametrize("name", ["raunet", "scleraseg_net"])
def test_channel_attention_learns_from_a_batch_of_one(name: str) -> None:
    network = build_network(name, 1, 2, options={"width": 2, "norm": "batch"}).train()
    network(torch.randn(1, 1, 64, 32, 32)).sum().backward()
    assert all(each.grad is not None for each in network.parameters())
