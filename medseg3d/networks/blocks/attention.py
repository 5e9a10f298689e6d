"""Gates: features multiplied by numbers between 0 and 1 that were worked out from features."""

import torch
from torch import Tensor, nn

from medseg3d.networks.blocks.conv import ConvNormAct
from medseg3d.networks.blocks.style import Style


class AttentionGate(nn.Module):
    """Additive gate on a skip, steered by decoder features of the same resolution.

    Shape:
        - skip: ``(B, channels, *sp)``
        - steering: ``(B, channels, *sp)``
        - output: ``(B, channels, *sp)``, the skip times one factor per voxel

    References:
        Oktay et al., "Attention U-Net", MIDL 2018. arXiv:1804.03999
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.steering = ConvNormAct(channels, inner, kernel=1, act=False, style=style)
        self.skip = ConvNormAct(channels, inner, kernel=1, act=False, style=style)
        self.act = nn.ReLU()
        # a normalized map of one channel would always let half of the voxels through
        single = Style(norm="none", spatial_dims=style.spatial_dims)
        last = style if style.norm == "batch" else single
        self.weight = ConvNormAct(inner, 1, kernel=1, act=False, style=last)

    def forward(self, skip: Tensor, steering: Tensor) -> Tensor:
        """Weigh the skip."""
        both = self.act(self.steering(steering) + self.skip(skip))
        return skip * torch.sigmoid(self.weight(both))


class SqueezeExcite(nn.Module):
    """Channels weighted by the mean over all voxels, voxels by all channels, and both added.

    Shape:
        - input and output: ``(B, channels, *sp)``

    References:
        Roy et al., "Concurrent spatial and channel squeeze and excitation", MICCAI 2018.
        arXiv:1803.02579
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        squeezed = max(1, channels // 2)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)
        self.spatial = style.operators.conv(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh by channel and by voxel, and add."""
        means = x.flatten(2).mean(2)
        by_channel = torch.sigmoid(self.excite(self.squeeze(means).relu()))
        by_channel = by_channel.reshape(*by_channel.shape, *(1,) * (x.ndim - 2))
        return x * by_channel + x * torch.sigmoid(self.spatial(x))


class PositionAttention(nn.Module):
    """Each voxel plus a mean of all voxels, weighted by how their features agree.

    The weights take memory for the square of the number of voxels. How much is added is learned
    and begins at nothing.

    Shape:
        - input and output: ``(B, channels, *sp)``

    References:
        Fu et al., "Dual attention network for scene segmentation", CVPR 2019. arXiv:1809.02983
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        conv, inner = style.operators.conv, max(1, channels // 8)
        self.query, self.key = conv(channels, inner, 1), conv(channels, inner, 1)
        self.value = conv(channels, channels, 1)
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Add what agrees."""
        query, key, value = (each(x).flatten(2) for each in (self.query, self.key, self.value))
        weights = _product(query.transpose(1, 2), key).softmax(-1)
        seen = value @ weights.to(value.dtype).transpose(1, 2)
        total: Tensor = x + self.share * seen.reshape(x.shape)
        return total


class ChannelAttention(nn.Module):
    """Each channel plus a mean of all channels, weighted by how little they agree.

    How much is added is learned and begins at nothing.

    Shape:
        - input and output: ``(B, channels, *sp)``

    References:
        Fu et al., "Dual attention network for scene segmentation", CVPR 2019. arXiv:1809.02983
    """

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Add what differs."""
        flat = x.flatten(2)
        agreement = _product(flat, flat.transpose(1, 2))
        weights = (agreement.amax(-1, keepdim=True) - agreement).softmax(-1)
        return x + self.share * (weights.to(flat.dtype) @ flat).reshape(x.shape)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product at least in float32, since a softmax follows that large numbers decide."""
    with torch.autocast(a.device.type, enabled=False):
        return _exact(a) @ _exact(b)


def _exact(x: Tensor) -> Tensor:
    """At least in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
