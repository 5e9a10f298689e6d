"""Deformable convolutions: at rest, moved by whole voxels, and between voxels."""

import pytest
import torch
from torch import nn

from medseg3d.networks.blocks import Style
from medseg3d.networks.blocks.deformable import DeformableConv

SIZES = {2: (6, 5), 3: (4, 6, 5)}


def deformable(dims: int, *, out_channels: int = 3) -> DeformableConv:
    torch.manual_seed(dims)
    return DeformableConv(2, out_channels, style=Style(spatial_dims=dims)).double()


def image(dims: int) -> torch.Tensor:
    return torch.randn(2, 2, *SIZES[dims], dtype=torch.float64)


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_at_rest_it_is_an_ordinary_convolution(dims: int, out_channels: int) -> None:
    conv = deformable(dims, out_channels=out_channels)
    x = image(dims)
    torch.testing.assert_close(conv(x), conv.conv(x))


@pytest.mark.parametrize(("dims", "axis"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_an_offset_of_one_voxel_sees_the_image_moved_along_that_axis(dims: int, axis: int) -> None:
    conv = deformable(dims)
    with torch.no_grad():
        conv.offsets.bias[axis::dims] = 1.0
    x = image(dims)
    expected = conv.conv(x).roll(-1, axis + 2)
    inside = slice(0, SIZES[dims][axis] - 2)  # what rolled in from the other end left out
    torch.testing.assert_close(
        conv(x).movedim(axis + 2, 0)[inside], expected.movedim(axis + 2, 0)[inside]
    )


def test_fewer_channels_than_come_in_are_those_of_more() -> None:
    fewer, more = deformable(3, out_channels=1), deformable(3)
    with torch.no_grad():
        more.conv.weight[:1] = fewer.conv.weight
        for conv in (fewer, more):
            nn.init.normal_(conv.offsets.bias, std=0.5, generator=torch.Generator().manual_seed(0))
    x = image(3)
    torch.testing.assert_close(fewer(x), more(x)[:, :1])


def test_each_tap_has_its_own_offset_and_values_between_voxels_are_interpolated() -> None:
    conv = DeformableConv(1, 1, style=Style(spatial_dims=2)).double()
    nn.init.zeros_(conv.conv.weight)
    with torch.no_grad():
        conv.conv.weight[0, 0, 1, 2] = 1.0  # the neighbor to the right: tap 5 of 9
        conv.offsets.bias[2 * 5 + 1] = 0.25
        conv.offsets.bias[2 * 4 + 1] = 7.0  # of another tap, whose weight is zero
    x = torch.tensor([[[[10.0, 20.0, 40.0, 80.0]]]], dtype=torch.float64)
    # a quarter of the way from the right neighbor to the next; zeros beyond the end
    expected = torch.tensor([[[[25.0, 50.0, 60.0, 0.0]]]], dtype=torch.float64)
    torch.testing.assert_close(conv(x), expected)


def test_offsets_follow_from_the_image_and_learn() -> None:
    conv = deformable(3)
    conv(image(3)).square().sum().backward()
    assert conv.offsets.weight.grad.any()
    assert conv.conv.weight.grad.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_are_those_of_finite_differences(dims: int) -> None:
    conv = DeformableConv(1, 1, style=Style(spatial_dims=dims)).double()
    torch.manual_seed(1)
    nn.init.normal_(conv.offsets.weight, std=0.1)
    nn.init.constant_(conv.offsets.bias, 0.3)  # away from the grid, where the slope jumps
    x = torch.randn(1, 1, *(3,) * dims, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(conv, (x,), atol=1e-4)


def test_bfloat16_does_not_touch_the_places() -> None:
    conv = deformable(3).float()
    nn.init.constant_(conv.offsets.bias, 0.25)
    x = torch.randn(1, 2, 4, 40, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, conv(x), atol=0.02, rtol=0.02)
