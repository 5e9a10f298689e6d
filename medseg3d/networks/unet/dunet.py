"""U-Net with deformable convolutions near its finest stages.

Reference:
    Jin et al., "DUNet: a deformable network for retinal vessel segmentation", Knowledge-Based
    Systems 178, 2019. arXiv:1811.01206

The figure has wider stages, nearly all of them deformable; this is the released network, whose
offsets belong to the taps of a kernel and are shared by the channels. A plan for volumes keeps
the finest stage of the decoder ordinary: its voxels, 27 displaced taps for each, take most of the
time of all deformable stages together.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.deformable import DeformableConv, DeformableStack
from medseg3d.networks.blocks.stages import Stages, linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

DEFORMABLE = 2
"""Stages of the encoder, from the second on, and last ones of the decoder that are deformable."""


@NETWORKS.register(
    "dunet",
    title="DUNet (deformable)",
    year=2019,
    paper="1811.01206",
    dims=(2, 3),
    parameters=883_442,
)
class DUNet(nn.Module):
    """U-Net of linear upsampling whose last convolution also sees the image.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage but the last.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        deform_finest: Whether the finest stage of the decoder is deformable too.
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
        width: int = 16,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        deform_finest: bool = True,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("dunet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        widths = (*stages.widths[:-1], stages.widths[-2])
        self.encoder = nn.ModuleList(
            _stage(before, here, 1 <= stage <= DEFORMABLE, style)
            for stage, (before, here) in enumerate(pairwise((in_channels, *widths)))
        )
        self.pools = stages.pools(style)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for stage in range(len(stages.steps) - 1, -1, -1):
            self.ups.append(linear_upsampling(stages.steps[stage]))
            after = widths[max(stage - 1, 0)]
            deformable = stage < DEFORMABLE and (stage > 0 or deform_finest)
            self.decoder.append(_stage(2 * widths[stage], after, deformable, style))
        self.head = style.operators.conv(width + in_channels, out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)
        for module in self.modules():
            if isinstance(module, DeformableConv):
                module.rest()

    @classmethod
    def paper(cls) -> Self:
        """The released network, 1 -> 1 channels, in two dimensions."""
        return cls(1, 1, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5) | {"deform_finest": len(topology.patch_size) == 2}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        image = x = pad_to_multiple(x, self.divisor)
        skips = []
        for stage, pool in zip(self.encoder, self.pools, strict=False):
            skips.append(stage(x))
            x = pool(skips[-1])
        x = self.encoder[-1](x)
        for up, fuse in zip(self.ups, self.decoder, strict=True):
            x = fuse(torch.cat([skips.pop(), up(x)], dim=1))
        return crop(self.head(torch.cat([x, image], dim=1)), size)


def _stage(in_channels: int, out_channels: int, deformable: bool, style: Style) -> nn.Module:
    if deformable:
        return DeformableStack(in_channels, out_channels, style=style)
    return ConvStack(in_channels, out_channels, style=style)
