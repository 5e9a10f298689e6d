"""The halves of H-DenseUNet on their own."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from medseg3d.networks.dense.denseunet import DenseUNet2D, DenseUNet3D, block_widths

SMALL = {"stem": 6, "growth": 4, "layers": (1, 2)}


def test_skips_of_the_paper_s_table_have_their_size() -> None:
    with torch.device("meta"):
        network = DenseUNet3D(4, 3, norm="batch", long_skips=True)
    assert sum(p.numel() for p in network.parameters()) == 16_403_211


@pytest.mark.parametrize(
    ("growth", "layers", "widths"),
    [(48, (6, 12, 36, 24), [384, 768, 2112, 2208]), (32, (3, 4, 12, 8), [192, 224, 496, 504])],
)
def test_block_widths_are_those_of_the_paper(
    growth: int, layers: tuple[int, ...], widths: list[int]
) -> None:
    assert block_widths(96, growth, layers) == widths


@pytest.mark.parametrize(
    ("network", "widths"),
    [(DenseUNet2D, [768, 384, 96, 96, 64]), (DenseUNet3D, [504, 224, 192, 96, 64])],
)
def test_decoder_widths_are_those_of_the_paper(
    network: type[DenseUNet2D | DenseUNet3D], widths: list[int]
) -> None:
    with torch.device("meta"):
        decoder = network.paper().trunk.decoder
    assert [stage.conv.out_channels for stage in decoder] == widths


def test_the_2d_trunk_has_167_layers() -> None:
    with torch.device("meta"):
        network = DenseUNet2D.paper()
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    # 161 - 1 of the encoder (its classifier is not here), 1 skip, 5 decoder, 1 head
    assert len(convs) == 167


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_slices_in_chunks_give_the_same_logits(chunk: int) -> None:
    torch.manual_seed(0)
    whole = DenseUNet2D(2, 3, **SMALL).eval()  # type: ignore[arg-type]
    parts = DenseUNet2D(2, 3, slice_chunk=chunk, **SMALL).eval()  # type: ignore[arg-type]
    parts.load_state_dict(whole.state_dict())
    x = torch.randn(2, 2, 8, 9, 7)
    torch.testing.assert_close(parts(x), whole(x))


def test_a_slice_sees_its_neighbors_and_nothing_else() -> None:
    network = DenseUNet2D(1, 2, **SMALL).eval()  # type: ignore[arg-type]
    x = torch.randn(1, 1, 16, 16, 7, requires_grad=True)
    network(x)[..., 3].square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum(dim=(0, 1, 2, 3)).gt(0).tolist() == [
        False,
        False,
        *[True] * 3,
        False,
        False,
    ]


@pytest.mark.parametrize("network", [DenseUNet2D, DenseUNet3D])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slicing_another_axis_is_slicing_the_turned_volume(
    network: type[DenseUNet2D | DenseUNet3D], axis: int
) -> None:
    torch.manual_seed(0)
    last = network(1, 2, slice_axis=-1, **SMALL).eval()  # type: ignore[arg-type]
    turned = network(1, 2, slice_axis=axis, **SMALL).eval()  # type: ignore[arg-type]
    turned.load_state_dict(last.state_dict())
    x = torch.randn(1, 1, 9, 10, 11)
    expected = last(x.movedim(axis + 2, -1)).movedim(-1, axis + 2)
    torch.testing.assert_close(turned(x), expected)


def test_the_3d_trunk_pools_slices_twice_and_planes_five_times() -> None:
    with torch.device("meta"):
        network = DenseUNet3D.paper()
    assert network.divisor == (32, 32, 4)
    ups = [tuple(map(int, up.scale_factor)) for up in network.trunk.ups]
    assert ups == [(2, 2, 1)] * 3 + [(2, 2, 2)] * 2
    assert all(
        a.conv.out_channels >= b.conv.out_channels for a, b in pairwise(network.trunk.decoder)
    )
