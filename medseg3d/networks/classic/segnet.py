"""Encoder and mirrored decoder that remembers where each maximum was.

Reference:
    Badrinarayanan et al., "SegNet: a deep convolutional encoder-decoder architecture for image
    segmentation", IEEE TPAMI 39(12), 2017. arXiv:1511.00561
"""

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvNormAct, ConvStack, Style, crop, he_initialize
from medseg3d.networks.blocks.sizes import pad_to_multiple
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.unpooling import max_pool, max_unpool
from medseg3d.networks.blocks.vgg import DEPTHS, vgg_stages, vgg_widths
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "segnet", title="SegNet", year=2017, paper="1511.00561", dims=(2, 3), parameters=29_449_355
)
class SegNet(nn.Module):
    """VGG-16 convolutions; upsampling puts values back where pooling found them.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage.
        strides: Of the five poolings, one integer or one per axis.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there are not five strides, or one does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        if len(strides) != len(DEPTHS):
            raise ConfigError(f"segnet needs {len(DEPTHS)} strides, got {len(strides)}")
        stages = Stages.of("segnet", width, width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.steps = stages.steps
        self.encoder = vgg_stages(in_channels, width, style=style)
        widths = vgg_widths(width)
        self.decoder = nn.ModuleList()
        for depth, here, above in zip(DEPTHS[:0:-1], widths[:0:-1], widths[-2::-1], strict=True):
            same = ConvStack(here, here, depth=depth - 1, style=style)
            self.decoder.append(nn.Sequential(same, ConvNormAct(here, above, style=style)))
        self.decoder.append(ConvStack(width, width, depth=1, style=style))
        self.head = style.operators.conv(width, out_channels, 3, padding=1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 11 channels, in two dimensions."""
        return cls(3, 11, width=64, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """The plan's strides, five of them; lacking ones are 1."""
        return {"strides": topology.first_strides(len(DEPTHS))}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        places = []
        for stage, step in zip(self.encoder, self.steps, strict=True):
            x, place = max_pool(stage(x), step)
            places.append(place)
        for stage, step in zip(self.decoder, self.steps[::-1], strict=True):
            x = stage(max_unpool(x, places.pop(), step))
        return crop(self.head(x), size)
