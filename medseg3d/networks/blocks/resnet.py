"""Encoders of residual networks: plain blocks, or bottlenecks with dilation.

Reference:
    He et al., "Deep residual learning for image recognition", CVPR 2016. arXiv:1512.03385
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from medseg3d.networks.blocks.conv import ConvNormAct
from medseg3d.networks.blocks.style import Style

DEPTHS = (3, 4, 6, 3)
"""Blocks per stage, of the network of 34 layers and of that of 50."""

EXPANSION = 4
"""Channels of a bottleneck's output, as a multiple of those inside."""

MULTI_GRID = (4, 8, 16)
"""Dilations of the last blocks of a dilated network."""


class BasicBlock(nn.Module):
    """Two convolutions added to their input, which is projected where its shape changes.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp / stride)``
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, style: Style
    ) -> None:
        super().__init__()
        first = ConvNormAct(in_channels, out_channels, stride=stride, bias=False, style=style)
        second = ConvNormAct(out_channels, out_channels, bias=False, act=False, style=style)
        self.convs = nn.Sequential(first, second)
        same = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else ConvNormAct(
                in_channels,
                out_channels,
                kernel=1,
                stride=stride,
                bias=False,
                act=False,
                style=style,
            )
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, add, activate."""
        total: Tensor = self.act(self.convs(x) + self.shortcut(x))
        return total


class ResNetEncoder(nn.Module):
    """Stem and four stages, of strides 4, 8, 16 and 32.

    Args:
        in_channels: Image channels.
        width: Channels of the stem and of the first stage; each other has twice as many.
        depths: Blocks per stage.
        style: Normalization and activation.

    Shape:
        - input: ``(B, C, *sp)``
        - output: four features ``(B, width * 2**n, *sp / 2**(n + 2))``, finest first
    """

    def __init__(
        self, in_channels: int, width: int, *, depths: Sequence[int] = DEPTHS, style: Style
    ) -> None:
        super().__init__()
        pools = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
        self.stem = nn.Sequential(
            OrderedDict(
                conv=ConvNormAct(in_channels, width, kernel=7, stride=2, bias=False, style=style),
                pool=pools[style.spatial_dims](3, 2, 1),
            )
        )
        self.stages = nn.ModuleList()
        before = width
        for place, depth in enumerate(depths):
            here = width * 2**place
            blocks = [BasicBlock(before, here, stride=2 if place else 1, style=style)]
            blocks += [BasicBlock(here, here, style=style) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            before = here

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of all stages."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Bottleneck(nn.Module):
    """Pointwise, three voxels per axis, pointwise; added to the input, projected where needed.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, 4 * inner, *sp / stride)``
    """

    def __init__(
        self, in_channels: int, inner: int, *, stride: int = 1, dilation: int = 1, style: Style
    ) -> None:
        super().__init__()
        outer = EXPANSION * inner
        middle = style.operators.conv(
            inner, inner, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.convs = nn.Sequential(
            ConvNormAct(in_channels, inner, kernel=1, bias=False, style=style),
            nn.Sequential(middle, style.make_norm(inner), nn.ReLU()),
            ConvNormAct(inner, outer, kernel=1, bias=False, act=False, style=style),
        )
        same = in_channels == outer and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else ConvNormAct(
                in_channels, outer, kernel=1, stride=stride, bias=False, act=False, style=style
            )
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, add, activate."""
        total: Tensor = self.act(self.convs(x) + self.shortcut(x))
        return total


class DilatedResNet(nn.Sequential):
    """ResNet-50 whose last two stages dilate instead of striding.

    Args:
        in_channels: Image channels.
        width: Channels of the stem; the output has 32 times as many.
        depths: Blocks per stage.
        style: Normalization.

    Shape:
        - input: ``(B, C, *sp)``
        - output: ``(B, 32 * width, *sp / 8)``

    References:
        Chen et al., "Rethinking atrous convolution for semantic image segmentation", 2017.
        arXiv:1706.05587
    """

    def __init__(
        self, in_channels: int, width: int, *, depths: Sequence[int] = DEPTHS, style: Style
    ) -> None:
        pools = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
        stem = ConvNormAct(in_channels, width, kernel=7, stride=2, bias=False, style=style)
        blocks: list[nn.Module] = [stem, pools[style.spatial_dims](3, 2, 1)]
        before = width
        for stage, (depth, dilation) in enumerate(zip(depths, (1, 1, 2, 4), strict=True)):
            inner = width * 2**stage
            for place in range(depth):
                last = stage == len(depths) - 1
                blocks.append(
                    Bottleneck(
                        before,
                        inner,
                        stride=2 if stage == 1 and place == 0 else 1,
                        dilation=MULTI_GRID[place % len(MULTI_GRID)] if last else dilation,
                        style=style,
                    )
                )
                before = EXPANSION * inner
        super().__init__(*blocks)
