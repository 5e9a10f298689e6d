"""DenseUNet-167 on slices and DenseUNet-65 on volumes, the halves of H-DenseUNet.

Both read and return volumes. ``slice_axis`` is the voxel axis across the slices, best the
coarsest one; inside, it is always the last.

Reference:
    Li et al., "H-DenseUNet: Hybrid Densely Connected UNet for Liver and Tumor Segmentation
    from CT Volumes", IEEE TMI 37(12), 2018. arXiv:1709.07330
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    DenseBlock,
    DenseTransition,
    NormAct,
    Style,
    crop,
    from_slices,
    he_initialize,
    pad_to_multiple,
    to_slabs,
)
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology
from medseg3d.types import Size3

LAYERS_2D = (6, 12, 36, 24)
LAYERS_3D = (3, 4, 12, 8)
DROPOUT = 0.3


@NETWORKS.register(
    "denseunet_2d",
    title="DenseUNet-167 (2D, on slices)",
    year=2018,
    paper="1709.07330",
    dims=(3,),
    parameters=49_527_843,
)
class DenseUNet2D(nn.Module):
    """Slice by slice, each with its two neighbors; a DenseNet-161 encoder as published.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        stem: Channels of the first convolution; the last features have two thirds of it.
        growth: Channels that each dense layer adds.
        layers: Dense layers per block, at least two blocks, finest first.
        norm: ``"instance"``, ``"batch"`` (the paper) or ``"none"``.
        slice_axis: Voxel axis across the slices.
        slice_chunk: Slices in one pass, to bound the memory of inference; all when absent.

    Shape:
        - input: ``(B, C, I, J, K)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, I, J, K)``

    Raises:
        ConfigError: If there are fewer than two blocks, the axis does not exist, or a chunk is
            negative.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stem: int = 96,
        growth: int = 48,
        layers: Sequence[int] = LAYERS_2D,
        norm: Norm = "instance",
        slice_axis: int = -1,
        slice_chunk: int | None = None,
    ) -> None:
        super().__init__()
        if slice_chunk is not None and slice_chunk < 0:
            raise ConfigError(
                f"slice_chunk must be 1 or more slices, or null for all, got {slice_chunk}"
            )
        self.slice_chunk = slice_chunk
        self.frame = SliceFrame(slice_axis, in_plane=2 ** (len(layers) + 1), across=1)
        self.divisor = self.frame.divisor
        self.num_features = num_features(stem)
        blocks = block_widths(stem, growth, layers)
        self.trunk = DenseTrunk(
            3 * in_channels,
            stem=stem,
            growth=growth,
            layers=layers,
            decoder=(*blocks[-3::-1], stem, stem, self.num_features),
            transition_stride=(2, 2),
            long_skips=True,
            style=Style(norm=norm, activation="relu", spatial_dims=2),
        )
        self.head: nn.Module = nn.Conv3d(self.num_features, out_channels, 1)
        he_initialize(self, negative_slope=0.0)

    @classmethod
    def paper(cls) -> Self:
        """The published 2D network, 1 -> 3 channels."""
        return cls(1, 3, norm="batch")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Slices across the coarsest axis, widths and depth of the plan."""
        return {
            "slice_axis": topology.coarse_axis,
            "stem": 3 * topology.width,
            "growth": 3 * topology.width // 2,
            "layers": LAYERS_2D[: planned_blocks(topology)],
        }

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the volume."""
        size = x.shape[2:]
        return self.frame.leave(self.head(self.features(self.frame.enter(x))), size)

    def features(self, x: Tensor) -> Tensor:
        """``(B, C, I, J, K)``, in-plane divisible, slices last, to ``(B, F, I, J, K)``."""
        slices = to_slabs(x, 3)
        chunks = torch.split(slices, self.slice_chunk or slices.shape[0])
        return from_slices(torch.cat([self.trunk(chunk) for chunk in chunks]), x.shape[0])


