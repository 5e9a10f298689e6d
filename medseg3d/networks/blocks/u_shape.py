"""The U that many networks share: stages, pooling, upsampling, and skips that are joined."""

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from medseg3d.networks.blocks.initialization import he_initialize
from medseg3d.networks.blocks.sizes import crop, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages, Step, UpConv
from medseg3d.networks.blocks.style import Style


class MakeStage(Protocol):
    """Makes the convolutions of a stage."""

    def __call__(self, in_channels: int, out_channels: int, *, style: Style) -> nn.Module:
        """A module of ``(B, in_channels, *sp)`` to ``(B, out_channels, *sp)``."""


class MakeUp(Protocol):
    """Makes what leads to the next finer stage."""

    def __call__(
        self, in_channels: int, out_channels: int, *, stride: Step, style: Style
    ) -> nn.Module:
        """A module of ``(B, in_channels, *sp)`` to ``(B, out_channels, *sp * stride)``."""


class MakeGate(Protocol):
    """Makes what weights a skip."""

    def __call__(self, channels: int, *, style: Style) -> nn.Module:
        """A module of the skip and the upsampled features, both ``(B, channels, *sp)``."""


def transposed(in_channels: int, out_channels: int, *, stride: Step, style: Style) -> nn.Module:
    """Transposed convolution whose kernel is its stride."""
    return style.operators.conv_transpose(in_channels, out_channels, stride, stride)


class UShape(nn.Module):
    """Encoder of stages with max pooling, decoder that joins each skip to upsampled features.

    Networks are subclasses that give the parts; one that decodes otherwise has its own
    :meth:`decode`.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        stages: Widths and steps.
        style: Normalization, activation and dimensions.
        stage: Makes a stage of the encoder or decoder.
        up: Makes the way to the next finer stage.
        gate: Makes what weights the skips; None joins them as they are.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stages: Stages,
        style: Style,
        *,
        stage: MakeStage,
        up: MakeUp = UpConv,
        gate: MakeGate | None = None,
    ) -> None:
        super().__init__()
        self.divisor = stages.divisor
        self.encoder = nn.ModuleList(
            stage(before, here, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = stages.pools(style)
        self.ups, self.decoder, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for (below, here), step in zip(
            pairwise(stages.widths[::-1]), stages.steps[::-1], strict=True
        ):
            self.ups.append(up(below, here, stride=step, style=style))
            self.gates.append(gate(here, style=style) if gate else Ungated())
            self.decoder.append(stage(2 * here, here, style=style))
        self.head = style.operators.conv(stages.widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        skips = []
        for stage, pool in zip(self.encoder, self.pools, strict=False):
            skips.append(stage(x))
            x = pool(skips[-1])
        return crop(self.head(self.decode(self.encoder[-1](x), skips)), size)

    def decode(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Features for the head, of the finest stage.

        Args:
            x: Features of the coarsest stage.
            skips: Those of the finer stages, finest first.
        """
        for up, gate, fuse in zip(self.ups, self.gates, self.decoder, strict=True):
            x = up(x)
            x = fuse(torch.cat([gate(skips.pop(), x), x], dim=1))
        return x


class Ungated(nn.Module):
    """A skip that is joined as it is."""

    def forward(self, skip: Tensor, _: Tensor) -> Tensor:
        """The skip."""
        return skip
