"""H-DenseUNet: sizes of its parts, training stages, context and fusion."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg3d.networks.dense.hdenseunet import HDenseUNet

SMALL = {"stem": 6, "growth": (4, 3), "layers": ((1, 2), (1, 1))}


def build(**options: Any) -> HDenseUNet:
    torch.manual_seed(0)
    return HDenseUNet(1, 3, **{**SMALL, **options})


def volume() -> Tensor:
    return torch.randn(2, 1, 16, 16, 8, generator=torch.Generator().manual_seed(1))


def count(*parts: nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def test_parts_have_their_published_size() -> None:
    with torch.device("meta"):
        network = HDenseUNet.paper()
    assert count(network.half_2d) == 49_527_843
    assert count(network.half_3d) == 15_977_467
    assert count(network.fuse, network.head) == 110_979
    assert network.divisor == (32, 32, 4)


def test_joint_training_returns_hybrid_2d_and_3d_logits_of_full_size() -> None:
    network = build().eval()
    hybrid = network(volume())
    network.deep_supervision, network.training = True, True  # lists without dropout
    found = network(volume())
    torch.testing.assert_close(found[0], hybrid)
    network.training = False
    network.set_stage("2d")
    torch.testing.assert_close(found[1], network(volume()))
    assert [logits.shape for logits in found] == [(2, 3, 16, 16, 8)] * 3


@pytest.mark.parametrize("training", [True, False])
def test_stage_2d_returns_the_logits_of_the_2d_half(training: bool) -> None:
    network = build(stage="2d", norm="none").train(training)
    torch.manual_seed(1)
    found = network(volume())
    torch.manual_seed(1)
    assert torch.equal(found, network.half_2d(volume()))


@pytest.mark.parametrize(
    ("stage", "learning"),
    [
        ("2d", {"half_2d"}),
        ("3d", {"half_3d", "fuse", "head"}),
        ("joint", {"half_2d", "half_3d", "fuse", "head"}),
    ],
)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_a_stage_trains_its_parts_and_no_others(
    stage: Any, learning: set[str], deep_supervision: bool
) -> None:
    network = build(norm="batch", deep_supervision=deep_supervision)
    network.set_stage(stage)
    network.train()
    modes = {name: part.training for name, part in network.named_children()}
    assert {name for name, training in modes.items() if training} == learning
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits = network(volume())
    outputs = logits if isinstance(logits, list) else [logits]
    torch.stack([(o - torch.randn_like(o)).square().mean() for o in outputs]).sum().backward()
    for name, parameter in network.named_parameters():
        part = name.split(".")[0]
        assert (parameter.grad is not None) == (part in learning), name
        assert parameter.requires_grad == (part in learning), name
    changed = {
        n.split(".")[0] for n, v in network.state_dict().items() if not torch.equal(v, before[n])
    }
    assert changed <= learning  # statistics of frozen batch norms stand still


def test_stages_may_follow_each_other() -> None:
    network = build().train()
    for stage in ("2d", "3d", "joint"):
        network.set_stage(stage)
    assert all(p.requires_grad for p in network.parameters())
    assert all(part.training for part in network.modules())


def test_the_3d_half_sees_the_image_and_the_scaled_context() -> None:
    for context, scale in (("probabilities", 1.0), ("logits", 250.0)):
        network = build(context=context, context_scale=scale).eval()
        seen: list[Tensor] = []
        network.half_3d.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # noqa: B023
        network(volume())
        logits_2d = network.half_2d(volume())
        expected = logits_2d.softmax(dim=1) if context == "probabilities" else 250 * logits_2d
        torch.testing.assert_close(seen[0][:, :1], volume())
        torch.testing.assert_close(seen[0][:, 1:], expected, atol=1e-3, rtol=1e-4)


def test_both_halves_reach_the_fused_logits() -> None:
    network = build().eval()
    whole = network(volume())
    for half in (network.half_2d, network.half_3d):
        last = half.trunk.decoder[-1].norm
        kept = last.bias.detach().clone()
        nn.init.constant_(last.bias, 3.0)
        assert not torch.allclose(network(volume()), whole, atol=1e-3)
        last.bias.data.copy_(kept)
    assert torch.equal(network(volume()), whole)


def test_without_deep_supervision_no_3d_logits_are_made() -> None:
    network = build(deep_supervision=False)
    assert not list(network.half_3d.head.parameters())
    assert isinstance(network.train()(volume()), Tensor)


def test_slicing_another_axis_is_slicing_the_turned_volume() -> None:
    last, first = build().eval(), build(slice_axis=0).eval()
    found = first(volume().movedim(-1, 2))
    torch.testing.assert_close(found.movedim(2, -1), last(volume()))
    assert first.divisor == (4, 8, 8)
