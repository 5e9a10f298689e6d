"""The convolution that works around a broken bfloat16 kernel."""

import pytest
import torch

from medseg3d.networks.blocks.conv3d import Conv3d


@pytest.mark.parametrize(("kernel", "edge"), [(3, 1), (3, 2), (3, 3), (5, 2), (5, 4), (5, 5)])
def test_gradients_in_half_precision_are_those_of_float32(kernel: int, edge: int) -> None:
    torch.manual_seed(0)
    conv = Conv3d(3, 16, kernel, padding=kernel // 2)
    x, weights = torch.randn(2, 3, edge, 4, 4), torch.randn(2, 16, edge, 4, 4)
    (conv(x) * weights).sum().backward()
    assert conv.weight.grad is not None
    expected = conv.weight.grad.clone()
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = conv(x)
    (logits.float() * weights).sum().backward()
    difference = (conv.weight.grad - expected).norm() / expected.norm()
    assert difference < 0.02


def test_half_precision_is_kept_for_all_other_images() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv3d(1, 1, 3, padding=1)(torch.randn(1, 1, 3, 3, 3)).dtype == torch.bfloat16
        assert Conv3d(1, 1, 3, padding=1)(torch.randn(1, 1, 2, 3, 3)).dtype == torch.float32
