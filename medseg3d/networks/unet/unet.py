"""The U-Net, with concatenated skips, in two or three dimensions.

Reference:
    Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation",
    MICCAI 2015. arXiv:1505.04597

The published convolutions are not padded and their skips are cut; here they keep the size.
The published network has no normalization; a 3D network with small batches needs one.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "unet", title="U-Net", year=2015, paper="1505.04597", dims=(2, 3), parameters=31_030_658
)
class UNet(nn.Module):
    """Two convolutions per stage, max pooling going down, transposed convolutions going up.

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
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("unet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = stages.pools(style)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for (below, here), step in zip(
            pairwise(stages.widths[::-1]), stages.steps[::-1], strict=True
        ):
            self.ups.append(style.operators.conv_transpose(below, here, step, step))
            self.decoder.append(ConvStack(2 * here, here, style=style))
        self.head = style.operators.conv(stages.widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 2 channels, in two dimensions."""
        return cls(1, 2, width=64, norm="none", spatial_dims=2)

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
