"""Convolutions applied again and again to their own output plus the input."""

from torch import Tensor, nn

from medseg3d.networks.blocks.conv import ConvNormAct
from medseg3d.networks.blocks.style import Style


class RecurrentConv(nn.Module):
    """One convolution, ``steps`` more times on the input plus what it gave.

    Shape:
        - input and output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, steps: int = 2, style: Style) -> None:
        super().__init__()
        self.conv = ConvNormAct(channels, channels, style=style)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """Convolve again and again."""
        state: Tensor = self.conv(x)
        for _ in range(self.steps):
            state = self.conv(x + state)
        return state


class RecurrentResidual(nn.Module):
    """A pointwise convolution plus two recurrent convolutions of its output.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp)``

    References:
        Alom et al., "Recurrent residual convolutional neural network based on U-Net", 2018.
        arXiv:1802.06955
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, steps: int = 2, style: Style
    ) -> None:
        super().__init__()
        self.project = style.operators.conv(in_channels, out_channels, 1)
        self.recurrent = nn.Sequential(
            *(RecurrentConv(out_channels, steps=steps, style=style) for _ in range(2))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Project, convolve, add."""
        x = self.project(x)
        total: Tensor = x + self.recurrent(x)
        return total
