"""Residual encoder and light decoder whose skips are weighted by channel attention.

Reference:
    Ni et al., "RAUNet: residual attention U-Net for semantic segmentation of cataract surgical
    instruments", ICONIP 2019. arXiv:1909.10360

The convolutions of the released head are not padded; here they keep the size. Weights learned
on photographs are not loaded.
"""

from itertools import pairwise
from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvNormAct, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.linknet import LinkUp
from medseg3d.networks.blocks.resnet import ResNetEncoder
from medseg3d.networks.blocks.style import Norm


@NETWORKS.register(
    "raunet", title="RAUNet", year=2019, paper="1909.10360", dims=(2, 3), parameters=22_143_265
)
class RAUNet(nn.Module):
    """ResNet-34, LinkNet decoder, augmented attention modules on the skips.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the stem; the coarsest stage has eight times as many.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of 32 need no padding
        - output: ``(B, L, *sp)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        self.divisor = (32,) * spatial_dims
        conv, up = style.operators.conv, style.operators.conv_transpose
        self.encoder = ResNetEncoder(in_channels, width, style=style)
        ends = (8 * width, 4 * width, 2 * width, width, width)
        self.decoder = nn.ModuleList(
            LinkUp(before, after, kernel=4, style=style) for before, after in pairwise(ends)
        )
        self.gates = nn.ModuleList(AugmentedAttention(n, style=style) for n in ends[1:4])
        half = max(1, width // 2)
        self.last_up = nn.Sequential(up(width, half, 3, 2, 1, 1), nn.ReLU())
        self.last = nn.Sequential(conv(half, half, 3, padding=1), nn.ReLU())
        self.head = conv(half, out_channels, 2)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 1 channels, in two dimensions."""
        return cls(3, 1, width=64, norm="batch", spatial_dims=2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        features = self.encoder(pad_to_multiple(x, self.divisor))
        x = features.pop()
        for up, gate in zip(self.decoder, self.gates, strict=False):
            x = gate(up(x), features.pop())
        x = self.last(self.last_up(self.decoder[-1](x)))
        x = functional.pad(x, (0, 1) * len(size), mode="replicate")
        return crop(self.head(x), size)


class AugmentedAttention(nn.Module):
    """Encoder features weighted by channel and added to those of the decoder.

    Shape:
        - decoded, encoded and output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        # one value per channel and case has nothing to be normalized by but other cases
        single = (
            style
            if style.norm == "batch"
            else Style(norm="none", activation=style.activation, spatial_dims=style.spatial_dims)
        )
        self.encoded_mean = ConvNormAct(channels, channels, kernel=1, style=single)
        self.decoded_mean = ConvNormAct(channels, channels, kernel=1, style=single)
        self.weight = style.operators.conv(channels, channels, 1)
        self.encoded = ConvNormAct(channels, channels, kernel=1, style=style)

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """Weigh and add."""
        axes = tuple(range(2, decoded.ndim))
        means = self.encoded_mean(encoded.mean(axes, keepdim=True)) + self.decoded_mean(
            decoded.mean(axes, keepdim=True)
        )
        total: Tensor = decoded + self.encoded(encoded) * self.weight(means).softmax(dim=1)
        return total
