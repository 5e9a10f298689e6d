"""V-Net: published sizes, receptive fields and the residual of the first stage."""

import pytest
import torch
from torch import nn

from medseg3d.networks.unet.vnet import VNet

PAPER = {"norm": "none", "activation": "prelu"}


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 65_175_314),
        ({"norm": "batch"}, 65_182_226),
        ({"spatial_dims": 2}, 13_275_346),
        (
            {"enc_convs": (1, 1, 2, 3, 3), "dec_convs": (3, 2, 1, 1), "head": "wide"},
            61_982_682,
        ),
    ],
    ids=["paper", "batch norm", "2D twin", "released model"],
)
def test_known_variants_have_their_size(options: dict[str, object], parameters: int) -> None:
    with torch.device("meta"):
        network = VNet(1, 2, **{**PAPER, **options})  # type: ignore[arg-type]
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("stage", "voxels"), list(enumerate([5, 22, 72, 172, 372])))
def test_receptive_fields_are_those_of_the_paper(stage: int, voxels: int) -> None:
    """The paper's table, found by the reach of one coarse voxel's gradient."""
    network = VNet(1, 2, width=1, norm="none", spatial_dims=2).double()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    edge = 480
    image = torch.ones(1, 1, edge, 16, dtype=torch.float64, requires_grad=True)
    x = network.encoder[0](image)
    for down, residual in zip(network.downs[:stage], network.encoder[1 : stage + 1], strict=True):
        x = residual(down(x))
    x[0, 0, x.shape[2] // 2].sum().backward()
    assert image.grad is not None
    assert int(image.grad.abs().sum(dim=(0, 1, 3)).gt(0).sum()) == voxels


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_first_stage_adds_the_image_itself(channels: int) -> None:
    network = VNet(channels, 2, width=4, norm="none", activation="relu", strides=(2,))
    for parameter in network.encoder.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, channels, 4, 4, 4)
    assert torch.equal(network.encoder[0](x), torch.cat([x] * (4 // channels), dim=1))


def test_channels_that_do_not_divide_the_width_are_projected() -> None:
    network = VNet(3, 2, width=4, strides=(2,), kernels=3)
    assert network.encoder[0].shortcut.weight.shape == (4, 3, 1, 1, 1)


def test_depths_follow_the_paper_s_rule_for_fewer_stages() -> None:
    network = VNet(1, 2, width=2, strides=(2, 2), kernels=3)
    assert [len(stage.convs) for stage in network.encoder] == [1, 2, 3]
    assert [len(stage.convs) for stage in network.decoder] == [2, 1]


def test_widths_stop_doubling_after_five_stages() -> None:
    network = VNet(1, 2, width=2, strides=(2,) * 6, kernels=1)
    assert [s.convs[0].conv.out_channels for s in network.encoder] == [2, 4, 8, 16, 32, 32, 32]
    assert network.eval()(torch.randn(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)


@pytest.mark.parametrize("activation", ["prelu", "relu", "leaky_relu"])
def test_learned_rectifiers_work_in_half_precision(activation: str) -> None:
    network = VNet(1, 2, width=2, strides=(2,), activation=activation)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(1, 1, 8, 8, 8))
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
