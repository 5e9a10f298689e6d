"""Grid of attention hybrid connection blocks, for thick slices.

Reference:
    Jiang et al., "AHCNet: an application of attention mechanism and hybrid connection for liver
    tumor segmentation in CT volumes", IEEE Access 7, 2019.
    https://doi.org/10.1109/ACCESS.2019.2899608

The figure draws sums where its legend says products: products here. Pooling is within the
slices by default, as published.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    ConvStack,
    NormActConv,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.stages import Stages, listed
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "ahcnet",
    title="AHCNet",
    year=2019,
    paper="10.1109/ACCESS.2019.2899608",
    dims=(2, 3),
    parameters=24_409_601,
)
class AHCNet(nn.Module):
    """Lateral features are weighted by attention at every node of a nested grid.

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
        strides: Sequence[int | Sequence[int]] | None = None,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        if strides is None:
            strides = ((2, 2, 1),) * 4 if spatial_dims == 3 else (2,) * 4
        stages = Stages.of("ahcnet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        widths = stages.widths
        self.stem = ConvStack(in_channels, widths[0], style=style)
        self.pools = stages.pools(style)
        self.encoder = nn.ModuleList(
            ShortConnection(before, here, style=style) for before, here in pairwise(widths)
        )
        # columns of the grid over all stages but the finest; each is one node shorter
        self.ups, self.nodes = nn.ModuleList(), nn.ModuleList()
        for length in range(len(widths) - 2, 0, -1):
            column = range(1, length + 1)
            self.ups.append(
                nn.ModuleList(
                    style.operators.conv_transpose(
                        widths[n + 1], widths[n], stages.steps[n], stages.steps[n]
                    )
                    for n in column
                )
            )
            self.nodes.append(nn.ModuleList(HybridBlock(widths[n], style=style) for n in column))
        self.last_up = style.operators.conv_transpose(
            widths[1], widths[0], stages.steps[0], stages.steps[0]
        )
        self.last_gate = LateralGate(widths[0], style=style)
        self.last = ConvStack(2 * widths[0], widths[0], style=style)
        self.head = style.operators.conv(widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network on slabs, 1 -> 1 channels."""
        return cls(1, 1, norm="batch")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths and strides of the plan."""
        return topology.unet_options()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        finest = self.stem(pad_to_multiple(x, self.divisor))
        row, x = [], finest
        for pool, stage in zip(self.pools, self.encoder, strict=True):
            x = stage(pool(x))
            row.append(x)
        for ups, nodes in zip(self.ups, self.nodes, strict=True):
            row = [
                node(lateral, up(below))
                for node, up, (lateral, below) in zip(
                    listed(nodes), listed(ups), pairwise(row), strict=True
                )
            ]
        up = self.last_up(row[0])
        return crop(self.head(self.last(torch.cat([up, self.last_gate(finest, up)], 1))), size)


class LateralGate(nn.Module):
    """Lateral features times a factor per channel and voxel, from them and the coarser ones.

    Shape:
        - lateral, coarser and output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        self.weight = style.operators.conv(channels, channels, 1)

    def forward(self, lateral: Tensor, coarser: Tensor) -> Tensor:
        """Weigh the lateral features."""
        return lateral * torch.sigmoid(self.weight((lateral + coarser).relu()))


class HybridBlock(nn.Module):
    """Gate, joining, and a pre-activated residual pair of convolutions.

    Shape:
        - lateral, coarser and output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        self.gate = LateralGate(channels, style=style)
        self.project = style.operators.conv(2 * channels, channels, 1)
        self.convs = nn.Sequential(
            NormActConv(2 * channels, channels, bias=True, style=style),
            NormActConv(channels, channels, bias=True, style=style),
        )

    def forward(self, lateral: Tensor, coarser: Tensor) -> Tensor:
        """Gate, join, convolve, add."""
        z = torch.cat([coarser, self.gate(lateral, coarser)], dim=1)
        total: Tensor = self.project(z) + self.convs(z)
        return total


class ShortConnection(nn.Module):
    """One convolution, and a second added to it.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: Style) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, style=style)
        self.second = ConvNormAct(out_channels, out_channels, style=style)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, convolve again, add."""
        x = self.first(x)
        total: Tensor = x + self.second(x)
        return total
