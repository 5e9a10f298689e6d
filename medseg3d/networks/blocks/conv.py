"""Convolution, normalization and activation, in the orders networks use them."""

from collections import OrderedDict

from torch import Tensor, nn

from medseg3d.networks.blocks.dimensions import Size, per_axis
from medseg3d.networks.blocks.style import Style


class ConvNormAct(nn.Sequential):
    """Convolution, dropout, normalization and, unless ``act`` is off, activation.

    Padding is ``(kernel - 1) // 2``: odd kernels keep the size, and ``kernel == stride``
    tiles the input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Kernel size, one for all axes or per axis.
        stride: Stride, one for all axes or per axis.
        bias: Whether the convolution has a bias.
        act: Whether the activation is applied.
        dropout: Share of the convolved values set to zero while training.
        style: Normalization and activation.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp / stride)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Size = 3,
        stride: Size = 1,
        bias: bool = True,
        act: bool = True,
        dropout: float = 0.0,
        style: Style,
    ) -> None:
        parts = OrderedDict(conv=_conv(in_channels, out_channels, kernel, stride, bias, style))
        if dropout:
            parts["dropout"] = nn.Dropout(dropout)
        parts["norm"] = style.make_norm(out_channels)
        if act:
            parts["act"] = style.make_activation(out_channels, inplace=True)
        super().__init__(parts)


class ConvStack(nn.Sequential):
    """``depth`` times :class:`ConvNormAct`; the first changes the channels and the size.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp / stride)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 2,
        kernel: Size = 3,
        stride: Size = 1,
        style: Style,
    ) -> None:
        first = ConvNormAct(in_channels, out_channels, kernel=kernel, stride=stride, style=style)
        rest = [
            ConvNormAct(out_channels, out_channels, kernel=kernel, style=style)
            for _ in range(depth - 1)
        ]
        super().__init__(first, *rest)


class UpNormAct(nn.Sequential):
    """Transposed convolution whose kernel is its stride, normalization, activation.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp * stride)``
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: Size, style: Style) -> None:
        step = per_axis(stride, style.spatial_dims)
        parts = OrderedDict(
            conv=style.operators.conv_transpose(in_channels, out_channels, step, step),
            norm=style.make_norm(out_channels),
            act=style.make_activation(out_channels, inplace=True),
        )
        super().__init__(parts)


class NormAct(nn.Sequential):
    """Normalization and activation.

    Shape:
        - input and output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        fresh = style.norm != "none"
        parts = OrderedDict(
            norm=style.make_norm(channels), act=style.make_activation(channels, inplace=fresh)
        )
        super().__init__(parts)


class NormActConv(nn.Sequential):
    """Pre-activation: normalization, activation, convolution.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp / stride)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Size = 3,
        stride: Size = 1,
        bias: bool = False,
        style: Style,
    ) -> None:
        conv = _conv(in_channels, out_channels, kernel, stride, bias, style)
        super().__init__(OrderedDict(before=NormAct(in_channels, style=style), conv=conv))


class ResidualStage(nn.Module):
    """``depth`` convolutions; their input is added before the last activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        depth: Number of convolutions.
        kernel: Kernel size, one for all axes or per axis.
        shortcut: What brings the input to ``out_channels``; without it they must agree.
        style: Normalization and activation.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int,
        kernel: Size = 3,
        shortcut: nn.Module | None = None,
        style: Style,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for place in range(depth):
            self.convs.append(
                ConvNormAct(
                    in_channels if place == 0 else out_channels,
                    out_channels,
                    kernel=kernel,
                    act=place < depth - 1,
                    style=style,
                )
            )
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.act = style.make_activation(out_channels, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, add the shortcut, activate."""
        total: Tensor = self.act(self.convs(x) + self.shortcut(x))
        return total


def _conv(
    in_channels: int, out_channels: int, kernel: Size, stride: Size, bias: bool, style: Style
) -> nn.Module:
    kernel = per_axis(kernel, style.spatial_dims)
    return style.operators.conv(
        in_channels,
        out_channels,
        kernel,
        per_axis(stride, style.spatial_dims),
        padding=tuple((edge - 1) // 2 for edge in kernel),
        bias=bias,
    )
