"""V-Net, the first volumetric residual U-shape.

Reference:
    Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical
    Image Segmentation", 3DV 2016. arXiv:1606.04797
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    ResidualStage,
    Sizes,
    Style,
    UpNormAct,
    crop,
    he_initialize,
    pad_to_multiple,
    per_stage,
)
from medseg3d.networks.blocks.style import Activation, Norm
from medseg3d.networks.topology import Topology

MAX_DEPTH = 3
"""Convolutions of the deep stages; shallow ones have one more than stages above them."""


@NETWORKS.register(
    "vnet", title="V-Net", year=2016, paper="1606.04797", dims=(2, 3), parameters=65_175_314
)
class VNet(nn.Module):
    """Residual stages of wide convolutions, strided 2x2x2 convolutions between them.

    The input of a stage is added to its last convolution, then activated; the first stage
    adds the image, its channels replicated (or, if ``width`` is not a multiple of them,
    projected). A decoder stage works on, and adds, the concatenation ``[up, skip]``.

    The paper has no normalization and learns its rectifiers (:meth:`paper`). The defaults
    are instance norm and leaky ReLU, which train without tuning.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double up to 16 times as many.
        strides: Downsampling entering each stage but the first, so one entry less than
            there are stages; an entry is one integer or one per axis.
        kernels: Odd kernel size, one for all stages or one entry per stage.
        enc_convs: Convolutions per encoder stage, finest first; by default 1, 2, 3, 3, ...
        dec_convs: Convolutions per decoder stage, coarsest first; by default as in the
            encoder stage of that resolution.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        activation: ``"leaky_relu"``, ``"relu"`` or ``"prelu"``.
        head: ``"pointwise"``, a 1x1x1 convolution as in the paper, or ``"wide"``, a 5x5x5
            one to ``L`` channels, activated, before it, as in the released model.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If the numbers of stages do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        kernels: Sizes = 5,
        enc_convs: Sequence[int] | None = None,
        dec_convs: Sequence[int] | None = None,
        norm: Norm = "instance",
        activation: Activation = "leaky_relu",
        head: Literal["pointwise", "wide"] = "pointwise",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation=activation, spatial_dims=spatial_dims)
        if not strides:
            raise ConfigError("vnet needs at least one stride, got none; add stages")
        if head not in ("pointwise", "wide"):
            raise ConfigError(f"head must be one of 'pointwise', 'wide', got {head!r}")
        steps = per_stage(strides, len(strides), spatial_dims)
        sizes = per_stage(kernels, len(strides) + 1, spatial_dims, odd=True)
        depths = [min(stage + 1, MAX_DEPTH) for stage in range(len(sizes))]
        enc_depths = list(enc_convs or depths)
        dec_depths = list(dec_convs or depths[-2::-1])
        if len(enc_depths) != len(sizes) or len(dec_depths) != len(steps):
            raise ConfigError(
                f"vnet: {len(steps)} strides need {len(sizes)} enc_convs and {len(steps)} "
                f"dec_convs, got {len(enc_depths)} and {len(dec_depths)}"
            )
        widths = [width * 2 ** min(stage, 4) for stage in range(len(sizes))]
        self.divisor = tuple(prod(axis) for axis in zip(*steps, strict=True))

        self.downs = nn.ModuleList(
            ConvNormAct(above, here, kernel=stride, stride=stride, style=style)
            for (above, here), stride in zip(pairwise(widths), steps, strict=True)
        )
        self.encoder = nn.ModuleList()
        for stage, (here, depth, kernel) in enumerate(zip(widths, enc_depths, sizes, strict=True)):
            source = here if stage else in_channels
            shortcut = None if stage else _widen(in_channels, here, style)
            self.encoder.append(
                ResidualStage(
                    source, here, depth=depth, kernel=kernel, shortcut=shortcut, style=style
                )
            )

        self.ups = nn.ModuleList()
        self.decoder = nn.ModuleList()
        below = widths[-1]
        for here, depth, kernel, stride in zip(
            widths[-2::-1], dec_depths, sizes[-2::-1], steps[::-1], strict=True
        ):
            self.ups.append(UpNormAct(below, here, stride=stride, style=style))
            below = 2 * here  # a decoder stage keeps the concatenated width
            self.decoder.append(
                ResidualStage(below, below, depth=depth, kernel=kernel, style=style)
            )
        self.head = nn.Sequential()
        if head == "wide":
            bare = Style(norm="none", activation=activation, spatial_dims=spatial_dims)
            self.head.append(ConvNormAct(below, out_channels, kernel=sizes[0], style=bare))
            below = out_channels
        self.head.append(style.operators.conv(below, out_channels, 1))
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 2 channels."""
        return cls(1, 2, norm="none", activation="prelu")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its width, 5 for 3 in its kernels."""
        return {
            "width": max(topology.width // 2, 1),
            "strides": topology.strides,
            "kernels": tuple(
                tuple(1 if edge == 1 else edge + 2 for edge in kernel)
                for kernel in topology.kernels
            ),
        }

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = self.encoder[0](pad_to_multiple(x, self.divisor))
        skips = []
        for down, stage in zip(self.downs, self.encoder[1:], strict=True):
            skips.append(x)
            x = stage(down(x))
        for up, stage in zip(self.ups, self.decoder, strict=True):
            x = stage(torch.cat([up(x), skips.pop()], dim=1))
        return crop(self.head(x), size)


class ReplicateChannels(nn.Module):
    """The same channels several times over."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *sp)`` to ``(B, times * C, *sp)``."""
        return torch.cat([x] * self.times, dim=1)


def _widen(in_channels: int, width: int, style: Style) -> nn.Module:
    if width % in_channels == 0:
        return ReplicateChannels(width // in_channels)
    return style.operators.conv(in_channels, width, 1)
