"""Normal distributions against torch's own, and labels as channels."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from medseg3d.networks.blocks import Style
from medseg3d.networks.blocks.gaussian import (
    LARGEST,
    Gaussian,
    GaussianHead,
    everywhere,
    with_labels,
)


def two() -> tuple[Gaussian, Gaussian]:
    generator = torch.Generator().manual_seed(0)
    mine, yours = torch.randn(2, 2, 3, 2, 4, 5, generator=generator, dtype=torch.float64)
    return Gaussian(*mine), Gaussian(*yours)


def test_the_divergence_is_that_of_torch_summed_over_all_but_the_batch() -> None:
    here, there = two()
    ours, theirs = (Normal(each.mean, each.log_scale.exp()) for each in (here, there))
    expected = kl_divergence(ours, theirs).flatten(1).sum(1)
    torch.testing.assert_close(here.divergence_from(there), expected)
    assert not torch.allclose(there.divergence_from(here), expected)
    assert here.divergence_from(here).abs().max() < 1e-12


def test_noise_is_scaled_and_moved() -> None:
    belief = Gaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]]).log1p())
    assert belief.at(torch.tensor([2.0, -1.0])).tolist() == [[3.0, -5.0]]


def test_draws_have_the_mean_and_the_deviation_and_pass_gradients() -> None:
    torch.manual_seed(0)
    mean = torch.full((40_000, 1), 3.0, requires_grad=True)
    scale = torch.full((40_000, 1), 0.5, requires_grad=True)
    drawn = Gaussian(mean, scale.log()).drawn()
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.02)
    drawn.sum().backward()
    assert mean.grad is not None
    assert (mean.grad == 1).all()
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, (drawn.detach() - 3) / 0.5)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_head_tells_means_first_and_keeps_deviations_in_bounds(dims: int) -> None:
    head = GaussianHead(2, 3, style=Style(spatial_dims=dims))
    with torch.no_grad():
        head.conv.weight.zero_()
        head.conv.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 0.5, 1e4, -1e4]))
    belief = head(torch.zeros(1, 2, *(2,) * dims).bfloat16().float())
    assert belief.mean.shape == (1, 3, *(2,) * dims)
    assert belief.mean.flatten(2)[0, :, 0].tolist() == [1, 2, 3]
    assert belief.log_scale.flatten(2)[0, :, 0].tolist() == [0.5, LARGEST, -LARGEST]
    narrow = Gaussian(belief.mean + 100, -belief.log_scale)
    assert belief.divergence_from(narrow).isfinite().all()


def test_half_precision_ends_at_the_head() -> None:
    head = GaussianHead(2, 1, style=Style())
    with torch.autocast("cpu", torch.bfloat16):
        belief = head(torch.ones(1, 2, 4, 4, 4))
    assert belief.mean.dtype == belief.log_scale.dtype == torch.float32


def test_values_are_the_same_everywhere() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    like = torch.zeros(2, 5, 2, 3, 4, dtype=torch.float64)
    found = everywhere(values[..., None, None, None], like)
    assert found.dtype == torch.float64
    assert found.shape == (2, 2, 2, 3, 4)
    assert (found == values[:, :, None, None, None]).all()


def test_unknown_voxels_are_in_no_channel_of_the_labels() -> None:
    labels = torch.tensor([[[[0, 2], [3, 1]]]], dtype=torch.uint8)  # 3: nobody knows
    found = with_labels(torch.full((1, 1, 2, 2), 7.0), labels, 3)
    assert found[0].flatten(1).tolist() == [
        [7, 7, 7, 7],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 1, 0, 0],
    ]
