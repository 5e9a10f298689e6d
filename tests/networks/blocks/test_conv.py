"""Blocks of convolutions: orders, shapes, hand-worked values."""

import pytest
import torch
from torch import Tensor, nn

from medseg3d.networks.blocks import (
    ConvNormAct,
    ConvStack,
    DenseBlock,
    DenseTransition,
    NormAct,
    NormActConv,
    ResidualStage,
    Style,
    UpNormAct,
    he_initialize,
)

PLAIN = Style(norm="none", activation="relu")


def ones_in_convs(module: nn.Module) -> None:
    """Every convolution adds up its window."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d):
            nn.init.ones_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_odd_kernels_keep_the_size(spatial_dims: int, kernel: int) -> None:
    block = ConvNormAct(2, 3, kernel=kernel, style=Style(spatial_dims=spatial_dims))
    size = (5, 6, 7)[:spatial_dims]
    assert block(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_kernels_and_strides_are_per_axis() -> None:
    block = ConvNormAct(1, 1, kernel=(1, 3, 3), stride=(1, 2, 2), style=PLAIN)
    ones_in_convs(block)
    found = block(torch.ones(1, 1, 2, 4, 4))
    expected = torch.tensor([[4.0, 6.0], [6.0, 9.0]])  # windows cut by the border, then whole
    assert torch.equal(found[0, 0], torch.stack([expected, expected]))


def test_a_kernel_equal_to_its_stride_tiles_the_input() -> None:
    block = ConvNormAct(1, 1, kernel=2, stride=2, style=PLAIN)
    ones_in_convs(block)
    x = torch.arange(64.0).view(1, 1, 4, 4, 4)
    torch.testing.assert_close(block(x), 8 * nn.functional.avg_pool3d(x, 2))


def test_activation_and_dropout_are_optional() -> None:
    block = ConvNormAct(1, 1, kernel=1, act=False, style=PLAIN)
    ones_in_convs(block)
    assert torch.equal(block(-torch.ones(1, 1, 2, 2, 2)), -torch.ones(1, 1, 2, 2, 2))
    dropping = ConvNormAct(1, 1, kernel=1, dropout=0.5, style=PLAIN)
    ones_in_convs(dropping)
    x = torch.ones(1, 1, 8, 8, 8)
    assert set(dropping.train()(x).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropping.eval()(x), x)


def test_a_stack_changes_the_size_once() -> None:
    stack = ConvStack(1, 4, depth=3, stride=2, style=PLAIN)
    assert [part.conv.stride for part in stack] == [(2, 2, 2), (1, 1, 1), (1, 1, 1)]
    assert stack(torch.randn(1, 1, 8, 8, 8)).shape == (1, 4, 4, 4, 4)


def test_upsampling_repeats_a_voxel_over_its_stride() -> None:
    up = UpNormAct(1, 1, stride=(1, 2, 3), style=PLAIN)
    ones_in_convs(up)
    x = torch.rand(1, 1, 2, 2, 2)
    expected = x.repeat_interleave(2, dim=3).repeat_interleave(3, dim=4)
    torch.testing.assert_close(up(x), expected)


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_preactivation_leaves_its_input_alone(norm: str) -> None:
    x = torch.randn(1, 2, 4, 4, 4)
    before = x.clone()
    NormAct(2, style=Style(norm=norm))(x)  # type: ignore[arg-type]
    NormActConv(2, 3, style=Style(norm=norm))(x)  # type: ignore[arg-type]
    assert torch.equal(x, before)


def test_residual_stage_without_weights_is_the_activated_shortcut() -> None:
    stage = ResidualStage(3, 3, depth=2, style=PLAIN)
    for parameter in stage.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 3, 4, 4, 4)
    assert torch.equal(stage(x), x.relu())


def test_residual_stage_activates_after_the_addition_only() -> None:
    stage = ResidualStage(1, 1, depth=1, kernel=1, style=PLAIN)
    nn.init.constant_(stage.convs[0].conv.weight, -3.0)
    nn.init.zeros_(stage.convs[0].conv.bias)
    x = torch.full((1, 1, 2, 2, 2), -1.0)
    assert torch.equal(stage(x), 2 * torch.ones_like(x))  # relu(3 - 1)


def test_dense_layers_read_everything_before_them() -> None:
    block = DenseBlock(1, depth=3, growth=1, style=Style(norm="none", activation="relu"))
    for layer in block.layers:
        for part in layer:
            nn.init.zeros_(part.conv.weight)
            part.conv.weight.data[..., *[size // 2 for size in part.conv.weight.shape[2:]]] = 1.0
    x = torch.ones(1, 1, 3, 3, 3)
    # each layer sums all channels in four bottleneck copies, then sums those
    assert block(x)[0, :, 1, 1, 1].tolist() == [1.0, 4.0, 20.0, 100.0]


def test_transition_halves_only_the_axes_it_is_told_to() -> None:
    transition = DenseTransition(4, 2, stride=(2, 2, 1), style=Style())
    assert transition(torch.randn(1, 4, 6, 4, 5)).shape == (1, 2, 3, 2, 5)


def test_he_s_rule_keeps_the_variance_through_many_layers() -> None:
    torch.manual_seed(0)
    style = Style(norm="none", activation="prelu", spatial_dims=2)
    layers = [ConvNormAct(64, 64, style=style) for _ in range(10)]
    network = nn.Sequential(*layers)
    he_initialize(network, negative_slope=style.negative_slope)
    x: Tensor = torch.randn(1, 64, 64, 64)
    found = network(x)[..., 16:48, 16:48].square().mean().item()
    assert 0.4 < found < 2.5  # without the rule it leaves this range within three layers
    assert not any(layer.conv.bias.any() for layer in layers)
