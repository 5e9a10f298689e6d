"""Residual encoder, context extractor of dilated convolutions and pools, light decoder.

Reference:
    Gu et al., "CE-Net: context encoder network for 2D medical image segmentation", IEEE Trans.
    Med. Imaging 38(10), 2019. arXiv:1903.02740

The branches of the dilated convolutions share their kernels, as in the released code. Weights
learned on photographs are not loaded.
"""

from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.linknet import LinkUp
from medseg3d.networks.blocks.resnet import ResNetEncoder
from medseg3d.networks.blocks.style import Norm

POOLS = (2, 3, 5, 6)


@NETWORKS.register(
    "ce_net", title="CE-Net", year=2019, paper="1903.02740", dims=(2, 3), parameters=29_003_093
)
class CENet(nn.Module):
    """ResNet-34, dense atrous convolutions, residual multi-kernel pooling, added skips.

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
        conv = style.operators.conv
        self.encoder = ResNetEncoder(in_channels, width, style=style)
        deepest = 8 * width
        self.dilated = nn.ModuleList(
            conv(deepest, deepest, 3, padding=rate, dilation=rate) for rate in (1, 3, 5)
        )
        self.point = conv(deepest, deepest, 1)
        self.pooled = conv(deepest, 1, 1)
        ends = (deepest + len(POOLS), 4 * width, 2 * width, width, width)
        self.decoder = nn.ModuleList(
            LinkUp(before, after, kernel=3, style=style) for before, after in pairwise(ends)
        )
        half = max(1, width // 2)
        self.last = nn.Sequential(
            style.operators.conv_transpose(width, half, 4, 2, 1),
            nn.ReLU(),
            conv(half, half, 3, padding=1),
            nn.ReLU(),
            conv(half, out_channels, 3, padding=1),
        )
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 1 channels, in two dimensions."""
        return cls(3, 1, width=64, norm="batch", spatial_dims=2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        features = self.encoder(pad_to_multiple(x, self.divisor))
        x = self._pool(self._dilate(features.pop()))
        for up in self.decoder:
            x = up(x)
            if features:
                x = x + features.pop()
        return crop(self.last(x), size)

    def _dilate(self, x: Tensor) -> Tensor:
        """Four cascades of dilated convolutions added to what they read."""
        first, third, fifth = self.dilated
        near = first(x)
        wide = third(near)
        branches = (near, self.point(third(x)), self.point(wide), self.point(fifth(wide)))
        for branch in branches:
            x = x + branch.relu()
        return x

    def _pool(self, x: Tensor) -> Tensor:
        """Maxima of windows of four sizes, one channel each, beside the features."""
        size = x.shape[2:]
        mode = "bilinear" if len(size) == 2 else "trilinear"
        maps = []
        for edge in POOLS:
            seen = self.pooled(_whole_windows(x, edge))
            maps.append(functional.interpolate(seen, size=size, mode=mode, align_corners=False))
        return torch.cat([*maps, x], dim=1)


def _whole_windows(x: Tensor, edge: int) -> Tensor:
    """Maxima of all windows that fit, or of the one of an axis that is shorter than a window.

    The steps are the same for any size, so that a recording of them serves for every size.

    Args:
        x: ``(B, C, *sp)``.
        edge: Voxels of a window per axis.

    Examples:
        >>> _whole_windows(torch.arange(14.0).reshape(1, 1, 2, 7), 3)
        tensor([[[[ 9., 12.]]]])
    """
    size = x.shape[2:]
    pool = functional.max_pool2d if len(size) == 2 else functional.max_pool3d
    x = pool(functional.pad(x, [0, edge - 1] * len(size), value=-torch.inf), edge, edge)
    for axis, length in enumerate(size, start=2):
        whole = length // edge
        x = x.narrow(axis, 0, whole + 1 // (whole + 1))  # at least one
    return x
