"""Activations worked out again give the gradients of activations that were kept."""

import pytest
import torch

from medseg3d.networks import build_network
from medseg3d.networks.blocks import Style
from medseg3d.networks.blocks.reversible import Coupling, ReversibleSequence
from tests.networks.rows import ROWS

STYLE = Style(norm="none", activation="leaky_relu", spatial_dims=3)


def test_the_inverse_gives_the_input_back() -> None:
    torch.manual_seed(0)
    coupling = Coupling(6, groups=3, style=STYLE).double()
    x = torch.randn(2, 6, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(coupling.inverse(coupling(x)), x)
    assert not torch.allclose(coupling(x), x)


def test_a_sequence_has_the_gradients_of_its_plain_twin() -> None:
    torch.manual_seed(0)
    sequence = ReversibleSequence(4, 3, groups=2, style=STYLE).double().train()
    twin = ReversibleSequence(4, 3, groups=2, reversible=False, style=STYLE).double().train()
    twin.load_state_dict(sequence.state_dict())
    x = torch.randn(2, 4, 3, 4, 5, dtype=torch.float64)
    found = []
    for each in (sequence, twin):
        image = x.clone().requires_grad_()
        (each(image) ** 3).sum().backward()
        found.append([image.grad, *(p.grad for p in each.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("cast", [False, True])
def test_the_network_has_the_gradients_of_its_plain_twin(cast: bool) -> None:
    options = {**ROWS["partially_reversible_unet"].options, "depth": 2}
    network = build_network("partially_reversible_unet", 1, 3, options=options)
    twin = build_network(
        "partially_reversible_unet", 1, 3, options={**options, "reversible": False}
    )
    twin.load_state_dict(network.state_dict())
    x = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for each in (network, twin):
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            logits = each.train()(x)
        (logits.float() ** 2).mean().backward()
        found.append([logits.float(), *(p.grad for p in each.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert theirs.any()
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=(0.05 if cast else 1e-4) * scale)


def test_frozen_weights_get_no_gradient() -> None:
    sequence = ReversibleSequence(4, 2, groups=2, style=STYLE).train()
    first, *others = sequence.parameters()
    first.requires_grad_(False)
    x = torch.randn(1, 4, 3, 4, 5, requires_grad=True)
    (sequence(x) ** 2).sum().backward()
    assert first.grad is None
    assert all(parameter.grad is not None for parameter in others)
