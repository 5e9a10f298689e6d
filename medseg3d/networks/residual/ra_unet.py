"""Bottleneck residual U-Net whose skips pass through residual attention modules.

Reference:
    Jin et al., "RA-UNet: a hybrid deep attention-aware network to extract liver and tumor in CT
    scans", 2018. arXiv:1811.01328

The figure's widths and, as in the released code, a convolution on every shortcut.
"""

from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    NormActConv,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.style import Norm

DEPTH = 5
"""Times that the image is halved."""


@NETWORKS.register(
    "ra_unet", title="RA-UNet", year=2018, paper="1811.01328", dims=(2, 3), parameters=4_420_849
)
class RAUNetLiver(nn.Module):
    """Skips weighted by one plus an attention mask; the finer the skip, the deeper the mask.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stages; they double with each further one.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of 32 need no padding
        - output: ``(B, L, *sp)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        self.divisor = (2**DEPTH,) * spatial_dims
        operators = style.operators
        widths = [width, *(width * 2**stage for stage in range(DEPTH))]  # the stem's comes first
        self.stem = ConvNormAct(in_channels, width, style=style)
        self.pool = operators.max_pool(2, 2)
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.encoder = nn.ModuleList(
            Bottleneck(before, here, style=style) for before, here in pairwise(widths)
        )
        self.bottom = Bottleneck(widths[-1], widths[-1], style=style)
        self.gates = nn.ModuleList(
            ResidualAttention(here, depth, style=style)
            for depth, here in enumerate(widths[-2:0:-1], start=1)
        )
        self.decoder = nn.ModuleList(
            Bottleneck(below + here, here, style=style)
            for below, here in zip(widths[:1:-1], widths[-2:0:-1], strict=True)
        )
        self.last = ConvNormAct(2 * width, width, style=style)
        self.head = operators.conv(width, out_channels, 3, padding=1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network for the liver, 1 -> 1 channels."""
        return cls(1, 1, norm="batch")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        finest = x = self.stem(pad_to_multiple(x, self.divisor))
        skips = []
        for stage in self.encoder:
            x = stage(self.pool(x))
            skips.append(x)
        x = self.bottom(skips.pop())
        for gate, fuse in zip(self.gates, self.decoder, strict=True):
            x = fuse(torch.cat([self.up(x), gate(skips.pop())], dim=1))
        x = self.last(torch.cat([self.up(x), finest], dim=1))
        return crop(self.head(x), size)


class Bottleneck(nn.Module):
    """Three pre-activated convolutions, the outer ones pointwise, plus a pointwise shortcut.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: Style) -> None:
        super().__init__()
        inner = max(1, out_channels // 4)
        self.convs = nn.Sequential(
            NormActConv(in_channels, inner, kernel=1, bias=True, style=style),
            NormActConv(inner, inner, bias=True, style=style),
            NormActConv(inner, out_channels, kernel=1, bias=True, style=style),
        )
        self.shortcut = style.operators.conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and add."""
        total: Tensor = self.shortcut(x) + self.convs(x)
        return total


class ResidualAttention(nn.Module):
    """Features times one plus a mask from a small U of ``depth`` poolings.

    Shape:
        - input and output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, depth: int, *, style: Style) -> None:
        super().__init__()

        def block() -> Bottleneck:
            return Bottleneck(channels, channels, style=style)

        def blocks(number: int) -> nn.ModuleList:
            return nn.ModuleList(block() for _ in range(number))

        self.enter, self.leave = block(), block()
        self.trunk = nn.Sequential(block(), block())
        self.pool = style.operators.max_pool(2, 2)
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.downs, self.skips, self.ups = blocks(depth), blocks(depth - 1), blocks(depth)
        conv = style.operators.conv
        self.mask = nn.Sequential(conv(channels, channels, 1), conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Weigh by one plus the mask."""
        x = self.enter(x)
        mask, kept = self.downs[0](self.pool(x)), []
        for down, skip in zip(self.downs[1:], self.skips, strict=True):
            kept.append(skip(mask))
            mask = down(self.pool(mask))
        for up in self.ups[:-1]:
            mask = self.up(up(mask)) + kept.pop()
        mask = self.mask(self.up(self.ups[-1](mask))).sigmoid()
        weighted: Tensor = self.leave((1 + mask) * self.trunk(x))
        return weighted
