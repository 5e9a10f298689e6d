"""Densely connected blocks: every layer reads the outputs of all layers before it.

Reference:
    Huang et al., "Densely Connected Convolutional Networks", CVPR 2017. arXiv:1608.06993
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from medseg3d.networks.blocks.conv import NormActConv
from medseg3d.networks.blocks.dimensions import Size, per_axis
from medseg3d.networks.blocks.style import Style

BOTTLENECK = 4
"""Channels of a layer's 1x1 convolution, as a multiple of the growth."""


class DenseBlock(nn.Module):
    """``depth`` layers; each appends ``growth`` channels to what it reads.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, in_channels + depth * growth, *sp)``, the input first
    """

    def __init__(self, in_channels: int, *, depth: int, growth: int, style: Style) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for width in range(in_channels, in_channels + depth * growth, growth):
            squeeze = NormActConv(width, BOTTLENECK * growth, kernel=1, style=style)
            grow = NormActConv(BOTTLENECK * growth, growth, kernel=3, style=style)
            self.layers.append(nn.Sequential(squeeze, grow))

    def forward(self, x: Tensor) -> Tensor:
        """Append the output of each layer."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class DenseTransition(nn.Sequential):
    """Pre-activated 1x1 convolution, then average pooling whose kernel is its stride.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp / stride)``
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: Size, style: Style) -> None:
        conv = NormActConv(in_channels, out_channels, kernel=1, style=style)
        pool = style.operators.average_pool(per_axis(stride, style.spatial_dims))
        super().__init__(OrderedDict(conv=conv, pool=pool))
