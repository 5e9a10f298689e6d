"""Shallow asymmetric residual U-Net for stroke lesions.

Reference:
    Clerigues et al., "SUNet: a deep learning architecture for acute stroke lesion segmentation
    and outcome prediction in multimodal MRI", 2018. arXiv:1810.13304

The released head of the 3D network spans three voxels of one axis; here it is pointwise.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import NormActConv, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.dimensions import Size
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

DROPOUT = 0.2


@NETWORKS.register(
    "sunet", title="SUNet", year=2018, paper="1810.13304", dims=(2, 3), parameters=7_032_002
)
class SUNet(nn.Module):
    """Residual stages, two units going down and one going up; skips are added.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
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
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="prelu", spatial_dims=spatial_dims)
        stages = Stages.of("sunet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        widths, operators = stages.widths, style.operators
        self.stem = operators.conv(in_channels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(_unit(here, style), nn.Dropout(DROPOUT), _unit(here, style))
            for here in widths
        )
        self.downs = nn.ModuleList(
            _Down(here, below - here, step, style)
            for (here, below), step in zip(pairwise(widths), stages.steps, strict=True)
        )
        self.ups = nn.ModuleList(
            operators.conv_transpose(below, here, 3, step, 1, tuple(edge - 1 for edge in step))
            for (below, here), step in zip(pairwise(widths[::-1]), stages.steps[::-1], strict=True)
        )
        self.decoder = nn.ModuleList(_unit(here, style) for here in widths[-2::-1])
        self.head = operators.conv(widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published 3D network, 4 -> 2 channels."""
        return cls(4, 2, norm="batch")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths and strides of the plan."""
        return topology.unet_options()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = self.stem(pad_to_multiple(x, self.divisor))
        skips = []
        for stage, down in zip(self.encoder, self.downs, strict=False):
            skips.append(x + stage(x))
            x = down(skips[-1])
        x = x + self.encoder[-1](x)
        for up, stage in zip(self.ups, self.decoder, strict=True):
            x = up(x) + skips.pop()
            x = x + stage(x)
        return crop(self.head(x), size)


class _Down(nn.Module):
    """A strided unit beside max pooling; ``added`` channels come from the unit."""

    def __init__(self, channels: int, added: int, step: Size, style: Style) -> None:
        super().__init__()
        self.pool = style.operators.max_pool(step, step)
        self.unit = (
            NormActConv(channels, added, stride=step, bias=True, style=style) if added else None
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(x)
        return pooled if self.unit is None else torch.cat([self.unit(x), pooled], dim=1)


def _unit(channels: int, style: Style) -> nn.Module:
    return NormActConv(channels, channels, bias=True, style=style)
