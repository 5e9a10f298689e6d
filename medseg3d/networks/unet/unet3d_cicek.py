"""The first 3D U-Net.

Reference:
    Cicek et al., "3D U-Net: learning dense volumetric segmentation from sparse annotation",
    MICCAI 2016. arXiv:1606.06650

The published count of parameters leaves out the normalization and the biases of the
transposed convolutions; its convolutions are not padded, here they keep the size.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvNormAct, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "unet3d_cicek",
    title="3D U-Net of Cicek",
    year=2016,
    paper="1606.06650",
    dims=(2, 3),
    parameters=19_075_523,
)
class UNet3DCicek(nn.Module):
    """U-Net whose channels double in the second convolution of a stage, before the pooling.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Channels of the first convolution of the finest stage; they double with each stage,
            and within each.
        max_width: Upper limit of the channels of a stage's first convolution.
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
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("unet3d_cicek", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        ends = [2 * here for here in stages.widths]
        self.encoder = nn.ModuleList(
            _stage(before, here, end, style)
            for before, here, end in zip(
                (in_channels, *ends[:-1]), stages.widths, ends, strict=True
            )
        )
        self.pools = stages.pools(style)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for (below, here), step in zip(pairwise(ends[::-1]), stages.steps[::-1], strict=True):
            self.ups.append(style.operators.conv_transpose(below, below, step, step))
            self.decoder.append(_stage(here + below, here, here, style))
        self.head = style.operators.conv(ends[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 3 channels."""
        return cls(3, 3, norm="batch")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths and strides of the plan."""
        return topology.unet_options()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        skips = []
        for stage, pool in zip(self.encoder, self.pools, strict=False):
            skips.append(stage(x))
            x = pool(skips[-1])
        x = self.encoder[-1](x)
        for up, fuse in zip(self.ups, self.decoder, strict=True):
            x = fuse(torch.cat([skips.pop(), up(x)], dim=1))
        return crop(self.head(x), size)


def _stage(before: int, between: int, after: int, style: Style) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(before, between, style=style), ConvNormAct(between, after, style=style)
    )
