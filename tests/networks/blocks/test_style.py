"""Normalizations and activations that blocks share."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medseg3d.networks.blocks import InstanceNorm, Style

sizes = st.lists(st.integers(1, 5), min_size=2, max_size=3).filter(lambda size: max(size) > 1)


@given(size=sizes, batch=st.integers(1, 3))
def test_instance_norm_equals_torch_s(size: list[int], batch: int) -> None:
    torch.manual_seed(0)
    ours = InstanceNorm(4)
    theirs = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[len(size)](4, affine=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(batch, 4, *size)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_a_single_voxel_becomes_the_shift(training: bool) -> None:
    torch.manual_seed(0)
    norm = InstanceNorm(3).train(training)
    nn.init.normal_(norm.bias)
    found = norm(torch.randn(1, 3, 1, 1, 1)).flatten()
    torch.testing.assert_close(found, norm.bias.detach(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("activation", "at_minus_one"), [("relu", 0.0), ("leaky_relu", -0.01), ("prelu", -0.25)]
)
def test_the_slope_for_he_s_rule_is_the_activation_s(activation: str, at_minus_one: float) -> None:
    style = Style(activation=activation)  # type: ignore[arg-type]
    found = style.make_activation(1)(torch.tensor([[-1.0]])).item()
    assert found == pytest.approx(at_minus_one)
    assert found == pytest.approx(-style.negative_slope)


def test_prelu_learns_one_slope_per_channel() -> None:
    assert Style(activation="prelu").make_activation(7).weight.shape == (7,)
