"""Normal distributions that a network draws from, and how far apart two of them are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medseg3d.networks.blocks.style import Style

LARGEST = 8.0
"""Of the logarithm of a standard deviation, either way; its square must not overflow."""

CALM = 0.01
"""Factor on weights that were drawn for features of about unit size."""


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions, at least in float32.

    Attributes:
        mean: ``(B, D, *sp)``.
        log_scale: Logarithms of the standard deviations, of the same shape.
    """

    mean: Tensor
    log_scale: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """The values that standard normal numbers stand for; ``noise`` may be broadcast."""
        return self.mean + self.log_scale.exp() * noise

    def drawn(self) -> Tensor:
        """Values ``(B, D, *sp)`` from torch's random numbers, through which gradients pass."""
        return self.at(torch.randn_like(self.mean))

    def divergence_from(self, other: "Gaussian") -> Tensor:
        """Kullback-Leibler divergence KL(self || other) in nats.

        Returns:
            ``(B,)``, summed over all but the batch.

        Examples:
            >>> here = Gaussian(torch.zeros(1, 1), torch.zeros(1, 1))
            >>> there = Gaussian(torch.ones(1, 1), torch.zeros(1, 1))
            >>> here.divergence_from(there), here.divergence_from(here)
            (tensor([0.5000]), tensor([0.]))
        """
        gap = self.log_scale - other.log_scale
        away = (self.mean - other.mean) * (-other.log_scale).exp()
        return (0.5 * ((2 * gap).exp() + away.square() - 1) - gap).flatten(1).sum(1)


Choose = Callable[[int, Gaussian], Tensor]
"""Picks values from the distribution of a scale, given the number of the scale."""


class GaussianHead(nn.Module):
    """A pointwise convolution that tells means and standard deviations.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: distributions of ``(B, latents, *sp)``
    """

    def __init__(self, in_channels: int, latents: int, *, style: Style) -> None:
        super().__init__()
        self.conv = style.operators.conv(in_channels, 2 * latents, 1)

    def calm(self) -> None:
        """Begin near the standard normal distribution, whatever the features are.

        Where features are large, two networks begin so far apart otherwise that for long they
        learn nothing but to agree.
        """
        with torch.no_grad():
            self.conv.get_parameter("weight").mul_(CALM)

    def forward(self, x: Tensor) -> Gaussian:
        """Distributions of what was seen."""
        told: Tensor = self.conv(x)
        told = told.to(torch.promote_types(told.dtype, torch.float32))
        mean, log_scale = told.chunk(2, dim=1)
        return Gaussian(mean, log_scale.clamp(-LARGEST, LARGEST))


def everywhere(values: Tensor, like: Tensor) -> Tensor:
    """One value per case and channel, repeated over all voxels.

    Args:
        values: ``(B, D)`` or ``(B, D, 1, ...)``.
        like: ``(B, C, *sp)``, for its size and type.

    Returns:
        ``(B, D, *sp)``.
    """
    single = values.flatten(1).reshape(*values.shape[:2], *(1,) * (like.ndim - 2))
    return single.to(like).expand(-1, -1, *like.shape[2:])


def with_labels(image: Tensor, labels: Tensor, num_labels: int) -> Tensor:
    """An image and one channel per label, 1 where the label is; unknown voxels have 0 in all.

    Args:
        image: ``(B, C, *sp)``.
        labels: ``(B, 1, *sp)`` integers.
        num_labels: ``L``.

    Returns:
        ``(B, C + L, *sp)``.

    Examples:
        >>> with_labels(torch.zeros(1, 1, 3), torch.tensor([[[0, 1, 2]]]), 2)
        tensor([[[0., 0., 0.],
                 [1., 0., 0.],
                 [0., 1., 0.]]])
    """
    values = torch.arange(num_labels, device=labels.device)
    values = values.reshape(-1, *(1,) * (labels.ndim - 2))
    return torch.cat([image, (labels == values).to(image)], dim=1)
