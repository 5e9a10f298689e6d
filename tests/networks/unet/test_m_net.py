"""M-Net: slabs of slices, and the body without them."""

import pytest
import torch

from medseg3d.networks import build_network
from medseg3d.networks.unet.m_net import MNet

SMALL = {"width": 3, "slab": 5, "norm": "none"}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_knows_its_slab_and_no_more(axis: int) -> None:
    torch.manual_seed(0)
    network = MNet(1, 2, slice_axis=axis, **SMALL).eval()
    x = torch.randn(1, 1, 8, 8, 8)
    other = x.clone()
    other.select(axis + 2, 0).add_(1.0)
    changed = [
        not torch.allclose(
            *(logits.select(axis + 2, place) for logits in (network(x), network(other)))
        )
        for place in range(8)
    ]
    assert changed == [True] * 3 + [False] * 5


def test_slices_are_not_downsampled_across() -> None:
    network = MNet(1, 2, strides=((1, 2, 2), 2, 2), slice_axis=0, **SMALL)
    assert network.divisor == (1, 8, 8)
    assert MNet(1, 2, strides=((1, 2, 2), 2, 2), width=3).divisor == (4, 8, 8)


@pytest.mark.parametrize("size", [(1, 1, 1), (9, 8, 3)])
def test_slabs_label_volumes_of_any_size(size: tuple[int, int, int]) -> None:
    network = build_network("m_net", 2, 3, options=SMALL)
    logits = network(torch.randn(2, 2, *size))
    assert logits.shape == (2, 3, *size)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
