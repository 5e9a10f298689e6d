"""Residual blocks that can be computed backwards, so that their activations need not be kept.

Reference:
    Gomez et al., "The reversible residual network", NeurIPS 2017. arXiv:1707.04585
"""

from typing import Any

import torch
from torch import Tensor, nn

from medseg3d.networks.blocks.style import Style


class Coupling(nn.Module):
    """``y1 = x1 + F(x2)``, ``y2 = x2 + G(y1)`` of the two halves of the channels.

    ``F`` and ``G`` are a group normalization, a leaky ReLU and a convolution.

    Shape:
        - input and output: ``(B, channels, *sp)``, ``channels`` even
    """

    def __init__(self, channels: int, *, groups: int, style: Style) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.second = (_branch(half, groups, style) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Add to one half what follows from the other, twice."""
        first, second = x.chunk(2, dim=1)
        first = first + self.first(second)
        return torch.cat([first, second + self.second(first)], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """The input of an output."""
        first, second = y.chunk(2, dim=1)
        second = second - self.second(first)
        return torch.cat([first - self.first(second), second], dim=1)


class ReversibleSequence(nn.Module):
    """Couplings one after the other, of which only the last output is kept.

    Args:
        channels: Even number of channels.
        length: Number of couplings.
        groups: Groups of the normalization, as many as divide half of the channels.
        reversible: False to keep all activations.
        style: Dimensions and activation.

    Shape:
        - input and output: ``(B, channels, *sp)``
    """

    def __init__(
        self, channels: int, length: int, *, groups: int, reversible: bool = True, style: Style
    ) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(
            Coupling(channels, groups=groups, style=style) for _ in range(length)
        )
        self.reversible = reversible

    def forward(self, x: Tensor) -> Tensor:
        """Through all couplings."""
        if self.reversible and self.training and torch.is_grad_enabled():
            result: Tensor = _Backwards.apply(  # type: ignore[no-untyped-call]
                x, self.couplings, *self.parameters()
            )
            return result
        for coupling in self.couplings:
            x = coupling(x)
        return x


class _Backwards(torch.autograd.Function):
    """Gradients of couplings from their last output alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, couplings: nn.ModuleList, *parameters: Tensor) -> Tensor:
        device = x.device.type
        ctx.couplings, ctx.parameters = couplings, parameters
        ctx.cast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        with torch.no_grad():
            for coupling in couplings:
                x = coupling(x)
        ctx.save_for_backward(x.detach())
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (y,), (gradient,) = ctx.saved_tensors, gradients
        enabled, dtype = ctx.cast
        found: dict[Tensor, Tensor | None] = dict.fromkeys(ctx.parameters)
        for coupling in reversed(ctx.couplings):
            own = [each for each in coupling.parameters() if each.requires_grad]
            with torch.autocast(y.device.type, dtype=dtype, enabled=enabled):
                with torch.no_grad():
                    x = coupling.inverse(y)
                with torch.enable_grad():
                    read = x.detach().requires_grad_()
                    again = coupling(read)
            gradient, *of_own = torch.autograd.grad(again, [read, *own], gradient)
            found.update(zip(own, of_own, strict=True))
            y = x
        return (gradient, None, *(found[parameter] for parameter in ctx.parameters))


def _branch(channels: int, groups: int, style: Style) -> nn.Sequential:
    groups = next(
        number for number in range(min(groups, channels), 0, -1) if channels % number == 0
    )
    return nn.Sequential(
        nn.GroupNorm(groups, channels),
        style.make_activation(channels),
        style.operators.conv(channels, channels, 3, padding=1, bias=False),
    )
