"""Recomputed activations: the same losses, gradients and statistics, with less kept in memory."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from medseg3d.errors import ConfigError
from medseg3d.networks import build_network
from medseg3d.training.budget import Budget
from medseg3d.training.recomputing import blocks, recompute_activations
from tests.training.small_runs import small_settings, train_small

SMALL = {"width": 3, "max_width": 8, "strides": ((1, 2, 2), (2, 2, 1))}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet3d": {**SMALL, "kernels": 3},
    "unet": SMALL,
    "unet_plus_plus": SMALL,
    "multiresunet": {**SMALL, "width": 4},
    "fc_densenet": {"growth": 3, "layers": 2, "stem": 4, "strides": ((1, 2, 2), (2, 2, 1))},
    "partially_reversible_unet": {"widths": (4, 8, 8), "strides": ((1, 2, 2), (2, 2, 1))},
}


class Mixed(nn.Module):
    """Batch statistics and dropout, in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.Dropout(0.5))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv3d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def image(channels: int = 1) -> Tensor:
    return torch.randn(2, channels, 16, 16, 8, generator=torch.Generator().manual_seed(0))


def step(network: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """Loss of one step, and bytes that autograd kept for its gradient."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        logits = network(x)
    outputs = logits if isinstance(logits, list) else [logits]
    loss = sum((output.float() ** 3).mean() for output in outputs)
    assert isinstance(loss, Tensor)
    loss.backward()
    return loss.detach(), sum(kept.values())


def assert_same_step(plain: nn.Module, x: Tensor) -> tuple[int, int]:
    """The step of a network and of its recomputing copy agree; bytes kept by each."""
    other = deepcopy(plain)
    recompute_activations(other)
    assert list(other.state_dict()) == list(plain.state_dict())
    (loss, kept), (found, kept_less) = step(plain.train(), x), step(other.train(), x)
    assert torch.equal(loss, found)
    for ours, theirs in zip(other.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(other.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    return kept, kept_less


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_the_plain_network(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 2, 3, options=NETWORKS[name])
    assert_same_step(network, image(channels=2))


def test_most_activations_are_not_kept() -> None:
    torch.manual_seed(0)
    network = build_network("unet3d", 1, 2, options=SMALL)
    kept, kept_less = assert_same_step(network, image())
    assert kept_less < 0.5 * kept


def test_dropout_and_running_statistics_are_those_of_one_pass() -> None:
    torch.manual_seed(0)
    network = Mixed()
    assert_same_step(network, image())
    assert network.first[1].num_batches_tracked == 1


def test_outside_of_training_nothing_changes() -> None:
    network = Mixed()
    recompute_activations(network)
    expected = Mixed()
    expected.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(image()), expected.eval()(image()))
    with torch.no_grad():
        assert network.train()(image()).grad_fn is None


def test_a_copy_computes_with_its_own_weights() -> None:
    network = Mixed().train()
    recompute_activations(network)
    other = deepcopy(network)
    with torch.no_grad():
        other.first[0].weight.zero_()
        other.first[0].bias.zero_()
    assert other.first(image()).abs().max() == 0
    assert network.first(image()).abs().max() > 0


def test_a_block_whose_input_is_changed_in_place_is_refused() -> None:
    network = Mixed()
    network.last[0] = nn.LeakyReLU(inplace=True)
    recompute_activations(network)
    with pytest.raises(ConfigError, match="Sequential is given tensors that are changed in place"):
        step(network.train(), image())


def test_blocks_are_stages_not_layers_nor_the_whole() -> None:
    network = build_network("unet3d", 1, 2, options=SMALL)
    assert {type(block).__name__ for block in blocks(network)} == {"ConvStack"}
    assert list(blocks(nn.Conv3d(1, 1, 1))) == []


class Bright:
    def __getitem__(self, n: int) -> dict[str, Any]:
        x = torch.randn(1, 6, 6, 6, generator=torch.Generator().manual_seed(n))
        return {"image": x, "labels": (x > 0).to(torch.uint8), "case": f"case_{n}"}

    def case_id(self, n: int) -> str:
        return f"case_{n}"


class Padded(Mixed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, [1] * 6))


def test_a_run_gives_the_same_weights(tmp_path: Path) -> None:
    trained = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = Padded()
        train_small(
            network,
            Bright(),
            tmp_path / str(recompute),
            small_settings(
                budget=Budget(steps=4), steps_per_epoch=2, validate_every=2, recompute=recompute
            ),
            precision="bf16",
        )
        trained.append(network.state_dict())
    plain, recomputed = trained
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
