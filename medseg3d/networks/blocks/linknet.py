"""Decoder block that upsamples in a quarter of the channels.

Reference:
    Chaurasia and Culurciello, "LinkNet", VCIP 2017. arXiv:1707.03718
"""

from collections import OrderedDict

from torch import nn

from medseg3d.networks.blocks.conv import ConvNormAct
from medseg3d.networks.blocks.style import Style


class LinkUp(nn.Sequential):
    """Pointwise convolution, transposed convolution that doubles the size, pointwise again.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp * 2)``
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, style: Style) -> None:
        inner = max(1, in_channels // 4)
        up = style.operators.conv_transpose(inner, inner, kernel, 2, 1, kernel % 2)
        super().__init__(
            OrderedDict(
                squeeze=ConvNormAct(in_channels, inner, kernel=1, style=style),
                up=up,
                norm=style.make_norm(inner),
                act=nn.ReLU(),
                widen=ConvNormAct(inner, out_channels, kernel=1, style=style),
            )
        )
