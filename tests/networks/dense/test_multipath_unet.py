"""Paths: one per channel, each with its own features first."""

import pytest
import torch

from medseg3d.networks import build_network
from medseg3d.networks.blocks.stages import listed
from medseg3d.networks.dense.multipath_unet import DenseMultipathUNet


def network(channels: int) -> DenseMultipathUNet:
    torch.manual_seed(0)
    return DenseMultipathUNet(channels, 2, width=2, strides=(2, 2), norm="none").eval()


def test_every_path_begins_with_its_own_channel_and_then_reads_all() -> None:
    built = network(3)
    seen: list[list[torch.Tensor]] = []
    for paths in built.encoders:
        seen.append([])
        for path in listed(paths):
            path.register_forward_pre_hook(lambda _, x, at=seen[-1]: at.append(x[0]))
    features: list[torch.Tensor] = []
    for path in listed(built.encoders[0]):
        path.register_forward_hook(lambda *told: features.append(told[2]))
    image = torch.randn(1, 3, 4, 4, 4)
    built(image)
    for channel, read in enumerate(seen[0]):
        assert torch.equal(read, image[:, channel : channel + 1])
    pool = torch.nn.MaxPool3d(2)
    for own, read in enumerate(seen[1]):
        order = (own, (own + 1) % 3, (own + 2) % 3)
        assert torch.equal(read, torch.cat([pool(features[path]) for path in order], dim=1))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_coarsest_stage_reads_all_paths_and_what_they_read(channels: int) -> None:
    widths = (2, 4)
    expected = channels * widths[1] + channels * widths[0]
    assert network(channels).bottom.first.conv.in_channels == expected


def test_a_changed_channel_is_seen_by_the_logits() -> None:
    built = build_network("dense_multipath_unet", 3, 2, options={"width": 2, "strides": (2, 2)})
    x = torch.randn(1, 3, 8, 8, 8)
    for channel in range(3):
        other = x.clone()
        other[:, channel] += torch.randn(8, 8, 8)
        assert not torch.allclose(built.eval()(other), built(x))
