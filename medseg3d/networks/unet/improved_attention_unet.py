"""Attention U-Net that sees smaller copies of the image and is supervised at every scale.

Reference:
    Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for
    lesion segmentation", ISBI 2019. arXiv:1810.07842

The released code gives the third gate the signal of the second by mistake; here it gets its
own. With ``focal_tversky`` it learns as published, the finest scale by the plain Tversky loss.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    ConvStack,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.style import Norm


@NETWORKS.register(
    "improved_attention_unet",
    title="Improved Attention U-Net",
    year=2019,
    paper="1810.07842",
    dims=(2, 3),
    outputs="logits of each scale",
    parameters=5_671_111,
)
class ImprovedAttentionUNet(nn.Module):
    """Image pyramid into the encoder, grid attention on three skips, a head at four scales.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage.
        deep_supervision: While training, return logits of all four scales, finest first.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of 16 need no padding
        - output: ``(B, L, *sp)``; while training with deep supervision a list of them, of size
          ``ceil(sp / 2**n)``
    """

    level_decay = 1.0
    finest_apart = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        deep_supervision: bool = True,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        self.divisor = (16,) * spatial_dims
        self.deep_supervision = deep_supervision
        operators = style.operators
        self.pool, self.shrink = operators.max_pool(2, 2), operators.average_pool(2)
        seen = [2 * width, 4 * width, 8 * width]  # channels of the smaller images
        ends = [width, 2 * width, 4 * width, 2 * width]  # channels of the stages
        inputs = [in_channels, *(a + b for a, b in zip(seen, ends[:-1], strict=True))]
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style) for before, here in zip(inputs, ends, strict=True)
        )
        self.pyramid = nn.ModuleList(
            operators.conv(in_channels, channels, 3, padding=1) for channels in seen
        )
        self.bottom = ConvStack(ends[-1], 16 * width, style=style)
        raised = [width, 2 * width, width, width]  # channels of the upsampled features
        decoded = [a + b for a, b in zip(raised, ends[::-1], strict=True)]
        self.ups = nn.ModuleList(
            operators.conv_transpose(before, here, 3, 2, 1, 1)
            for before, here in zip([16 * width, *decoded[:-1]], raised, strict=True)
        )
        self.signals = nn.ModuleList(
            ConvNormAct(channels, channels, kernel=1, style=style)
            for channels in (16 * width, *decoded[:2])
        )
        self.gates = nn.ModuleList(
            GridGate(skip, signal, inner, style=style)
            for skip, signal, inner in zip(
                ends[:0:-1],
                (16 * width, *decoded[:2]),
                (4 * width, 2 * width, width),
                strict=True,
            )
        )
        last = [8 * width, 4 * width, 2 * width, width]
        self.last = nn.ModuleList(
            ConvStack(before, here, style=style) for before, here in zip(decoded, last, strict=True)
        )
        self.heads = nn.ModuleList(operators.conv(here, out_channels, 1) for here in last)
        if not deep_supervision:
            self.last, self.heads = self.last[-1:], self.heads[-1:]
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 1 channels, in two dimensions."""
        return cls(3, 1, width=32, norm="batch", spatial_dims=2)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the image; see the class for the list while training."""
        size = x.shape[2:]
        smaller = pad_to_multiple(x, self.divisor)
        skips = [self.encoder[0](smaller)]
        for look, stage in zip(self.pyramid, self.encoder[1:], strict=True):
            smaller = self.shrink(smaller)
            seen = look(smaller).relu()
            skips.append(stage(torch.cat([seen, self.pool(skips[-1])], dim=1)))
        x = self.bottom(self.pool(skips[-1]))
        decoded = []
        for place, up in enumerate(self.ups):
            skip = skips.pop()
            if place < len(self.gates):
                skip = self.gates[place](skip, self.signals[place](x))
            x = torch.cat([up(x).relu(), skip], dim=1)
            decoded.append(x)
        if self.training and self.deep_supervision:
            logits = [
                head(last(each))
                for head, last, each in zip(self.heads, self.last, decoded, strict=True)
            ]
            return [
                crop(each, size, (2**scale,) * len(size)) for scale, each in enumerate(logits[::-1])
            ]
        return crop(self.heads[-1](self.last[-1](x)), size)


class GridGate(nn.Module):
    """Additive attention steered by features of half the resolution.

    Shape:
        - skip: ``(B, channels, *sp)``
        - signal: ``(B, signal_channels, *sp / 2)``
        - output: ``(B, channels, *sp)``

    References:
        Oktay et al., "Attention U-Net", MIDL 2018. arXiv:1804.03999
    """

    def __init__(self, channels: int, signal_channels: int, inner: int, *, style: Style) -> None:
        super().__init__()
        conv = style.operators.conv
        self.skip = conv(channels, inner, 2, 2)
        self.signal = nn.Sequential(
            conv(signal_channels, inner, 1),
            style.operators.conv_transpose(inner, inner, 3, 1, 1),
        )
        self.weight = conv(inner, 1, 1)
        self.last = ConvNormAct(channels, channels, kernel=1, act=False, style=style)

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        """Weigh the skip."""
        weight = self.weight((self.skip(skip) + self.signal(signal)).relu()).sigmoid()
        weighted: Tensor = self.last(skip * functional.interpolate(weight, scale_factor=2.0))
        return weighted
