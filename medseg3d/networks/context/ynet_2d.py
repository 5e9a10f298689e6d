"""Segmentation and diagnosis by one encoder: dilated pyramids down, pooled pyramids up.

Reference:
    Mehta et al., "Y-Net: joint segmentation and classification for diagnosis of breast biopsy
    images", MICCAI 2018. arXiv:1806.01313

Sizes of the pooled features are relative; the released code has those of images of 384 pixels.
Each of its dilated pyramids also holds a fifth convolution that nothing reads, which is left out
here: 225,792 parameters of its 3,913,381.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    NormAct,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.classes import Diagnosing, num_classes
from medseg3d.networks.blocks.esp import DilatedPyramid, PooledPyramid
from medseg3d.networks.blocks.stages import linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

SHARES = ((5, 6), (2, 3), (1, 2), (3, 8))


@NETWORKS.register(
    "ynet_2d",
    title="Y-Net (joint diagnosis)",
    year=2018,
    paper="1806.01313",
    dims=(2, 3),
    outputs="class of the image",
    parameters=3_687_589,
)
class YNet2D(Diagnosing):
    """Three strided convolutions, each but the first followed by dilated pyramids; two branches.

    One branch goes on to the class of the image, the other back up to the logits.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Channels of the first convolution; the second has 8 times, the third 16 times as
            many.
        features: Channels of the decoder; the published one has as many as there are labels.
        depths: Dilated pyramids at the second and at the third resolution.
        classes: Classes of images, one of which is given with each; without them the diagnosis is
            which labels an image shows.
        norm: ``"instance"``, ``"batch"`` or ``"none"``; the branch to the class, whose features
            may be of one voxel, has none in the stead of ``"instance"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of 8 need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there are not two depths.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        features: int = 8,
        depths: tuple[int, int] = (2, 5),
        classes: int | None = None,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        if len(depths) != 2:
            raise ConfigError(f"ynet_2d needs 2 depths, got {len(depths)}")
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        self.divisor = (8,) * spatial_dims

        def pyramid(before: int, pooled: int) -> PooledPyramid:
            return PooledPyramid(before, pooled, shares=SHARES, style=style)

        def conv(before: int, after: int, kernel: int) -> ConvNormAct:
            return ConvNormAct(before, after, kernel=kernel, bias=False, style=style)

        self.stem = ConvNormAct(in_channels, width, kernel=7, stride=2, bias=False, style=style)
        self.second = _Stage(width, 8 * width, depth=depths[0], style=style)
        self.third = _Stage(16 * width, 16 * width, depth=depths[1], style=style)
        self.coarse = nn.Sequential(
            pyramid(32 * width, 8 * width),
            conv(64 * width, 8 * width, 1),
            conv(8 * width, features, 3),
            conv(features, features, 1),
        )
        self.middle = nn.Sequential(
            pyramid(16 * width + features, 4 * width),
            conv(32 * width + features, features, 3),
            conv(features, features, 1),
        )
        self.fine = nn.Sequential(
            pyramid(width + features, features), conv(width + 5 * features, features, 3)
        )
        self.head = style.operators.conv(features, out_channels, 7, padding=3, bias=False)
        self.up = linear_upsampling((2,) * spatial_dims)
        plain = replace(style, norm="none") if norm == "instance" else style
        self.diagnosis = nn.Sequential(
            _Stage(32 * width, 8 * width, depth=2, style=plain),
            _Stage(16 * width, 4 * width, depth=2, style=plain),
        )
        self.classifier = nn.Sequential(
            nn.Linear(8 * width, 4 * width),
            nn.Linear(4 * width, num_classes(classes, out_channels)),
        )
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 8 channels and 5 classes, in two dimensions."""
        return cls(3, 8, classes=5, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Half of the plan's width."""
        return {"width": max(1, topology.width // 2)}

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of all resolutions, finest first."""
        features = [self.stem(pad_to_multiple(x, self.divisor))]
        for stage in (self.second, self.third):
            features.append(stage(features[-1]))
        return features

    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits ``(B, L, *size)`` of these features."""
        fine, middle, coarse = features
        x = self.up(self.coarse(coarse))
        x = self.up(self.middle(torch.cat([x, middle], dim=1)))
        x = self.head(self.fine(torch.cat([fine, x], dim=1)))
        return crop(self.up(x), size)

    def diagnose(self, deepest: Tensor) -> Tensor:
        """Logits ``(B, K)`` of the classes."""
        logits: Tensor = self.classifier(self.diagnosis(deepest).flatten(2).mean(2))
        return logits


class _Stage(nn.Module):
    """Strided convolution, dilated pyramids, and both side by side.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, 2 * out_channels, *ceil(sp / 2))``
    """

    def __init__(self, in_channels: int, out_channels: int, *, depth: int, style: Style) -> None:
        super().__init__()
        self.down = ConvNormAct(in_channels, out_channels, stride=2, bias=False, style=style)
        self.pyramids = nn.Sequential(
            *(DilatedPyramid(out_channels, style=style) for _ in range(depth))
        )
        self.end = NormAct(2 * out_channels, style=style)

    def forward(self, x: Tensor) -> Tensor:
        """Shrink, look around, join."""
        x = self.down(x)
        both: Tensor = self.end(torch.cat([x, self.pyramids(x)], dim=1))
        return both
