"""Dilated residual encoder with attention over positions and over channels, added.

Reference:
    Fu et al., "Dual attention network for scene segmentation", CVPR 2019. arXiv:1809.02983

Weights learned on photographs are not loaded. The attention over positions takes memory for the
square of the number of voxels at an eighth of the resolution.
"""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvNormAct, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.attention import ChannelAttention, PositionAttention
from medseg3d.networks.blocks.resnet import DEPTHS, EXPANSION, DilatedResNet
from medseg3d.networks.blocks.stages import linear_upsampling
from medseg3d.networks.blocks.style import Norm

STRIDE = 8
DROPOUT = 0.1


@NETWORKS.register(
    "danet",
    title="DANet (dual attention)",
    year=2019,
    paper="1809.02983",
    dims=(2, 3),
    outputs="logits of either attention",
    parameters=47_462_651,
)
class DANet(nn.Module):
    """Logits of the sum of both attentions; while training, also of either.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the stem; the encoder ends with 32 times as many.
        depths: Blocks of the four stages of the encoder.
        deep_supervision: While training, return logits of the sum and of each attention.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of 8 need no padding
        - output: ``(B, L, *sp)``; while training with deep supervision a list of them

    Raises:
        ConfigError: If there are not four depths.
    """

    level_decay = 1.0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        depths: Sequence[int] = DEPTHS,
        deep_supervision: bool = True,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        if len(depths) != len(DEPTHS):
            raise ConfigError(f"danet needs {len(DEPTHS)} depths, got {len(depths)}")
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        self.divisor = (STRIDE,) * spatial_dims
        self.deep_supervision = deep_supervision
        self.encoder = DilatedResNet(in_channels, width, depths=depths, style=style)
        deepest = EXPANSION * width * 2 ** (len(depths) - 1)
        inner = deepest // 4

        def branch(attention: nn.Module) -> nn.Sequential:
            before = ConvNormAct(deepest, inner, bias=False, style=style)
            return nn.Sequential(
                before, attention, ConvNormAct(inner, inner, bias=False, style=style)
            )

        self.position = branch(PositionAttention(inner, style=style))
        self.channel = branch(ChannelAttention())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Dropout(DROPOUT), style.operators.conv(inner, out_channels, 1))
            for _ in range(3 if deep_supervision else 1)
        )
        self.up = linear_upsampling((STRIDE,) * spatial_dims)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """On ResNet-50, 3 -> 19 channels, in two dimensions."""
        return cls(3, 19, width=64, norm="batch", spatial_dims=2)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the image; see the class for the list while training."""
        size = x.shape[2:]
        x = self.encoder(pad_to_multiple(x, self.divisor))
        position, channel = self.position(x), self.channel(x)
        features = [position + channel]
        if self.training and self.deep_supervision:
            features += [position, channel]
        logits = [
            crop(self.up(head(each)), size)
            for head, each in zip(self.heads, features, strict=False)
        ]
        return logits if len(logits) > 1 else logits[0]
