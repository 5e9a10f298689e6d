"""Plain convolutional U-Net as nnU-Net configures it.

Reference:
    Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical
    image segmentation", Nat. Methods 18, 2021. https://doi.org/10.1038/s41592-020-01008-z
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvStack,
    Sizes,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
    per_stage,
)
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "unet3d",
    title="3D U-Net as configured by nnU-Net",
    year=2021,
    paper="10.1038/s41592-020-01008-z",
    dims=(2, 3),
    outputs="logits of coarser stages",
    parameters=31_194_952,
)
class UNet3D(nn.Module):
    """Two convolutions per stage, strided going down, transposed going up.

    A stage is twice convolution, normalization, leaky ReLU. Widths double with each stage
    up to ``max_width``. The decoder concatenates ``[up, skip]``.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, so one entry less than
            there are stages; an entry is one integer or one per axis.
        kernels: Odd kernel size, one for all stages or one entry per stage.
        deep_supervision: While training, return logits of all stages but the two coarsest
            (at least one), finest first. Without it there is a single head.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``; while training with deep supervision a list of them, of
          size ``ceil(sp / total stride)`` at each supervised stage

    Raises:
        ConfigError: If strides or kernels do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        max_width: int = 320,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2, 2),
        kernels: Sizes = 3,
        deep_supervision: bool = True,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="leaky_relu", spatial_dims=spatial_dims)
        if not strides:
            raise ConfigError("unet3d needs at least one stride, got none; add stages")
        steps = per_stage(strides, len(strides), spatial_dims)
        sizes = per_stage(kernels, len(strides) + 1, spatial_dims, odd=True)
        widths = [min(width * 2**stage, max_width) for stage in range(len(sizes))]
        self.deep_supervision = deep_supervision
        self.divisor = tuple(prod(axis) for axis in zip(*steps, strict=True))

        ones = (1,) * spatial_dims
        self.encoder = nn.ModuleList(
            ConvStack(previous, here, kernel=kernel, stride=stride, style=style)
            for previous, here, kernel, stride in zip(
                (in_channels, *widths[:-1]), widths, sizes, (ones, *steps), strict=True
            )
        )
        self.ups = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for (below, here), kernel, stride in zip(
            pairwise(widths[::-1]), sizes[-2::-1], steps[::-1], strict=True
        ):
            self.ups.append(style.operators.conv_transpose(below, here, stride, stride))
            self.decoder.append(ConvStack(2 * here, here, kernel=kernel, style=style))

        num_heads = max(1, len(widths) - 2) if deep_supervision else 1
        self.heads = nn.ModuleList(
            style.operators.conv(here, out_channels, 1) for here in widths[:num_heads]
        )
        totals = accumulate(steps, lambda total, step: _times(total, step), initial=ones)
        self.scales = list(totals)[:num_heads]
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 2 channels, six stages, four heads."""
        return cls(1, 2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths, strides and kernels of the plan."""
        return {
            "width": topology.width,
            "max_width": topology.max_width,
            "strides": topology.strides,
            "kernels": topology.kernels,
        }

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the image; see the class for the list while training."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()  # the bottleneck is x itself

        features = []
        for up, fuse in zip(self.ups, self.decoder, strict=True):
            x = fuse(torch.cat([up(x), skips.pop()], dim=1))
            features.append(x)

        if self.training and self.deep_supervision:
            finest_first = features[::-1][: len(self.heads)]
            return [
                crop(head(feature), size, scale)
                for head, feature, scale in zip(self.heads, finest_first, self.scales, strict=True)
            ]
        return crop(self.heads[0](x), size)


def _times(total: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a * b for a, b in zip(total, step, strict=True))
