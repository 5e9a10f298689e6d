"""U-Net that compares the image with a template, both through one encoder.

Reference:
    Kwon et al., "Siamese U-Net with healthy template for accurate segmentation of intracranial
    hemorrhage", MICCAI 2019. https://doi.org/10.1007/978-3-030-32248-9_94

The published template is a healthy image that was registered to the patient's. Without one, the
image mirrored from left to right takes its place, in which each side is the healthy template of
the other. What is mirrored is the patch: it shows the other side of the body where the patch lies
around the midline, as one of the image's width does. The paper has dropout, but not its rate;
there is none here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvStack,
    Style,
    UpNormAct,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "siamese_unet",
    title="Siamese U-Net",
    year=2019,
    paper="10.1007/978-3-030-32248-9_94",
    dims=(2, 3),
    parameters=467_458,
)
class SiameseUNet(nn.Module):
    """What the image has more of than the template goes up; skips are weighed by it.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        mirror_axis: Spatial axis from left to right, along which the template is mirrored.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there is no stride, one does not fit, or there is no such axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        max_width: int = 320,
        strides: Sequence[int | Sequence[int]] = (2, 2),
        mirror_axis: int = 0,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        if not 0 <= mirror_axis < spatial_dims:
            raise ConfigError(
                f"siamese_unet: mirror_axis must be an axis from 0 to {spatial_dims - 1}, got "
                f"{mirror_axis}"
            )
        stages = Stages.of("siamese_unet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.mirror_axis = mirror_axis
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = stages.pools(style)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for (below, here), step in zip(
            pairwise(stages.widths[::-1]), stages.steps[::-1], strict=True
        ):
            self.ups.append(UpNormAct(below, here, stride=step, style=style))
            self.decoder.append(ConvStack(2 * here, here, style=style))
        self.head = style.operators.conv(stages.widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 2 channels, in two dimensions."""
        return cls(1, 2, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths and strides of the plan."""
        return topology.unet_options()

    def forward(self, x: Tensor, template: Tensor | None = None) -> Tensor:
        """Logits of the image.

        Args:
            x: ``(B, C, *sp)``.
            template: What is normal at each voxel, ``(B, C, *sp)``; the mirrored image if absent.
        """
        size = x.shape[2:]
        template = x.flip(self.mirror_axis + 2) if template is None else template
        skips = self._encode(pad_to_multiple(x, self.divisor))
        normal = self._encode(pad_to_multiple(template, self.divisor))
        more = [(own - other).relu() for own, other in zip(skips, normal, strict=True)]
        x = more.pop()
        for up, fuse, skip, weight in zip(
            self.ups, self.decoder, skips[-2::-1], more[::-1], strict=True
        ):
            x = fuse(torch.cat([skip * weight, up(x)], dim=1))
        return crop(self.head(x), size)

    def _encode(self, x: Tensor) -> list[Tensor]:
        """Features of all stages, finest first."""
        features = [self.encoder[0](x)]
        for pool, stage in zip(self.pools, self.encoder[1:], strict=True):
            features.append(stage(pool(features[-1])))
        return features
