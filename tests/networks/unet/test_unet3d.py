"""U-Net of nnU-Net: sizes as published, wiring as MONAI's DynUNet."""

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import nn

from medseg3d.networks.unet.unet3d import UNet3D


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("out_channels", "options", "released"),
    [(2, {}, 31_195_594), (14, {}, 31_205_254), (2, {"strides": (2,) * 4}, 16_547_592)],
)
def test_size_is_nnunet_s_without_its_unused_coarsest_head(
    out_channels: int, options: dict[str, object], released: int
) -> None:
    with torch.device("meta"):
        network = UNet3D(1, out_channels, **options)  # type: ignore[arg-type]
    coarsest = network.decoder[0][0].conv.out_channels
    assert count(network) == released - out_channels * (coarsest + 1)


@pytest.mark.parametrize(("num_strides", "heads"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4)])
def test_all_but_the_two_coarsest_stages_are_supervised(num_strides: int, heads: int) -> None:
    strides = (2,) * num_strides
    assert len(UNet3D(1, 2, width=2, strides=strides).heads) == heads
    assert len(UNet3D(1, 2, width=2, strides=strides, deep_supervision=False).heads) == 1


def test_supervised_sizes_follow_the_strides_and_round_up() -> None:
    network = UNet3D(1, 2, width=2, strides=((1, 2, 2), 2, 2, 2)).train()
    sizes = [tuple(logits.shape[2:]) for logits in network(torch.randn(2, 1, 9, 16, 21))]
    assert sizes == [(9, 16, 21), (9, 8, 11), (5, 4, 6)]


@pytest.mark.parametrize("training", [True, False])
def test_wiring_equals_dynunet_s_with_the_same_weights(training: bool) -> None:
    """DynUNet's convolutions have no bias and it has the same order of layers."""
    kernels = [[1, 3, 5]] * 4  # alike, as DynUNet decodes with the kernel of the stage below
    strides = [[1, 2, 2], [2, 2, 2], [2, 1, 2]]
    widths = [4, 8, 16, 20]
    theirs = DynUNet(
        3,
        2,
        3,
        kernel_size=kernels,
        strides=[[1, 1, 1], *strides],
        upsample_kernel_size=strides,
        filters=widths,
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=True,
        deep_supr_num=1,
    )
    ours = UNet3D(2, 3, width=4, max_width=20, strides=strides, kernels=kernels)
    torch.manual_seed(0)
    blocks = [theirs.input_block, *theirs.downsamples, theirs.bottleneck]
    for mine, block in zip(ours.encoder, blocks, strict=True):
        copy_block(mine, block)
    for up, mine, block in zip(ours.ups, ours.decoder, theirs.upsamples, strict=True):
        up.weight.data.copy_(block.transp_conv.conv.weight)
        nn.init.zeros_(up.bias)
        copy_block(mine, block.conv_block)
    for mine, block in zip(
        ours.heads, [theirs.output_block, *theirs.deep_supervision_heads], strict=True
    ):
        mine.load_state_dict(block.conv.conv.state_dict())

    x = torch.randn(2, 2, 8, 16, 16)
    found, expected = ours.train(training)(x), theirs.train(training)(x)
    if training:
        coarser = nn.functional.interpolate(found[1], x.shape[2:])
        found, expected = torch.stack([found[0], coarser], dim=1), expected
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def copy_block(mine: nn.Sequential, block: nn.Module) -> None:
    pairs = ((block.conv1, block.norm1), (block.conv2, block.norm2))
    for part, (conv, norm) in zip(mine, pairs, strict=True):
        part.conv.weight.data.copy_(conv.conv.weight)
        nn.init.zeros_(part.conv.bias)
        for name in ("weight", "bias"):
            values = torch.randn(norm.weight.shape)
            getattr(part.norm, name).data.copy_(values)
            getattr(norm, name).data.copy_(values)


def test_weights_fit_in_both_modes() -> None:
    network = UNet3D(1, 2, width=2, strides=(2, 2, 2))
    names = set(network.train().state_dict())
    assert set(network.eval().state_dict()) == names
    assert {name.split(".")[1] for name in names if name.startswith("heads")} == {"0", "1"}


def test_slices_are_segmented_by_the_same_class() -> None:
    network = UNet3D(1, 2, width=2, strides=(2, 2), spatial_dims=2).eval()
    assert network(torch.randn(1, 1, 9, 10)).shape == (1, 2, 9, 10)
