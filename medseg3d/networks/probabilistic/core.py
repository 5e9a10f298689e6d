"""The part of the hierarchical probabilistic U-Net that prior and posterior both have.

Reference:
    Kohl et al., "A hierarchical probabilistic U-Net for modeling multi-scale ambiguities", 2019.
    arXiv:1905.13077
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg3d.networks.blocks import NormActConv, Style
from medseg3d.networks.blocks.gaussian import Choose, GaussianHead
from medseg3d.networks.blocks.stages import Stages, Step

BLOCKS, CONVS = 3, 3
"""Residual blocks per stage, and full convolutions per block."""


class Core(nn.Module):
    """Encoder, and the part of the decoder that is told random numbers.

    Shape:
        - input: ``(B, in_channels, *sp)``, and what picks numbers from a distribution
        - output: features after the last numbers, and those of all finer stages, finest first
    """

    def __init__(
        self,
        in_channels: int,
        stages: Stages,
        latents: Sequence[int],
        style: Style,
        *,
        whole: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            residual_stage(before, here, style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = nn.ModuleList(style.operators.average_pool(step) for step in stages.steps)
        widths = stages.widths[::-1]
        self.heads = nn.ModuleList(
            GaussianHead(here, latent, style=style)
            for here, latent in zip(widths, latents, strict=False)
        )
        number = len(latents) if whole else len(latents) - 1
        self.ups = nearest_upsamplings(stages.steps[::-1][:number])
        self.decoder = nn.ModuleList(
            residual_stage(below + latent + here, here, style)
            for (below, here), latent in zip(pairwise(widths), latents[:number], strict=False)
        )

    def forward(self, x: Tensor, choose: Choose) -> tuple[Tensor, list[Tensor]]:
        """Encode, choose numbers from coarse to fine, and decode what they change."""
        skips = [self.encoder[0](x)]
        for pool, stage in zip(self.pools, self.encoder[1:], strict=True):
            skips.append(stage(pool(skips[-1])))
        x = skips.pop()
        for scale, head in enumerate(self.heads):
            chosen = choose(scale, head(x))
            if scale < len(self.decoder):
                above = self.ups[scale](torch.cat([chosen.to(x), x], dim=1))
                x = self.decoder[scale](torch.cat([skips.pop(), above], dim=1))
        return x, skips


class Block(nn.Module):
    """Convolutions of half the channels that are added to their input.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        inner = max(1, out_channels // 2)
        conv = style.operators.conv
        self.convs = nn.Sequential(
            *(
                NormActConv(in_channels if place == 0 else inner, inner, bias=True, style=style)
                for place in range(CONVS)
            ),
            conv(inner, out_channels, 1),
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and add."""
        total: Tensor = self.shortcut(x) + self.convs(x)
        return total


def residual_stage(in_channels: int, out_channels: int, style: Style) -> nn.Sequential:
    """Residual blocks, of which the first changes the channels."""
    ends = (in_channels, *(out_channels,) * BLOCKS)
    return nn.Sequential(*(Block(*pair, style) for pair in pairwise(ends)))


def nearest_upsamplings(steps: Sequence[Step]) -> nn.ModuleList:
    """Nearest upsampling by each step."""
    return nn.ModuleList(
        nn.Upsample(scale_factor=tuple(map(float, step)), mode="nearest") for step in steps
    )
