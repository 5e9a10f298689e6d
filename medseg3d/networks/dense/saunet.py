"""Dense encoder, attention in the decoder, and a stream that learns the shape from edges.

Reference:
    Sun et al., "SAUNet: shape attentive U-Net for interpretable medical image segmentation",
    MICCAI 2020. arXiv:2001.07645

The paper adds Canny edges of the image to the learned ones; here it is the image's absolute
differences between neighboring voxels, which need no thresholds. Weights learned on photographs
are not loaded. Skips are taken before the poolings; the released code upsamples what left them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    DenseBlock,
    NormAct,
    NormActConv,
    ResidualStage,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.stages import linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.dense.denseunet import block_widths, planned_blocks
from medseg3d.networks.topology import Topology

LAYERS = (6, 12, 24, 16)


@NETWORKS.register(
    "saunet",
    title="SAUNet (shape attentive)",
    year=2020,
    paper="2001.07645",
    dims=(2, 3),
    outputs="edges",
    parameters=23_474_535,
)
class SAUNet(nn.Module):
    """DenseNet-121 down, channel and spatial attention up, edges joined at full resolution.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        stem: Channels of the first convolution.
        growth: Channels that each dense layer adds.
        layers: Dense layers per block, at least two blocks, finest first.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there are fewer than two blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stem: int = 32,
        growth: int = 16,
        layers: Sequence[int] = LAYERS,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        operators = style.operators
        self.divisor = (2 ** (len(layers) + 1),) * spatial_dims
        self.stem = ConvNormAct(in_channels, stem, kernel=7, stride=2, bias=False, style=style)
        self.blocks, self.ends = nn.ModuleList(), nn.ModuleList()
        skips, width = [], stem
        for depth, grown in zip(layers, block_widths(stem, growth, layers), strict=True):
            self.blocks.append(DenseBlock(width, depth=depth, growth=growth, style=style))
            width = grown // 2
            skips.append(width)
            self.ends.append(NormActConv(grown, width, kernel=1, style=style))
        self.ends[-1] = NormAct(grown, style=style)
        skips[-1] = grown
        self.shrink, self.pool = operators.average_pool(2), operators.max_pool(2, 2)
        decoded = [max(1, skip // 2) for skip in skips[::-1]]  # coarsest first
        self.bottom = ConvNormAct(skips[-1], decoded[0], style=style)
        self.decoder = nn.ModuleList(
            DualAttention(below, skip, here, style=style)
            for (below, here), skip in zip(
                pairwise((decoded[0], *decoded)), skips[::-1], strict=True
            )
        )
        half = max(1, stem // 2)
        self.up = operators.conv_transpose(decoded[-1], half, 2, 2)
        self.shape = ShapeStream(skips, stem, half, style=style)
        self.last = ConvNormAct(2 * half, half, style=style)
        self.head = operators.conv(half, out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """On DenseNet-121, 1 -> 4 channels, in two dimensions."""
        return cls(1, 4, stem=64, growth=32, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Width and depth of the plan."""
        return {
            "stem": topology.width,
            "growth": max(1, topology.width // 2),
            "layers": LAYERS[: planned_blocks(topology)],
        }

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        return self._both(x)[0]

    def objective(
        self, loss: Callable[[Tensor, Tensor], Tensor], image: Tensor, labels: Tensor
    ) -> Tensor:
        """The loss of the logits plus balanced cross-entropy of the edges between labels.

        Args:
            loss: ``loss(logits, labels)``.
            image: ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)`` integers; ``L`` stands for voxels that nobody annotated.
        """
        logits, edges = self._both(image)
        unknown = logits.shape[1]
        of_edges = edge_loss(edges, label_edges(labels, unknown), labels != unknown)
        return loss(logits, labels) + of_edges

    def _both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of labels and of edges."""
        size = x.shape[2:]
        image = pad_to_multiple(x, self.divisor)
        x = self.stem(image)
        skips: list[Tensor] = []
        for block, end in zip(self.blocks, self.ends, strict=True):
            skips.append(end(block(self.shrink(skips[-1]) if skips else x)))
        edges, shape = self.shape(image, skips)
        x = self.bottom(self.pool(skips[-1]))
        for attention, skip in zip(self.decoder, skips[::-1], strict=True):
            x = attention(x, skip)
        x = self.last(torch.cat([self.up(x), shape], dim=1))
        return crop(self.head(x), size), crop(edges, size)


class DualAttention(nn.Module):
    """Upsampled features joined with a skip, then weighted by channel and by voxel.

    Shape:
        - below: ``(B, below, *sp)``
        - skip: ``(B, skip, *sp * 2)``
        - output: ``(B, out_channels, *sp * 2)``
    """

    def __init__(self, below: int, skip: int, out_channels: int, *, style: Style) -> None:
        super().__init__()
        conv, squeezed = style.operators.conv, max(1, out_channels // 2)
        self.up = style.operators.conv_transpose(below, out_channels, 2, 2)
        self.fuse = ConvNormAct(out_channels + skip, out_channels, style=style)
        self.spatial = nn.Sequential(
            ConvNormAct(out_channels, squeezed, kernel=1, style=style), conv(squeezed, 1, 1)
        )
        self.squeeze = nn.Linear(out_channels, squeezed)
        self.excite = nn.Linear(squeezed, out_channels)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Join and weigh."""
        x = self.fuse(torch.cat([self.up(below), skip], dim=1))
        by_channel = self.excite(self.squeeze(x.flatten(2).mean(2)).relu()).sigmoid()
        by_channel = by_channel.reshape(*by_channel.shape, *(1,) * (x.ndim - 2))
        weighted: Tensor = x * by_channel * (1 + self.spatial(x).sigmoid())
        return weighted


class ShapeStream(nn.Module):
    """Full-resolution features that coarser and coarser ones gate, down to a map of edges.

    Args:
        skips: Channels of the encoder's stages, at half of the resolution and less.
        width: Channels at the beginning; each gate halves them.
        out_channels: Channels that the edges are brought to.
        style: Normalization and activation.

    Shape:
        - image: ``(B, C, *sp)``
        - features: one ``(B, skips[n], *sp / 2**(n + 1))`` per stage
        - output: logits of edges ``(B, 1, *sp)``, features ``(B, out_channels, *sp)``

    References:
        Takikawa et al., "Gated-SCNN", ICCV 2019. arXiv:1907.05740
    """

    def __init__(
        self, skips: Sequence[int], width: int, out_channels: int, *, style: Style
    ) -> None:
        super().__init__()
        conv, dims = style.operators.conv, style.spatial_dims
        widths = [max(1, width // 2**stage) for stage in range(len(skips))]
        self.enter = conv(skips[0], widths[0], 1)
        self.views = nn.ModuleList(conv(skip, 1, 1) for skip in skips[1:])
        self.ups = nn.ModuleList(
            linear_upsampling((2 ** (stage + 1),) * dims) for stage in range(len(skips))
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                ResidualStage(before, before, depth=2, style=style), conv(before, here, 1)
            )
            for before, here in pairwise(widths)
        )
        self.gates = nn.ModuleList(Gate(here, style=style) for here in widths[1:])
        self.edges = conv(widths[-1], 1, 1, bias=False)
        self.join = conv(2, 1, 1, bias=False)
        self.leave = ConvNormAct(1, out_channels, kernel=1, style=style)

    def forward(self, image: Tensor, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Edges, and what they tell."""
        x = self.ups[0](self.enter(features[0]))
        for block, gate, view, up, seen in zip(
            self.blocks, self.gates, self.views, self.ups[1:], features[1:], strict=True
        ):
            x = gate(block(x), up(view(seen)))
        edges: Tensor = self.edges(x)
        both = torch.cat([edges.sigmoid(), differences(image).to(edges)], dim=1)
        return edges, self.leave(self.join(both).sigmoid())


class Gate(nn.Module):
    """Features let through where a map of one channel and they themselves want it.

    Shape:
        - x: ``(B, channels, *sp)``
        - view: ``(B, 1, *sp)``
        - output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        conv = style.operators.conv
        self.weight = nn.Sequential(
            style.make_norm(channels + 1),
            conv(channels + 1, channels + 1, 1),
            nn.ReLU(),
            conv(channels + 1, 1, 1),
        )
        self.last = conv(channels, channels, 1)

    def forward(self, x: Tensor, view: Tensor) -> Tensor:
        """Weigh the features."""
        weight = self.weight(torch.cat([x, view], dim=1)).sigmoid()
        weighted: Tensor = self.last(x * (1 + weight))
        return weighted


def differences(image: Tensor) -> Tensor:
    """Absolute differences to the next voxel, added over axes, averaged over channels.

    Args:
        image: ``(B, C, *sp)``.

    Returns:
        ``(B, 1, *sp)``; the last voxel of an axis has no next one and counts 0 there.

    Examples:
        >>> differences(torch.tensor([[[1.0, 1.0, 3.0, 2.0]]]))
        tensor([[[0., 2., 1., 0.]]])
    """
    total = torch.zeros_like(image)
    for axis in range(2, image.ndim):
        before = (slice(None),) * axis
        rest, last = image[(*before, slice(1, None))], image[(*before, slice(-1, None))]
        total = total + (torch.cat([rest, last], axis) - image).abs()
    return total.mean(1, keepdim=True)


def label_edges(labels: Tensor, unknown: int | None = None) -> Tensor:
    """Voxels that have another label beside them along an axis.

    Args:
        labels: ``(B, 1, *sp)``.
        unknown: Value of voxels that nobody annotated, which make no edges.

    Returns:
        ``(B, 1, *sp)``, true on both sides of each border.

    Examples:
        >>> label_edges(torch.tensor([[[0, 0, 2, 2, 2]]])).int()
        tensor([[[0, 1, 1, 0, 0]]], dtype=torch.int32)
    """
    edges = torch.zeros_like(labels, dtype=torch.bool)
    for axis in range(2, labels.ndim):
        length = labels.shape[axis] - 1
        before, after = labels.narrow(axis, 0, length), labels.narrow(axis, 1, length)
        differ = before != after
        if unknown is not None:
            differ &= (before != unknown) & (after != unknown)
        edges.narrow(axis, 0, length).logical_or_(differ)
        edges.narrow(axis, 1, length).logical_or_(differ)
    return edges


def edge_loss(logits: Tensor, edges: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy in which edges and all else weigh the same, however few they are.

    Args:
        logits: ``(B, 1, *sp)``.
        edges: ``(B, 1, *sp)``, true on edges.
        known: ``(B, 1, *sp)``, true on voxels that count; edges are among them.

    Returns:
        Scalar, at least float32; 0 if no voxel counts.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    share = edges.sum().to(logits) / known.sum().clamp_min(1)
    weight = torch.where(edges, 1 - share, share) * known
    total = functional.binary_cross_entropy_with_logits(
        logits, edges.to(logits), weight=weight, reduction="sum"
    )
    return total / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
