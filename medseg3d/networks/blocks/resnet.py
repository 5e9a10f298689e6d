"""The encoder of a residual network of 34 layers.

Reference:
    He et al., "Deep residual learning for image recognition", CVPR 2016. arXiv:1512.03385
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from medseg3d.networks.blocks.conv import ConvNormAct
from medseg3d.networks.blocks.style import Style

DEPTHS = (3, 4, 6, 3)


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
