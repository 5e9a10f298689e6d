"""U-Net whose last layers are told a few random numbers, so that one image has many answers.

Reference:
    Kohl et al., "A probabilistic U-Net for segmentation of ambiguous images", NeurIPS 2018.
    arXiv:1806.05034

The published objective is the sum of the cross-entropy over voxels plus the divergence; here
both are divided by the number of voxels, and the loss is the one that was chosen. The paper
weighs the divergence by 1, the popular port in torch by 10. Labels enter the posterior as one
channel each. The encoders of prior and posterior are never normalized: over all voxels that
would remove what their mean over all voxels tells.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    ConvStack,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.gaussian import Gaussian, GaussianHead, everywhere, with_labels
from medseg3d.networks.blocks.stages import Stages, linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

DEPTH = 3
"""Convolutions per stage."""


@NETWORKS.register(
    "probabilistic_unet",
    title="Probabilistic U-Net",
    year=2018,
    paper="1806.05034",
    dims=(2, 3),
    outputs="samples",
    parameters=4_999_449,
)
class ProbabilisticUNet(nn.Module):
    """A U-Net, a distribution of a few numbers per image, and a head that reads both.

    The answer without a draw is that of the distribution's mean. While training, a second
    encoder that sees the labels too tells which numbers lead to them.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        latent: Random numbers per image.
        beta: Weight of the divergence between both distributions.
        norm: Of the U-Net: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there is no stride, or one does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        max_width: int = 192,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
        latent: int = 6,
        beta: float = 10.0,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        plain = Style(norm="none", activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("probabilistic_unet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.latent_size = latent
        self.num_labels = out_channels
        self.beta = beta
        self.encoder = Encoder(in_channels, stages, style)
        self.ups = nn.ModuleList(linear_upsampling(step) for step in stages.steps[::-1])
        self.decoder = nn.ModuleList(
            ConvStack(below + here, here, depth=DEPTH, style=style)
            for below, here in pairwise(stages.widths[::-1])
        )
        self.prior = Belief(in_channels, latent, stages, plain)
        self.posterior = Belief(in_channels + out_channels, latent, stages, plain)
        finest = stages.widths[0]
        self.answer = nn.Sequential(
            *(
                ConvNormAct(before, finest, kernel=1, style=plain)
                for before in (finest + latent, finest, finest)
            ),
            style.operators.conv(finest, out_channels, 1),
        )
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network with six random numbers, 1 -> 1 channels, in two dimensions."""
        return cls(1, 1, norm="none", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Half the widths of the plan, as there are three encoders, and its strides."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image for the mean of its distribution."""
        padded = pad_to_multiple(x, self.divisor)
        return crop(self._answered(padded, self.prior(padded).mean), x.shape[2:])

    def sample(self, x: Tensor, noise: Tensor) -> Tensor:
        """Logits of the image for one draw.

        Args:
            x: ``(B, C, *sp)``.
            noise: Standard normal numbers ``(latent_size,)``, the same for all cases.
        """
        padded = pad_to_multiple(x, self.divisor)
        belief: Gaussian = self.prior(padded)
        drawn = belief.at(noise.to(belief.mean).reshape(belief.mean[:1].shape))
        return crop(self._answered(padded, drawn), x.shape[2:])

    def objective(
        self, loss: Callable[[Tensor, Tensor], Tensor], image: Tensor, labels: Tensor
    ) -> Tensor:
        """The loss of a draw from the posterior, plus its divergence from the prior per voxel.

        Args:
            loss: ``loss(logits, labels)``.
            image: ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)`` integers.
        """
        both = with_labels(image, labels, self.num_labels)
        both = pad_to_multiple(both, self.divisor)
        padded = both[:, : image.shape[1]]
        posterior: Gaussian = self.posterior(both)
        logits = crop(self._answered(padded, posterior.drawn()), image.shape[2:])
        divergence = posterior.divergence_from(self.prior(padded)).mean()
        return loss(logits, labels) + self.beta * divergence / image[0, 0].numel()

    def _answered(self, padded: Tensor, latent: Tensor) -> Tensor:
        """Logits for values ``(B, latent_size, 1, ...)``."""
        skips: list[Tensor] = self.encoder(padded)
        x = skips.pop()
        for up, fuse in zip(self.ups, self.decoder, strict=True):
            x = fuse(torch.cat([up(x), skips.pop()], dim=1))
        logits: Tensor = self.answer(torch.cat([x, everywhere(latent, x)], dim=1))
        return logits


class Encoder(nn.Module):
    """Convolutions and average pooling.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: list of features of all stages, finest first
    """

    def __init__(self, in_channels: int, stages: Stages, style: Style) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            ConvStack(before, here, depth=DEPTH, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = nn.ModuleList(style.operators.average_pool(step) for step in stages.steps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of every stage."""
        features = [self.stages[0](x)]
        for pool, stage in zip(self.pools, self.stages[1:], strict=True):
            features.append(stage(pool(features[-1])))
        return features


class Belief(nn.Module):
    """What an image, and perhaps its labels, tell about the random numbers.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: distributions of ``(B, latent, 1, ...)``
    """

    def __init__(self, in_channels: int, latent: int, stages: Stages, style: Style) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels, stages, style)
        self.head = GaussianHead(stages.widths[-1], latent, style=style)

    def forward(self, x: Tensor) -> Gaussian:
        """Their distribution."""
        coarsest: Tensor = self.encoder(x)[-1]
        believed: Gaussian = self.head(coarsest.mean(tuple(range(2, x.ndim)), keepdim=True))
        return believed
