"""Draws at several scales: sizes of the parts, what each scale changes, and both objectives."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.errors import ConfigError
from medseg3d.networks import build_network
from medseg3d.networks.blocks.gaussian import Gaussian
from medseg3d.networks.probabilistic.hierarchical_probabilistic_unet import (
    HierarchicalProbabilisticUNet,
)
from tests.networks.rows import ROWS

NAME = "hierarchical_probabilistic_unet"


def small(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network(NAME, 1, 3, options={**ROWS[NAME].options, **options})


def case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 1, 8, 8, 4), generator=generator)
    return torch.randn(2, 1, 8, 8, 4, generator=generator) + labels, labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels[:, 0])


def unused(logits: Tensor, labels: Tensor) -> Tensor:
    raise AssertionError("GECO has a reconstruction of its own")


def test_parts_have_their_known_sizes() -> None:
    with torch.device("meta"):
        network = HierarchicalProbabilisticUNet.paper()
    sizes = [
        sum(each.numel() for each in part.parameters())
        for part in (network.prior, network.posterior)
    ]
    rest = sum(each.numel() for each in network.parameters()) - sum(sizes)
    assert (*sizes, rest) == (10_692_800, 10_693_064, 491_366)
    assert network.latent_size == 4
    assert network.divisor == (128, 128)


def test_no_noise_gives_the_answer_without_a_draw_and_every_scale_another() -> None:
    network, (image, _) = small(latents=(2, 1)).eval(), case()
    calm = torch.zeros(3)
    assert torch.equal(network.sample(image, calm), network(image))
    for place in range(3):
        noise = calm.clone()
        noise[place] = 2.0
        assert not torch.allclose(network.sample(image, noise), network(image))


def test_coarse_numbers_come_first_and_are_the_same_in_all_voxels() -> None:
    network, (image, _) = small(latents=(2, 1)).eval(), case()
    beliefs, chosen = [], []
    for scale, head in enumerate(network.prior.heads):
        head.register_forward_hook(lambda *told: beliefs.append(told[-1]))
        up = network.prior.ups[scale]
        up.register_forward_pre_hook(lambda _, inputs: chosen.append(inputs[0]))
    network.sample(image, torch.tensor([0.5, -1.0, 2.0]))
    sizes = [belief.mean.shape[2:].numel() for belief in beliefs]
    assert sizes[0] < sizes[1]
    for belief, features, noise in zip(beliefs, chosen, ([0.5, -1.0], [2.0]), strict=True):
        wanted = torch.tensor(noise).reshape(1, -1, 1, 1, 1)
        expected = belief.mean + belief.log_scale.exp() * wanted
        torch.testing.assert_close(features[:, : len(noise)], expected)


def test_elbo_is_the_loss_that_was_chosen_and_the_divergence_per_voxel() -> None:
    network, (image, labels) = small(objective="elbo", beta=0.0).train(), case()
    torch.manual_seed(5)
    of_labels = network.objective(cross_entropy, image, labels)
    network.beta = 3.0
    torch.manual_seed(5)
    whole = network.objective(cross_entropy, image, labels)
    assert whole > of_labels
    network.beta = 6.0
    torch.manual_seed(5)
    twice = network.objective(cross_entropy, image, labels)
    torch.testing.assert_close(twice - of_labels, 2 * (whole - of_labels))
    assert not dict(network.named_buffers())


def test_prior_and_posterior_begin_near_each_other_on_a_patch_of_usual_size() -> None:
    torch.manual_seed(0)
    network = HierarchicalProbabilisticUNet(1, 3, width=8, strides=(2, 2, 2)).train()
    beliefs: list[Gaussian] = []
    for part in (network.prior, network.posterior):
        for head in part.heads:
            head.register_forward_hook(lambda *told: beliefs.append(told[-1]))
    labels = torch.randint(0, 3, (1, 1, 32, 32, 32))
    network.objective(unused, torch.randn(1, 1, 32, 32, 32) + labels, labels)
    half = len(beliefs) // 2
    for aim, belief in zip(beliefs[:half], beliefs[half:], strict=True):
        assert float(aim.divergence_from(belief).detach()) < belief.mean.numel()


def test_the_prior_is_decoded_with_what_the_posterior_drew() -> None:
    """With a posterior that is the prior, nothing is apart, whatever is drawn."""
    options = {"objective": "elbo", "beta": 1e6, "norm": "none", "width": 6}
    network, (image, labels) = small(**options).train(), case()
    prior, posterior = network.prior.state_dict(), network.posterior.state_dict()
    for name, tensor in posterior.items():
        mine = prior[name]
        if tensor.shape == mine.shape:
            tensor.copy_(mine)
        else:  # the first convolutions, which see the labels too
            tensor.zero_()
            tensor[:, : mine.shape[1]].copy_(mine)
    loss = cross_entropy(network(image), labels)
    same = network.objective(lambda *_: loss, image, labels)
    assert same.item() == pytest.approx(loss.item(), abs=1e-3)
    with torch.no_grad():
        network.posterior.heads[1].conv.bias.add_(0.1)
    assert network.objective(lambda *_: loss, image, labels) > loss + 1


def test_geco_brings_its_own_reconstruction_and_weighs_it() -> None:
    network, (image, labels) = small(limit=0.01).train(), case()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.objective(unused, image, labels).backward()
    assert network.geco.weight > before["geco.weight"]
    assert network.geco.average > 0
    easy = small(limit=1e3).train()
    easy.objective(unused, image, labels)
    assert easy.geco.weight < 1


@pytest.mark.parametrize("objective", ["geco", "elbo"])
def test_a_few_steps_lower_the_cross_entropy(objective: str) -> None:
    network, (image, labels) = small(objective=objective).train(), case()
    labels = (image > 0.5).long()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    before = cross_entropy(network.eval()(image), labels).item()
    network.train()
    for _ in range(30):
        loss = network.objective(cross_entropy, image, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert cross_entropy(network.eval()(image), labels).item() < 0.6 * before


def test_the_stage_that_nothing_reads_changes_nothing() -> None:
    image, labels = case()
    found = []
    for whole in (False, True):
        network = small(whole_posterior=whole)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(0.02)
        torch.manual_seed(1)
        found.append(network.objective(cross_entropy, image, labels))
        extra = len(network.posterior.decoder)
        assert extra == len(network.posterior.heads) - (not whole)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": ()}, "for each of 1 to 2 stages, got "),
        ({"latents": (1, 1, 1)}, "for each of 1 to 2 stages"),
        ({"latents": (1, 0)}, "latents must be 1 or more"),
        ({"strides": ()}, "at least one stride"),
        ({"objective": "vae"}, "objective must be one of 'geco', 'elbo', got 'vae'"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**options)


@pytest.mark.parametrize("latents", [(1,), (1, 2)])
@pytest.mark.parametrize("dims", [2, 3])
def test_any_number_of_scales_in_two_and_three_dimensions(
    dims: int, latents: tuple[int, ...]
) -> None:
    options = {"width": 2, "strides": (2, 2), "latents": latents, "spatial_dims": dims}
    network = build_network(NAME, 2, 3, options=options).eval()
    image = torch.randn(1, 2, *(9, 8, 4)[:dims])
    for logits in (network(image), network.sample(image, torch.ones(sum(latents)))):
        assert logits.shape == (1, 3, *image.shape[2:])
