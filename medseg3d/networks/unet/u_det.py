"""U-Net whose skips pass through a pyramid that mixes them in both directions.

Reference:
    Keetha et al., "U-Det: a modified U-Net architecture with bidirectional feature network for
    lung nodule segmentation", 2020. arXiv:2003.09293

The published pyramid also fuses the coarsest stage a last time and nobody reads the result;
here that is left out unless ``fuse_coarsest`` asks for it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    ConvStack,
    NormAct,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.stages import Stages, Step
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "u_det", title="U-Det", year=2020, paper="2003.09293", dims=(2, 3), parameters=28_583_361
)
class UDet(nn.Module):
    """Mish activations; one bidirectional feature pyramid on the skips.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        pyramid: Channels of the pyramid.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        fuse_coarsest: Whether the pyramid ends with features that are not used, as published.
        norm: ``"instance"``, ``"batch"`` or ``"none"``; the pyramid, which always has one, takes
            ``"batch"`` for ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there is no stride, or one does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        max_width: int = 1024,
        pyramid: int = 32,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        fuse_coarsest: bool = False,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="mish", spatial_dims=spatial_dims)
        stages = Stages.of("u_det", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.may_idle = fuse_coarsest
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = stages.pools(style)
        self.pyramid = Pyramid(
            stages.widths,
            pyramid,
            stages.steps,
            fuse_coarsest=fuse_coarsest,
            style=Style(
                norm="batch" if norm == "none" else norm,
                activation="relu",
                spatial_dims=spatial_dims,
            ),
        )
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for (below, here), step in zip(
            pairwise(stages.widths[::-1]), stages.steps[::-1], strict=True
        ):
            self.ups.append(style.operators.conv_transpose(below, here, step, step))
            self.decoder.append(ConvStack(here + pyramid, here, style=style))
        self.head = style.operators.conv(stages.widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 1 channels, in two dimensions."""
        return cls(1, 1, width=64, pyramid=64, fuse_coarsest=True, norm="none", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths, all of its width for the pyramid."""
        return topology.unet_options(share=0.5) | {"pyramid": topology.width}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        features = [self.encoder[0](x)]
        for stage, pool in zip(self.encoder[1:], self.pools, strict=True):
            features.append(stage(pool(features[-1])))
        x, skips = features[-1], self.pyramid(features)
        for up, fuse in zip(self.ups, self.decoder, strict=True):
            x = fuse(torch.cat([up(x), skips.pop()], dim=1))
        return crop(self.head(x), size)


class Pyramid(nn.Module):
    """Features of all stages added from coarse to fine, then from fine to coarse.

    Args:
        widths: Channels of the stages, finest first.
        channels: Channels of the pyramid.
        steps: Downsampling entering each stage but the first.
        fuse_coarsest: Whether the coarsest stage is fused too; its result is not returned.
        style: Normalization and activation.

    Shape:
        - input: one ``(B, widths[n], *sp)`` per stage
        - output: one ``(B, channels, *sp)`` per stage but the coarsest

    References:
        Tan et al., "EfficientDet: scalable and efficient object detection", CVPR 2020.
        arXiv:1911.09070. The sums have no weights here.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        steps: Sequence[Step],
        *,
        fuse_coarsest: bool,
        style: Style,
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            ConvNormAct(width, channels, kernel=1, bias=False, style=style) for width in widths
        )
        self.ups = nn.ModuleList(
            nn.Upsample(scale_factor=tuple(map(float, step)), mode="nearest") for step in steps
        )
        self.pools = nn.ModuleList(style.operators.max_pool(step, step) for step in steps)
        self.down = nn.ModuleList(_depthwise(channels, style) for _ in steps)
        again = len(steps) if fuse_coarsest else len(steps) - 1
        self.up = nn.ModuleList(_depthwise(channels, style) for _ in range(again))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Mix the features, finest first."""
        lateral = [conv(each) for conv, each in zip(self.lateral, features, strict=True)]
        mixed = lateral[-1:]  # from here on coarsest first
        for fuse, up, here in zip(self.down, self.ups[::-1], lateral[-2::-1], strict=True):
            mixed.append(fuse(here + up(mixed[-1])))
        mixed = mixed[::-1]
        result = mixed[:1]
        for stage in range(1, len(mixed) - 1):
            here = lateral[stage] + mixed[stage] + self.pools[stage - 1](result[-1])
            result.append(self.up[stage - 1](here))
        return result


def _depthwise(channels: int, style: Style) -> nn.Module:
    conv = style.operators.conv(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, after=NormAct(channels, style=style)))
