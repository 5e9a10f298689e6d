"""Unet-GAN: what each stage trains, what each side of the contest sees, and that it adapts."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medseg3d.networks import build_network
from medseg3d.networks.blocks import Style
from medseg3d.networks.blocks.translation import (
    Discriminator,
    Generator,
    far_from,
    unlike_in_structure,
)
from medseg3d.networks.cascade import unet_gan
from medseg3d.networks.cascade.unet_gan import UnetGAN
from medseg3d.networks.residual.lv_unet import LVUNet
from medseg3d.training.recomputing import recompute_activations

FLAT: dict[str, Any] = {
    "width": 4,
    "decoded": 4,
    "strides": (2, 2),
    "first_kernel": 3,
    "blocks": 1,
    "spatial_dims": 2,
}


def small(stage: str, **options: object) -> UnetGAN:
    torch.manual_seed(0)
    network = build_network("unet_gan", 1, 2, options={**FLAT, "stage": stage, **options})
    assert isinstance(network, UnetGAN)
    return network.train()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, labels[:, 0])


def images(seed: int, count: int = 2) -> tuple[Tensor, Tensor]:
    """Bright squares on a dark ground, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(count, 1, 16, 16, dtype=torch.long)
    for case in labels:
        i, j = torch.randint(1, 8, (2,), generator=generator).tolist()
        case[:, i : i + 7, j : j + 7] = 1
    return 2.0 * labels - 1 + 0.1 * torch.randn(labels.shape, generator=generator), labels


def learning(network: UnetGAN) -> set[str]:
    source, labels = images(0)
    target, _ = images(1)
    network.zero_grad()
    network.objective(cross_entropy, source, labels, target=target).backward()
    found = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    return {name.split(".")[0] for name in found}


def test_first_the_network_that_segments_learns_then_those_that_translate() -> None:
    assert learning(small("segment")) == {"segmentation"}
    network = small("segment")
    network.set_stage("adapt")
    others = {"to_source", "to_target", "source_judge", "target_judge"}
    assert learning(network) == others


def test_a_frozen_network_keeps_even_its_running_statistics() -> None:
    network = small("adapt", norm="batch")
    before = {name: each.clone() for name, each in network.segmentation.state_dict().items()}
    learning(network)
    after = network.segmentation.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not network.train().segmentation.training
    network.set_stage("segment")
    assert network.segmentation.training


def test_images_are_translated_once_the_network_has_adapted() -> None:
    network = small("segment").eval()
    image = torch.randn(1, 1, 11, 9)
    torch.testing.assert_close(network(image), network.segmentation(image))
    assert not network.keeps_last
    network.set_stage("adapt")
    translated = network.translate(image)
    assert not torch.allclose(translated, image)
    torch.testing.assert_close(network(image), network.segmentation(translated))
    assert network.keeps_last


