"""U-Net whose skips are nested dense convolutions.

References:
    Zhou et al., "UNet++: a nested U-Net architecture for medical image segmentation", DLMIA
    2018. arXiv:1807.10165
    Zhou et al., IEEE Trans. Med. Imaging 39(6), 2020. arXiv:1912.05074
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages, listed
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "unet_plus_plus",
    title="UNet++",
    year=2018,
    paper="1807.10165",
    dims=(2, 3),
    outputs="logits of each depth",
    parameters=9_041_700,
)
class UNetPlusPlus(nn.Module):
    """Nodes ``X(i, j)`` of stage ``i`` read ``X(i, 0) ... X(i, j - 1)`` and ``X(i + 1, j - 1)``.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        deep_supervision: While training, return logits of all nodes of the finest stage, the
            deepest first; otherwise there is one head, on the deepest.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``; while training with deep supervision a list of them

    Raises:
        ConfigError: If there is no stride, or one does not fit.
    """

    level_decay = 1.0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        deep_supervision: bool = True,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("unet_plus_plus", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.deep_supervision = deep_supervision
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = stages.pools(style)
        self.ups, self.nodes = nn.ModuleList(), nn.ModuleList()  # one list per column j >= 1
        for column in range(1, len(stages.widths)):
            ups, nodes = nn.ModuleList(), nn.ModuleList()
            for (here, below), step in zip(
                pairwise(stages.widths[: len(stages.widths) - column + 1]),
                stages.steps,
                strict=False,
            ):
                ups.append(style.operators.conv_transpose(below, here, step, step))
                nodes.append(ConvStack((column + 1) * here, here, style=style))
            self.ups.append(ups)
            self.nodes.append(nodes)
        num_heads = len(stages.steps) if deep_supervision else 1
        self.heads = nn.ModuleList(
            style.operators.conv(stages.widths[0], out_channels, 1) for _ in range(num_heads)
        )
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 1 channels, two dimensions, four heads."""
        return cls(1, 1, width=32, norm="none", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the image; see the class for the list while training."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        rows = [[self.encoder[0](x)]]
        for stage, pool in zip(self.encoder[1:], self.pools, strict=True):
            rows.append([stage(pool(rows[-1][0]))])
        for ups, nodes in zip(self.ups, self.nodes, strict=True):
            for place, (up, node) in enumerate(zip(listed(ups), listed(nodes), strict=True)):
                below = up(rows[place + 1][-1])
                rows[place].append(node(torch.cat([*rows[place], below], dim=1)))
            rows.pop()  # the deepest of the column before is read by nobody any more
        deepest_first = rows[0][:0:-1]
        if self.training and self.deep_supervision:
            return [
                crop(head(feature), size)
                for head, feature in zip(self.heads, deepest_first, strict=True)
            ]
        return crop(self.heads[0](deepest_first[0]), size)
