"""The convolution that works around a broken bfloat16 kernel."""

import pytest
import torch

from medseg3d.networks import build_network
from medseg3d.networks.blocks.conv3d import Conv3d, ConvTranspose3d


@pytest.mark.parametrize("kind", [Conv3d, ConvTranspose3d])
@pytest.mark.parametrize(("kernel", "edge"), [(3, 1), (3, 2), (3, 3), (5, 2), (5, 4), (5, 5)])
def test_gradients_in_half_precision_are_those_of_float32(
    kind: type[torch.nn.Module], kernel: int, edge: int
) -> None:
    torch.manual_seed(0)
    conv = kind(3, 16, kernel, padding=kernel // 2)
    x, weights = torch.randn(2, 3, edge, 4, 4), torch.randn(2, 16, edge, 4, 4)
    (conv(x) * weights).sum().backward()
    expected = conv.weight.grad.clone()
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = conv(x)
    (logits.float() * weights).sum().backward()
    difference = (conv.weight.grad - expected).norm() / expected.norm()
    assert difference < 0.02


@pytest.mark.parametrize("kind", [Conv3d, ConvTranspose3d])
def test_half_precision_is_kept_for_all_other_images(kind: type[torch.nn.Module]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert kind(1, 1, 3, padding=1)(torch.randn(1, 1, 3, 3, 3)).dtype == torch.bfloat16
        assert kind(1, 1, 3, padding=1)(torch.randn(1, 1, 2, 3, 3)).dtype == torch.float32


@pytest.mark.parametrize("name", ["monai:VNet", "improved_attention_unet"])
def test_no_network_has_a_convolution_without_that_care(name: str) -> None:
    network = build_network(name, 1, 2)
    kinds = {type(module) for module in network.modules()}
    assert kinds & {Conv3d}
    assert not kinds & {torch.nn.Conv3d, torch.nn.ConvTranspose3d}
