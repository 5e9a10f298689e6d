"""Fully convolutional DenseNet, the "tiramisu".

Reference:
    Jegou et al., "The one hundred layers tiramisu: fully convolutional DenseNets for semantic
    segmentation", CVPR workshops 2017. arXiv:1611.09326
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import NormActConv, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages, Step
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

DROPOUT = 0.2


@NETWORKS.register(
    "fc_densenet",
    title="FC-DenseNet (tiramisu)",
    year=2017,
    paper="1611.09326",
    dims=(2, 3),
    parameters=9_322_091,
)
class FCDenseNet(nn.Module):
    """Dense blocks down and up; only what a block adds is upsampled.

    The published networks are ``growth=12, layers=4`` (56), ``growth=16, layers=5`` (67) and
    ``growth=16, layers=(4, 5, 7, 10, 12, 15)`` (103), each with five strides.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        growth: Channels that each layer adds.
        layers: Layers of every dense block, or one number per resolution, finest first.
        stem: Channels of the first convolution.
        strides: Downsampling entering each resolution but the first.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If strides and layers do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        growth: int = 12,
        layers: int | Sequence[int] = 4,
        stem: int = 48,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("fc_densenet", stem, stem, strides, spatial_dims)
        self.divisor = stages.divisor
        depths = [layers] * len(stages.widths) if isinstance(layers, int) else list(layers)
        if len(depths) != len(stages.widths):
            raise ConfigError(
                f"fc_densenet: {len(stages.steps)} strides need {len(stages.widths)} numbers of "
                f"layers, got {len(depths)}"
            )
        self.stem = style.operators.conv(in_channels, stem, 3, padding=1)
        self.encoder, self.downs = nn.ModuleList(), nn.ModuleList()
        width, skips = stem, []
        for depth, step in zip(depths, stages.steps, strict=False):
            self.encoder.append(DenseLayers(width, depth, growth, style=style))
            width += depth * growth
            skips.append(width)
            conv = NormActConv(width, width, kernel=1, bias=True, style=style)
            pool = style.operators.max_pool(step, step)
            self.downs.append(nn.Sequential(conv, nn.Dropout(DROPOUT), pool))
        self.bottom = DenseLayers(width, depths[-1], growth, style=style)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        added = depths[-1] * growth
        for depth, step in zip(depths[-2::-1], stages.steps[::-1], strict=True):
            self.ups.append(_Up(added, step, style))
            width = added + skips.pop()
            self.decoder.append(DenseLayers(width, depth, growth, style=style))
            added = depth * growth
        self.head = style.operators.conv(width + added, out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """FC-DenseNet103, 3 -> 11 channels, in two dimensions."""
        return cls(3, 11, growth=16, layers=(4, 5, 7, 10, 12, 15), norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan."""
        return {"strides": topology.strides}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = self.stem(pad_to_multiple(x, self.divisor))
        skips = []
        for block, down in zip(self.encoder, self.downs, strict=True):
            skips.append(torch.cat([x, block(x)], dim=1))
            x = down(skips[-1])
        added = self.bottom(x)
        for up, block in zip(self.ups, self.decoder, strict=True):
            x = torch.cat([up(added), skips.pop()], dim=1)
            added = block(x)
        return crop(self.head(torch.cat([x, added], dim=1)), size)


class DenseLayers(nn.Module):
    """Layers that each read all before them; gives what they add.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, depth * growth, *sp)``
    """

    def __init__(self, in_channels: int, depth: int, growth: int, *, style: Style) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                NormActConv(in_channels + place * growth, growth, bias=True, style=style),
                nn.Dropout(DROPOUT),
            )
            for place in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of all layers."""
        added: list[Tensor] = []
        for layer in self.layers:
            added.append(layer(torch.cat([x, *added], dim=1)))
        return torch.cat(added, dim=1)


class _Up(nn.Module):
    """Transposed convolution of three voxels per axis, cut to a multiple of the step."""

    def __init__(self, channels: int, step: Step, style: Style) -> None:
        super().__init__()
        more = tuple(max(0, edge - 3) for edge in step)
        self.conv = style.operators.conv_transpose(channels, channels, 3, step, output_padding=more)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = self.conv(x)
        for axis, (length, step) in enumerate(zip(size, self.step, strict=True), start=2):
            x = x.narrow(axis, (3 - step) // 2 if step < 3 else 0, length * step)
        return x
