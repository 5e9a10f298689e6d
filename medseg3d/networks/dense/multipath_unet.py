"""One encoder for each image channel, all of which read each other.

References:
    Dolz et al., "Dense multi-path U-Net for ischemic stroke lesion segmentation in multiple
    image modalities", BrainLes 2018. arXiv:1810.07003
    Dolz et al., "IVD-Net", 2018. arXiv:1811.08305, the same design with released code.

The released code cuts the middle out of what an encoder read before; here it is pooled, so that
it stays where it was.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvNormAct, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages, Step, listed
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

BRANCHES = ((1, 1), (3, 1), (5, 1), (3, 2), (3, 4))
"""Kernel and dilation of each branch of a block."""


@NETWORKS.register(
    "dense_multipath_unet",
    title="Dense Multi-path U-Net",
    year=2018,
    paper="1810.07003",
    dims=(2, 3),
    parameters=54_313_954,
)
class DenseMultipathUNet(nn.Module):
    """Encoders of single channels with links between them, one decoder, averaged skips.

    Args:
        in_channels: Image channels ``C``, each of which gets an encoder.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels of a stage.
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
        width: int = 8,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("dense_multipath_unet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.in_channels = in_channels
        self.encoders = nn.ModuleList()  # one list of paths per stage
        read = 1
        for stage, here in enumerate(stages.widths[:-1]):
            self.encoders.append(
                nn.ModuleList(
                    InceptionBlock(read, here, factorized=True, style=style)
                    for _ in range(in_channels)
                )
            )
            read = in_channels * here + (read if stage else 0)
        self.bottom = InceptionBlock(read, stages.widths[-1], factorized=True, style=style)
        self.pools = stages.pools(style)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for (below, here), step in zip(
            pairwise(stages.widths[::-1]), stages.steps[::-1], strict=True
        ):
            self.ups.append(_up(below, here, step, style))
            self.decoder.append(InceptionBlock(here, here, factorized=False, style=style))
        self.head = style.operators.conv(stages.widths[0], out_channels, 3, padding=1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """Four modalities -> 2 channels, in two dimensions."""
        return cls(4, 2, width=32, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, a quarter of its widths."""
        return topology.unet_options(share=0.25)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        reads = list(x.chunk(self.in_channels, dim=1))  # what each path reads
        skips: list[list[Tensor]] = []
        for stage, (paths, pool) in enumerate(zip(self.encoders, self.pools, strict=True)):
            skips.append([path(read) for path, read in zip(listed(paths), reads, strict=True)])
            given = [pool(features) for features in skips[-1]]
            before = [[pool(read)] if stage else [] for read in reads]
            reads = [
                torch.cat([*given[own:], *given[:own], *before[own]], dim=1)  # its own first
                for own in range(len(given))
            ]
        x = self.bottom(reads[0])
        for up, block in zip(self.ups, self.decoder, strict=True):
            joined = [up(x), *skips.pop()]
            x = block(torch.stack(joined).mean(0))
        return crop(self.head(x), size)


class InceptionBlock(nn.Module):
    """Five kernels side by side, two of them dilated, between two convolutions.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        factorized: Whether each kernel is a line along each axis, one after the other.
        style: Normalization and activation.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, factorized: bool, style: Style
    ) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, style=style)
        self.branches = nn.ModuleList(
            _lines(out_channels, edge, dilation, style)
            if factorized
            else _dilated(out_channels, (edge,) * style.spatial_dims, dilation, style)
            for edge, dilation in BRANCHES
        )
        self.fuse = ConvNormAct(len(BRANCHES) * out_channels, out_channels, kernel=1, style=style)
        self.last = ConvNormAct(out_channels, out_channels, style=style)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, look around, add, convolve."""
        x = self.first(x)
        seen = torch.cat([branch(x) for branch in self.branches], dim=1)
        result: Tensor = self.last(self.fuse(seen) + x)
        return result


def _lines(channels: int, edge: int, dilation: int, style: Style) -> nn.Module:
    dims = style.spatial_dims
    kernels = (tuple(edge if each == axis else 1 for each in range(dims)) for axis in range(dims))
    return nn.Sequential(*(_dilated(channels, kernel, dilation, style) for kernel in kernels))


def _dilated(channels: int, kernel: Step, dilation: int, style: Style) -> nn.Module:
    padding = tuple(dilation * (edge - 1) // 2 for edge in kernel)
    conv = style.operators.conv(channels, channels, kernel, padding=padding, dilation=dilation)
    return nn.Sequential(
        OrderedDict(
            conv=conv,
            norm=style.make_norm(channels),
            act=style.make_activation(channels, inplace=True),
        )
    )


def _up(in_channels: int, out_channels: int, step: Step, style: Style) -> nn.Module:
    """Transposed convolution of three voxels per axis whose output is ``step`` times as large."""
    more = tuple(edge - 1 for edge in step)
    return nn.Sequential(
        OrderedDict(
            conv=style.operators.conv_transpose(in_channels, out_channels, 3, step, 1, more),
            norm=style.make_norm(out_channels),
            act=style.make_activation(out_channels, inplace=True),
        )
    )