@NETWORKS.register(
    "denseunet_3d",
    title="DenseUNet-65 (3D)",
    year=2018,
    paper="1709.07330",
    dims=(3,),
    parameters=15_977_467,
)
class DenseUNet3D(nn.Module):
    """Light 3D half: less depth, and only two of its poolings act across the slices.

    Args:
        in_channels: Image channels ``C``; in the hybrid, image and 2D context.
        out_channels: Logit channels ``L``, background included.
        stem: Channels of the first convolution; the last features have two thirds of it.
        growth: Channels that each dense layer adds.
        layers: Dense layers per block, at least two blocks, finest first.
        norm: ``"instance"``, ``"batch"`` (the paper) or ``"none"``.
        slice_axis: Voxel axis across the slices.
        long_skips: Add the encoder to the decoder, through 1x1x1 convolutions where the
            widths differ, as the paper's table has it; the released network has none.

    Shape:
        - input: ``(B, C, I, J, K)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, I, J, K)``

    Raises:
        ConfigError: If there are fewer than two blocks, or the axis does not exist.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stem: int = 96,
        growth: int = 32,
        layers: Sequence[int] = LAYERS_3D,
        norm: Norm = "instance",
        slice_axis: int = -1,
        long_skips: bool = False,
    ) -> None:
        super().__init__()
        self.frame = SliceFrame(slice_axis, in_plane=2 ** (len(layers) + 1), across=4)
        self.divisor = self.frame.divisor
        self.num_features = num_features(stem)
        blocks = block_widths(stem, growth, layers)
        self.trunk = DenseTrunk(
            in_channels,
            stem=stem,
            growth=growth,
            layers=layers,
            decoder=(blocks[-1], *blocks[-3::-1], stem, self.num_features),
            transition_stride=(2, 2, 1),
            long_skips=long_skips,
            style=Style(norm=norm, activation="relu", spatial_dims=3),
        )
        self.head: nn.Module = nn.Conv3d(self.num_features, out_channels, 1)
        he_initialize(self, negative_slope=0.0)

    @classmethod
    def paper(cls) -> Self:
        """The published 3D network, 1 image and 3 context channels -> 3."""
        return cls(4, 3, norm="batch")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Slices across the coarsest axis, widths and depth of the plan."""
        return {
            "slice_axis": topology.coarse_axis,
            "stem": 3 * topology.width,
            "growth": topology.width,
            "layers": LAYERS_3D[: planned_blocks(topology)],
        }

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the volume."""
        size = x.shape[2:]
        return self.frame.leave(self.head(self.features(self.frame.enter(x))), size)

    def features(self, x: Tensor) -> Tensor:
        """``(B, C, I, J, K)``, divisible, slices last, to ``(B, F, I, J, K)``."""
        features: Tensor = self.trunk(x)
        return features


class DenseTrunk(nn.Module):
    """Dense encoder and plain decoder down to features of full resolution.

    Stem and pooling halve every axis, ``transition_stride`` acts between the blocks. Skips
    leave a block before its transition and are added after upsampling.

    Args:
        in_channels: Channels of the input.
        stem: Channels of the first convolution.
        growth: Channels that each dense layer adds.
        layers: Dense layers per block, finest first.
        decoder: Channels after each upsampling, coarsest first, one more than blocks.
        transition_stride: Pooling between blocks, per axis.
        long_skips: Whether there are skips; where widths differ, 1x1 convolutions fit them.
        style: Normalization and activation.

    Shape:
        - input: ``(B, in_channels, *sp)``, divisible by all strides
        - output: ``(B, decoder[-1], *sp)``
    """

    def __init__(
        self,
        in_channels: int,
        *,
        stem: int,
        growth: int,
        layers: Sequence[int],
        decoder: Sequence[int],
        transition_stride: Sequence[int],
        long_skips: bool,
        style: Style,
    ) -> None:
        super().__init__()
        operators = style.operators
        blocks = block_widths(stem, growth, layers)
        self.stem = ConvNormAct(in_channels, stem, kernel=7, stride=2, bias=False, style=style)
        self.pool = operators.max_pool(3, 2, padding=1)
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        width = stem
        for depth, grown in zip(layers, blocks, strict=True):
            self.blocks.append(DenseBlock(width, depth=depth, growth=growth, style=style))
            width = grown // 2
            self.transitions.append(
                DenseTransition(grown, width, stride=transition_stride, style=style)
            )
        self.transitions[-1] = NormAct(blocks[-1], style=style)

        halving = (2,) * style.spatial_dims
        strides = (*[tuple(transition_stride)] * (len(layers) - 1), halving, halving)
        self.ups = nn.ModuleList(
            nn.Upsample(scale_factor=tuple(map(float, stride)), mode="nearest")
            for stride in strides
        )
        sources = (blocks[-1], *decoder[:-1])
        drops = (*[0.0] * len(layers), DROPOUT)
        self.decoder = nn.ModuleList(
            ConvNormAct(source, target, dropout=drop, style=style)
            for source, target, drop in zip(sources, decoder, drops, strict=True)
        )
        self.lines = nn.ModuleList()
        if long_skips:
            for skip, source in zip((*blocks[-2::-1], stem), sources[:-1], strict=True):
                same = skip == source
                self.lines.append(nn.Identity() if same else operators.conv(skip, source, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features of full resolution."""
        x = self.stem(x)
        skips = [x]
        x = self.pool(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            x = block(x)
            skips.append(x)
            x = transition(x)
        skips.pop()  # the deepest block is x itself

        for level, (up, fuse) in enumerate(zip(self.ups, self.decoder, strict=True)):
            x = up(x)
            if level < len(self.lines):
                x = x + self.lines[level](skips.pop())
            x = fuse(x)
        return x


class SliceFrame:
    """Puts the slice axis last and pads for the strides; undoes both for the logits.

    Args:
        slice_axis: Voxel axis across the slices, -3 to 2.
        in_plane: What must divide the two axes of a slice.
        across: What must divide the number of slices.

    Raises:
        ConfigError: If the axis does not exist.

    Examples:
        >>> frame = SliceFrame(0, in_plane=32, across=4)
        >>> frame.divisor
        (4, 32, 32)
        >>> frame.enter(torch.zeros(1, 1, 5, 33, 32)).shape
        torch.Size([1, 1, 64, 32, 8])
    """

    def __init__(self, slice_axis: int, *, in_plane: int, across: int) -> None:
        if slice_axis not in range(-3, 3):
            raise ConfigError(f"slice_axis must be an axis from -3 to 2, got {slice_axis!r}")
        self.axis = slice_axis % 3
        self.steps = (in_plane, in_plane, across)
        i, j, k = (across if axis == self.axis else in_plane for axis in range(3))
        self.divisor: Size3 = (i, j, k)

    def enter(self, x: Tensor) -> Tensor:
        """``(B, C, I, J, K)`` to the same with the slices last, padded."""
        return pad_to_multiple(x.movedim(self.axis + 2, -1), self.steps)

    def leave(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Back to the voxel axes and ``size`` of the image."""
        return crop(x.movedim(-1, self.axis + 2), size)


def block_widths(stem: int, growth: int, layers: Sequence[int]) -> list[int]:
    """Channels after each dense block, with transitions that halve them.

    Raises:
        ConfigError: If there are fewer than two blocks.

    Examples:
        >>> block_widths(96, 48, (6, 12, 36, 24))
        [384, 768, 2112, 2208]
    """
    if len(layers) < 2:
        raise ConfigError(f"a DenseUNet needs at least two blocks, got layers {tuple(layers)}")
    after_transition = accumulate(
        layers, lambda width, depth: (width + depth * growth) // 2, initial=stem
    )
    return [width + depth * growth for width, depth in zip(after_transition, layers, strict=False)]


def num_features(stem: int) -> int:
    """Channels of the last features, 64 for the paper's stem of 96."""
    return max(2 * stem // 3, 1)


def planned_blocks(topology: Topology) -> int:
    """Blocks whose downsampling equals the plan's: stem and pooling take two of its stages."""
    return min(max(topology.num_stages - 2, 2), len(LAYERS_2D))
