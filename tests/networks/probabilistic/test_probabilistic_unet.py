"""One global draw: sizes of the parts, what a draw changes, and the objective term by term."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks import build_network
from medseg3d.networks.blocks.gaussian import with_labels
from medseg3d.networks.probabilistic.probabilistic_unet import ProbabilisticUNet
from tests.networks.rows import ROWS

NAME = "probabilistic_unet"


def small(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_network(NAME, 1, 3, options={**ROWS[NAME].options, **options})


def case(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (2, 1, 8, 8, 4), generator=generator)
    return torch.randn(2, 1, 8, 8, 4, generator=generator) + labels, labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels[:, 0])


def test_parts_have_their_known_sizes() -> None:
    with torch.device("meta"):
        network = ProbabilisticUNet(1, 1, latent=2, norm="none", spatial_dims=2)
    parts = (network.prior, network.posterior, network.answer)
    sizes = [sum(each.numel() for each in part.parameters()) for part in parts]
    assert sizes == [1_366_276, 1_366_564, 3_265]
    unet = sum(each.numel() for each in network.parameters()) - sum(sizes)
    assert unet == 2_260_128


def test_no_noise_gives_the_answer_without_a_draw_and_noise_another() -> None:
    network, (image, _) = small().eval(), case()
    calm = torch.zeros(network.latent_size)
    assert torch.equal(network.sample(image, calm), network(image))
    for place in range(network.latent_size):
        noise = calm.clone()
        noise[place] = 2.0
        assert not torch.allclose(network.sample(image, noise), network(image))


def test_a_draw_moves_by_the_deviation_that_the_image_tells() -> None:
    network, (image, _) = small().eval(), case()
    noise = torch.tensor([1.0, -1.0])
    seen: list[Tensor] = []
    network.answer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.sample(image, noise)
    belief = network.prior(image)
    expected = belief.mean.flatten(1) + belief.log_scale.exp().flatten(1) * noise
    told = seen[0][:, -2:].flatten(2)
    torch.testing.assert_close(told, expected[..., None].expand_as(told))


def test_the_objective_is_the_loss_and_the_divergence_per_voxel() -> None:
    network, (image, labels) = small(beta=5.0).train(), case()
    posterior = network.posterior(with_labels(image, labels, 3))
    apart = posterior.divergence_from(network.prior(image))
    seen: list[Tensor] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(logits)
        return cross_entropy(logits, labels)

    torch.manual_seed(3)
    whole = network.objective(loss, image, labels)
    assert seen[0].shape == (2, 3, 8, 8, 4)
    rest = whole - cross_entropy(seen[0], labels)
    torch.testing.assert_close(rest, 5.0 * apart.mean() / (8 * 8 * 4), rtol=1e-3, atol=1e-6)
    torch.manual_seed(4)
    assert network.objective(cross_entropy, image, labels) != whole  # another draw


def test_odd_sizes_are_padded_together_with_their_labels() -> None:
    network, (image, labels) = small().train(), case()
    part = (slice(None), slice(None), slice(7), slice(5), slice(3))
    loss = network.objective(cross_entropy, image[part], labels[part])
    loss.backward()
    assert loss.isfinite()


def test_training_makes_the_posterior_tell_the_labels_and_the_prior_follow_it() -> None:
    """Of one image two answers are right; only the posterior can know which one is meant."""
    torch.manual_seed(0)
    network = build_network(NAME, 1, 2, options={"width": 4, "strides": (2,), "latent": 1})
    image = torch.linspace(0, 1, 64).reshape(1, 1, 4, 4, 4).repeat(2, 1, 1, 1, 1)
    labels = torch.zeros(2, 1, 4, 4, 4, dtype=torch.int64)
    labels[1, ..., 2:] = 1  # the second expert marks a half, the first nothing
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(150):
        loss = network.objective(cross_entropy, image, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    assert sum(losses[-10:]) / 10 < 0.35 < losses[0]  # log 2 / 2 is the best of a single answer
    drawn = [
        (network.sample(image[:1], torch.tensor([noise])).argmax(1)[..., 2:] == 1).float().mean()
        for noise in (-2.0, -1.0, 1.0, 2.0)
    ]
    assert max(drawn) - min(drawn) > 0.9


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_built_for_two_and_three_dimensions(dims: int) -> None:
    network = build_network(NAME, 2, 3, options={"width": 2, "spatial_dims": dims}).eval()
    image = torch.randn(1, 2, *(9, 8, 8)[:dims])
    assert network(image).shape == (1, 3, *image.shape[2:])
    assert network.sample(image, torch.ones(6)).shape == (1, 3, *image.shape[2:])