def test_a_judge_learns_from_its_own_loss_alone() -> None:
    network = small("adapt")
    source, labels = images(0)
    target, _ = images(1)
    network.objective(cross_entropy, source, labels, target=target).backward()
    judge = network.target_judge
    found = [p.grad.clone() for p in judge.parameters()]
    judge.zero_grad()
    fake = network.to_target(source).detach()
    own = (far_from(judge(target), 1.0) + far_from(judge(fake), 0.0)) / 2
    own.backward()
    for gradient, parameter in zip(found, judge.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_activations_may_be_computed_a_second_time() -> None:
    gradients = []
    for again in (False, True):
        network = small("adapt")
        if again:
            recompute_activations(network)
        source, labels = images(0)
        network.objective(cross_entropy, source, labels, target=images(1)[0]).backward()
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_generator_is_told_by_judge_structure_and_what_the_network_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each part counted by hand: 2 ways times deception, structure, cycle, half of the judging."""
    network = small("adapt", cycle=10.0, structure=5.0)
    monkeypatch.setattr(unet_gan, "far_from", lambda _, wanted: torch.tensor(1.0 + wanted))
    monkeypatch.setattr(unet_gan, "unlike_in_structure", lambda *_: torch.tensor(0.5))
    monkeypatch.setattr(network, "_seen_unlike", lambda *_: torch.tensor(0.25))
    source, labels = images(0)
    whole = network.objective(cross_entropy, source, labels, target=images(1)[0])
    assert whole.item() == 2 * (2.0 + 5.0 * 0.5 + 10.0 * 0.25 + (2.0 + 1.0) / 2)


def test_what_comes_back_is_compared_by_the_features_of_all_stages() -> None:
    network = small("adapt")
    image, other = images(0)[0], images(1)[0]
    assert network._seen_unlike(image, image) == 0
    pairs = zip(
        network.segmentation.features(image), network.segmentation.features(other), strict=True
    )
    expected = sum((a - b).abs().mean() for a, b in pairs) / 3
    torch.testing.assert_close(network._seen_unlike(image, other), expected)


@settings(max_examples=20)
@given(scale=st.floats(0.5, 2.0), shift=st.floats(-2.0, 2.0))
def test_brightness_and_contrast_are_no_structure(scale: float, shift: float) -> None:
    image = torch.randn(1, 2, 12, 10, generator=torch.Generator().manual_seed(0))
    assert unlike_in_structure(image, scale * image + shift).item() == pytest.approx(0, abs=5e-2)
    assert unlike_in_structure(image, shift - scale * image).item() == pytest.approx(2, abs=0.1)


def test_flat_images_are_alike_and_give_finite_gradients() -> None:
    flat = torch.ones(1, 1, 8, 8, 8, requires_grad=True)
    loss = unlike_in_structure(flat, torch.zeros(1, 1, 8, 8, 8))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_far_from_is_a_mean_of_squares() -> None:
    assert far_from(torch.tensor([0.0, 1.0, 3.0, 1.0]), 1.0) == 1.25


@pytest.mark.parametrize("size", [(1, 1, 1), (9, 6, 5), (16, 16, 8)])
def test_generators_and_judges_take_images_of_any_size(size: tuple[int, int, int]) -> None:
    style = Style()
    made = Generator(2, width=2, blocks=1, strides=((1, 2, 2), 2), kernel=3, style=style)
    image = torch.randn(1, 2, *size)
    assert made(image).shape == image.shape
    judged = Discriminator(2, width=2, style=style)(image)
    assert judged.shape == (1, 1, *(-(-edge // 8) for edge in size))


def test_a_coarse_axis_keeps_its_flat_kernel() -> None:
    network = build_network("lv_unet", 1, 2, options={"width": 2, "first_kernel": (1, 7, 7)})
    assert isinstance(network, LVUNet)
    assert network.encoder[0][0].convs[0].conv.kernel_size == (1, 7, 7)
    assert network.encoder[0][1].convs[0].conv.kernel_size == (3, 3, 3)


def test_the_target_comes_to_look_like_the_source() -> None:
    """The other vendor's images are darker and of half the contrast."""
    network = small("adapt")
    pairs = (("to_source", "to_target"), ("source_judge", "target_judge"))
    optimizer = torch.optim.Adam(
        [p for names in pairs for name in names for p in getattr(network, name).parameters()],
        0.003,
        betas=(0.5, 0.99),
    )
    unseen = 0.5 * images(99)[0] - 1.5

    def gap() -> float:
        with torch.no_grad():
            made = network.eval().translate(unseen)
        network.train()
        plain = images(99)[0]
        return float((made - plain).abs().mean())

    before = float((unseen - images(99)[0]).abs().mean())
    for step in range(100):
        source, labels = images(2 * step)
        target = 0.5 * images(2 * step + 1)[0] - 1.5
        optimizer.zero_grad()
        network.objective(cross_entropy, source, labels, target=target).backward()
        optimizer.step()
    assert gap() < 0.5 * before
