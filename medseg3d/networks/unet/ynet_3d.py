"""3D U-Net with a classifier on its deepest features, which learns from images without masks too.

Reference:
    Pedemonte et al., "Detection and delineation of acute cerebral infarct on DWI using weakly
    supervised machine learning", MICCAI 2018. doi:10.1007/978-3-030-00931-1_10

The published classifier reads all voxels of the deepest features, which fixes the size of the
image; here it reads their mean unless ``pooled`` says otherwise. The rate of the dropout and the
activation between its two layers are not printed.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvStack,
    Size,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
    per_axis,
)
from medseg3d.networks.blocks.classes import Diagnosing, averaged, num_classes
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

HIDDEN = 16


@NETWORKS.register(
    "ynet_3d",
    title="Y-Net (3D, weakly supervised)",
    year=2018,
    paper="10.1007/978-3-030-00931-1_10",
    dims=(2, 3),
    outputs="class of the image",
    parameters=27_733_378,
)
class YNet3D(Diagnosing):
    """U-Net with nearest upsampling and SELU, and two linear layers that tell the class.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        classes: Classes of images, one of which is given with each; without them the classifier
            learns which labels an image shows.
        pooled: Parts per axis over which the deepest features are averaged before they are
            classified.
        dropout: Share of features set to 0 at the two deepest stages, at the first of the decoder
            and in the classifier.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
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
        width: int = 32,
        max_width: int = 512,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        classes: int | None = None,
        pooled: Size = 1,
        dropout: float = 0.2,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="selu", spatial_dims=spatial_dims)
        stages = Stages.of("ynet_3d", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        widths = stages.widths
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style)
            for before, here in pairwise((in_channels, *widths))
        )
        self.pools = stages.pools(style)
        self.dropout = nn.Dropout(dropout)
        self.ups = nn.ModuleList(
            nn.Upsample(scale_factor=tuple(map(float, step)), mode="nearest")
            for step in stages.steps[::-1]
        )
        self.decoder = nn.ModuleList(
            ConvStack(below + here, here, style=style) for below, here in pairwise(widths[::-1])
        )
        self.head = style.operators.conv(widths[0], out_channels, 1)
        self.pooled = per_axis(pooled, spatial_dims)
        self.classifier = nn.Sequential(
            nn.Linear(widths[-1] * prod(self.pooled), HIDDEN),
            nn.SELU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, num_classes(classes, out_channels)),
        )
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 2 -> 1 channels and one class, of 256 x 256 x 32 voxels."""
        return cls(2, 1, pooled=(16, 16, 2), norm="batch")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths and strides of the plan; features of each half of an axis are classified.

        Instance normalization leaves little to a mean over all voxels.
        """
        return topology.unet_options() | {"pooled": 2}

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of all stages, finest first."""
        features = [self.encoder[0](pad_to_multiple(x, self.divisor))]
        for place, pool in enumerate(self.pools, start=1):
            x = self.encoder[place](pool(features[-1]))
            features.append(self.dropout(x) if place >= len(self.pools) - 1 else x)
        return features

    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits ``(B, L, *size)`` of these features."""
        x = features[-1]
        for place, (up, fuse) in enumerate(zip(self.ups, self.decoder, strict=True)):
            x = fuse(torch.cat([features[-2 - place], up(x)], dim=1))
            x = x if place else self.dropout(x)
        return crop(self.head(x), size)

    def diagnose(self, deepest: Tensor) -> Tensor:
        """Logits ``(B, K)`` of the classes."""
        logits: Tensor = self.classifier(averaged(deepest, self.pooled).flatten(1))
        return logits
