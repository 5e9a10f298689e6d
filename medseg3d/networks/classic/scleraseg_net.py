"""U-Net on VGG-16 with an attention module at the bottom.

Reference:
    Wang et al., "ScleraSegNet: an improved U-Net model with attention for accurate sclera
    segmentation", ICB 2019. https://doi.org/10.1109/ICB45273.2019.8987270
"""

from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvNormAct, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.vgg import vgg_stages

Attention = Literal["cbam", "bam", "cam", "sam"]
DILATION = 4


@NETWORKS.register(
    "scleraseg_net",
    title="ScleraSegNet",
    year=2019,
    paper="10.1109/ICB45273.2019.8987270",
    dims=(2, 3),
    parameters=23_626_500,
)
class ScleraSegNet(nn.Module):
    """The bottom joins its features with what attention leaves of them.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        attention: Per channel ``"cam"``, per voxel ``"sam"``, both added ``"bam"`` or one after
            the other ``"cbam"``, which was best.
        width: Feature channels of the finest stage.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of 16 need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If the attention is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        attention: Attention = "cbam",
        width: int = 32,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        self.divisor = (16,) * spatial_dims
        pools = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
        self.encoder = vgg_stages(in_channels, width, style=style)
        self.pool = pools[spatial_dims](2, 2)
        self.bottom_pool = pools[spatial_dims](3, 1, 1)
        deepest = 8 * width
        self.attention = _ATTENTION.get(attention, _unknown)(deepest, style)
        self.bottom = _pair(2 * deepest, deepest, 4 * width, style)
        self.up = linear_upsampling((2,) * spatial_dims)
        skips = (8 * width, 4 * width, 2 * width)
        self.decoder = nn.ModuleList(
            _pair(skip + skip // 2, skip // 2, skip // 4, style) for skip in skips
        )
        half = width // 2 or 1
        self.last = ConvNormAct(width + half, half, style=style)
        self.head = style.operators.conv(half, out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The best published network, 3 -> 1 channels, in two dimensions."""
        return cls(3, 1, width=64, norm="batch", spatial_dims=2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        skips = []
        for stage in self.encoder[:-1]:
            skips.append(stage(x))
            x = self.pool(skips[-1])
        x = self.bottom_pool(self.encoder[-1](x))
        x = self.bottom(torch.cat([x, self.attention(x)], dim=1))
        for fuse in (*self.decoder, self.last):
            x = fuse(torch.cat([self.up(x), skips.pop()], dim=1))
        return crop(self.head(x), size)


class ChannelLogits(nn.Module):
    """One number per channel from the mean of all voxels, on demand from their maximum too."""

    def __init__(self, channels: int, style: Style, *, maximum: bool = False) -> None:
        super().__init__()
        # one value per channel and case has nothing to be normalized by but other cases
        single = style if style.norm == "batch" else _without_norm(style)
        self.mlp = nn.Sequential(
            ConvNormAct(channels, channels // 2, kernel=1, style=single),
            style.operators.conv(channels // 2, channels, 1),
        )
        self.maximum = maximum

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, 1, ...)``."""
        axes = tuple(range(2, x.ndim))
        logits: Tensor = self.mlp(x.mean(axes, keepdim=True))
        return logits + self.mlp(x.amax(axes, keepdim=True)) if self.maximum else logits


class VoxelLogits(nn.Sequential):
    """One number per voxel, from dilated convolutions."""

    def __init__(self, channels: int, style: Style) -> None:
        half, conv = channels // 2, style.operators.conv
        layers: list[nn.Module] = [ConvNormAct(channels, half, kernel=1, style=style)]
        for _ in range(2):
            layers += [
                conv(half, half, 3, padding=DILATION, dilation=DILATION),
                style.make_norm(half),
                style.make_activation(half),
            ]
        super().__init__(*layers, conv(half, 1, 1))


class Weighted(nn.Module):
    """Features times the logistic function of a sum of logits."""

    def __init__(self, *logits: nn.Module) -> None:
        super().__init__()
        self.logits = nn.ModuleList(logits)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh."""
        total = self.logits[0](x)
        for more in self.logits[1:]:
            total = total + more(x)
        weighted: Tensor = x * torch.sigmoid(total)
        return weighted


class ExtremesLogits(nn.Module):
    """One number per voxel, from the mean and the maximum over the channels around it."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.conv = style.operators.conv(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 1, *sp)``."""
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        logits: Tensor = self.conv(both)
        return logits


def _cbam(channels: int, style: Style) -> nn.Module:
    return nn.Sequential(
        Weighted(ChannelLogits(channels, style, maximum=True)), Weighted(ExtremesLogits(style))
    )


_ATTENTION: dict[str, Callable[[int, Style], nn.Module]] = {
    "cbam": _cbam,
    "bam": lambda c, style: Weighted(ChannelLogits(c, style), VoxelLogits(c, style)),
    "cam": lambda c, style: Weighted(ChannelLogits(c, style)),
    "sam": lambda c, style: Weighted(VoxelLogits(c, style)),
}


def _unknown(_channels: int, _style: Style) -> nn.Module:
    raise ConfigError(f"scleraseg_net: attention must be one of {', '.join(_ATTENTION)}")


def _without_norm(style: Style) -> Style:
    return Style(norm="none", activation=style.activation, spatial_dims=style.spatial_dims)


def _pair(before: int, between: int, after: int, style: Style) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(before, between, style=style), ConvNormAct(between, after, style=style)
    )
