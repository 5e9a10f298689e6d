"""U-Net of multi-resolution blocks, with residual paths in place of plain skips.

Reference:
    Ibtehaz and Rahman, "MultiResUNet: rethinking the U-Net architecture for multimodal
    biomedical image segmentation", Neural Networks 121, 2020. arXiv:1902.04049

The widths of a block are rounded down, as published. The normalization of the released code
after the head is left out, and its normalizations without a learned scale have one here.
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

SHARES = (0.167, 0.333, 0.5)
"""Of a block's width, what each of its three convolutions gets."""

FACTOR = 1.67
"""Width of a block for the nominal width of its stage."""


@NETWORKS.register(
    "multiresunet",
    title="MultiResUNet",
    year=2020,
    paper="1902.04049",
    dims=(2, 3),
    parameters=7_244_774,
)
class MultiResUNet(nn.Module):
    """Three chained convolutions per block, all kept; residual convolutions on every skip.

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
        max_width: int = 512,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("multiresunet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.encoder = nn.ModuleList()
        before = in_channels
        for here in stages.widths:
            self.encoder.append(MultiRes(before, here, style=style))
            before = MultiRes.channels_of(here)
        self.pools = stages.pools(style)
        self.paths, self.ups, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for depth, (below, here) in enumerate(pairwise(stages.widths[::-1]), start=1):
            step = stages.steps[-depth]
            channels = MultiRes.channels_of(below)
            self.ups.append(style.operators.conv_transpose(channels, here, step, step))
            self.paths.append(_path(MultiRes.channels_of(here), here, depth, style))
            self.decoder.append(MultiRes(2 * here, here, style=style))
        finest = MultiRes.channels_of(stages.widths[0])
        self.head = style.operators.conv(finest, out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published two-dimensional network, 3 -> 1 channels."""
        return cls(3, 1, norm="batch", spatial_dims=2)

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
        for up, path, fuse in zip(self.ups, self.paths, self.decoder, strict=True):
            x = fuse(torch.cat([up(x), path(skips.pop())], dim=1))
        return crop(self.head(x), size)


class MultiRes(nn.Module):
    """Convolutions one after the other, all outputs joined, plus a pointwise shortcut.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, channels_of(width), *sp)``
    """

    def __init__(self, in_channels: int, width: int, *, style: Style) -> None:
        super().__init__()
        widths = self.parts_of(width)
        total = sum(widths)
        self.convs = nn.ModuleList(
            ConvNormAct(before, here, bias=False, style=style)
            for before, here in pairwise((in_channels, *widths))
        )
        self.joined = style.make_norm(total)
        self.shortcut = ConvNormAct(
            in_channels, total, kernel=1, bias=False, act=False, style=style
        )
        self.act = nn.ReLU()
        self.norm = style.make_norm(total)

    @staticmethod
    def parts_of(width: int) -> tuple[int, ...]:
        """Channels of the three convolutions.

        Examples:
            >>> MultiRes.parts_of(32)
            (8, 17, 26)
        """
        return tuple(max(1, int(FACTOR * width * share)) for share in SHARES)

    @classmethod
    def channels_of(cls, width: int) -> int:
        """Channels that a block of that nominal width gives."""
        return sum(cls.parts_of(width))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve three times, join, add, normalize."""
        outputs, last = [], x
        for conv in self.convs:
            last = conv(last)
            outputs.append(last)
        joined = self.joined(torch.cat(outputs, dim=1))
        total: Tensor = self.norm(self.act(joined + self.shortcut(x)))
        return total


class ResidualConv(nn.Module):
    """A convolution plus a pointwise one, activated, normalized."""

    def __init__(self, in_channels: int, out_channels: int, *, style: Style) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, out_channels, bias=False, style=style)
        self.shortcut = ConvNormAct(
            in_channels, out_channels, kernel=1, bias=False, act=False, style=style
        )
        self.act = nn.ReLU()
        self.norm = style.make_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, add, normalize."""
        total: Tensor = self.norm(self.act(self.conv(x) + self.shortcut(x)))
        return total


def _path(in_channels: int, channels: int, length: int, style: Style) -> nn.Sequential:
    """Residual convolutions that bring a skip nearer to what the decoder has."""
    ends = pairwise((in_channels, *(channels,) * length))
    return nn.Sequential(*(ResidualConv(before, here, style=style) for before, here in ends))
