"""Spatial pyramids: of dilated convolutions, and of pooled features.

References:
    Mehta et al., "ESPNet: efficient spatial pyramid of dilated convolutions for semantic
    segmentation", ECCV 2018. arXiv:1803.06815
    Zhao et al., "Pyramid scene parsing network", CVPR 2017. arXiv:1612.01105
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks.blocks.classes import averaged
from medseg3d.networks.blocks.conv import ConvNormAct, NormAct
from medseg3d.networks.blocks.style import Style

DILATIONS = (1, 2, 4, 8)


class DilatedPyramid(nn.Module):
    """Few channels convolved with four dilations, side by side, and added to the input.

    What wider dilations see is added to what narrower ones saw, from the second on.

    Shape:
        - input and output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        conv, inner = style.operators.conv, max(1, channels // len(DILATIONS))
        first = channels - (len(DILATIONS) - 1) * inner
        self.squeeze = conv(channels, inner, 3, padding=1, bias=False)
        self.dilated = nn.ModuleList(
            conv(inner, outer, 3, padding=rate, dilation=rate, bias=False)
            for rate, outer in zip(DILATIONS, (first, inner, inner, inner), strict=True)
        )
        self.end = NormAct(channels, style=style)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, add up, activate."""
        few = self.squeeze(x)
        near, *wider = (conv(few) for conv in self.dilated)
        for place in range(1, len(wider)):
            wider[place] = wider[place - 1] + wider[place]
        total: Tensor = self.end(x + torch.cat([near, *wider], dim=1))
        return total


class PooledPyramid(nn.Module):
    """The input beside itself at coarser resolutions, ``features`` channels of each.

    Args:
        channels: Channels of the input.
        features: Channels of each resolution.
        shares: Sizes of the resolutions, as parts of the input's: numerator and denominator.
        style: Normalization and activation.

    Shape:
        - input: ``(B, channels, *sp)``
        - output: ``(B, channels + len(shares) * features, *sp)``
    """

    def __init__(
        self, channels: int, features: int, *, shares: Sequence[tuple[int, int]], style: Style
    ) -> None:
        super().__init__()
        self.shares = tuple(shares)
        self.mode = "bilinear" if style.spatial_dims == 2 else "trilinear"
        self.convs = nn.ModuleList(
            ConvNormAct(channels, features, kernel=1, bias=False, style=style) for _ in shares
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool, convolve, bring back to the size."""
        size = x.shape[2:]
        seen = [x]
        for share, conv in zip(self.shares, self.convs, strict=True):
            coarse = conv(averaged(x, tuple(part_of(edge, share) for edge in size)))
            seen.append(
                functional.interpolate(coarse, size=size, mode=self.mode, align_corners=False)
            )
        return torch.cat(seen, dim=1)


def part_of(edge: int, share: tuple[int, int]) -> int:
    """The nearest number of voxels to a share of them, at least one.

    The steps are the same for any number, so that a recording of them serves for every size.

    Examples:
        >>> [part_of(edge, (3, 8)) for edge in (1, 4, 9)]
        [1, 2, 3]
    """
    numerator, denominator = share
    nearest = (2 * numerator * edge + denominator) // (2 * denominator)
    return nearest + 1 // (nearest + 1)
