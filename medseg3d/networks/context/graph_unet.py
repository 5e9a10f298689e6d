"""U-Net whose coarsest voxels are the nodes of a Graph U-Net.

Reference:
    Gao and Ji, "Graph U-Nets", ICML 2019. arXiv:1905.05178

The published network classifies the nodes of any graph; its core is here as it was. What makes
it label images is ours: convolutions down to a grid of nodes, each joined to its neighbors, and
linear upsampling with skips from there. The graph takes memory for the square of the number of
nodes, so the grid should have some hundred of them; the strides of a plan see to that.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.graph import GraphConv, GraphUNet, grid_graph
from medseg3d.networks.blocks.stages import Stages, linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "graph_unet",
    title="Graph U-Net",
    year=2019,
    paper="1905.05178",
    dims=(2, 3),
    parameters=26_958_037,
)
class GraphUNetSegmenter(nn.Module):
    """Convolutions, a Graph U-Net on the coarsest grid, convolutions.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        nodes: Features of each node.
        ratios: Share of the nodes that each pooling of the graph keeps.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there is no stride, one does not fit, or a ratio is not in (0, 1].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        nodes: int = 48,
        ratios: Sequence[float] = (0.9, 0.8, 0.7),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        if not all(0 < ratio <= 1 for ratio in ratios):
            raise ConfigError(f"graph_unet: ratios must lie in (0, 1], got {tuple(ratios)}")
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("graph_unet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = stages.pools(style)
        self.enter = GraphConv(stages.widths[-1], nodes)
        self.graph_unet = GraphUNet(nodes, ratios)
        self.ups = nn.ModuleList(linear_upsampling(step) for step in stages.steps[::-1])
        belows = (nodes, *stages.widths[-2:0:-1])
        self.decoder = nn.ModuleList(
            ConvStack(below + here, here, style=style)
            for below, here in zip(belows, stages.widths[-2::-1], strict=True)
        )
        self.head = style.operators.conv(stages.widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published core in a two-dimensional U of the usual widths, 1 -> 2 channels."""
        return cls(1, 2, width=64, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        skips = []
        for stage, pool in zip(self.encoder, self.pools, strict=False):
            skips.append(stage(x))
            x = pool(skips[-1])
        x = self._across(self.encoder[-1](x))
        for up, fuse in zip(self.ups, self.decoder, strict=True):
            x = fuse(torch.cat([skips.pop(), up(x)], dim=1))
        return crop(self.head(x), size)

    def _across(self, x: Tensor) -> Tensor:
        """The graph's features of each voxel."""
        grid = x.shape[2:]
        graph = grid_graph(grid, x)
        nodes = self.enter(graph, x.flatten(2).transpose(1, 2))
        features: Tensor = self.graph_unet(graph, nodes)
        return features.transpose(1, 2).reshape(len(x), -1, *grid)
