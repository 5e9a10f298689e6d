"""U-Net of residual blocks, the segmentation network of Unet-GAN.

Reference:
    Yan et al., "The domain shift problem of medical image segmentation and vendor-adaptation by
    Unet-GAN", MICCAI 2019. arXiv:1910.13681

Read off the paper's figure: each stage is a pair of residual blocks, the very first with kernels
of 7 voxels, and the decoder brings both the skip and what comes from below to one number of
channels. How it upsamples is not told: linearly here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ResidualStage,
    Size,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
    per_stage,
)
from medseg3d.networks.blocks.stages import Stages, linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "lv_unet",
    title="LV-Unet",
    year=2019,
    paper="1910.13681",
    dims=(2, 3),
    parameters=49_567_683,
)
class LVUNet(nn.Module):
    """Two residual blocks per stage; a decoder of one width.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        decoded: Channels that skip and decoder have where they meet.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        first_kernel: Odd kernel of the first residual block, one integer or one per axis.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there is no stride, one does not fit, or a kernel is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        max_width: int = 1024,
        decoded: int = 32,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        first_kernel: Size = 7,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("lv_unet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        (first,) = per_stage([first_kernel], 1, spatial_dims, odd=True)
        kernels: list[Size] = [first, *[3] * len(stages.steps)]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                _block(before, here, kernel, style=style), _block(here, here, 3, style=style)
            )
            for (before, here), kernel in zip(
                pairwise((in_channels, *stages.widths)), kernels, strict=True
            )
        )
        self.pools = stages.pools(style)
        self.ups = nn.ModuleList(linear_upsampling(step) for step in stages.steps[::-1])
        self.risen, self.skipped = nn.ModuleList(), nn.ModuleList()
        below = stages.widths[-1]
        for here in stages.widths[-2::-1]:
            self.risen.append(_block(below, decoded, 3, style=style))
            self.skipped.append(_block(here, decoded, 3, style=style))
            below = 2 * decoded
        self.head = style.operators.conv(below, out_channels, 3, padding=1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 3 channels, in two dimensions."""
        return cls(1, 3, width=64, decoded=128, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths; a coarse axis keeps its small kernel."""
        seven = tuple(7 if edge > 1 else 1 for edge in topology.kernels[0])
        return {
            **topology.unet_options(share=0.5),
            "decoded": topology.width,
            "first_kernel": seven,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        skips = self.features(x)
        x = skips.pop()
        for up, risen, skipped in zip(self.ups, self.risen, self.skipped, strict=True):
            x = torch.cat([skipped(skips.pop()), risen(up(x))], dim=1)
        return crop(self.head(x), size)

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of all stages of the encoder, finest first; the image is padded if need be."""
        features = [self.encoder[0](pad_to_multiple(x, self.divisor))]
        for pool, stage in zip(self.pools, self.encoder[1:], strict=True):
            features.append(stage(pool(features[-1])))
        return features


def _block(before: int, here: int, kernel: Size, *, style: Style) -> ResidualStage:
    """Two convolutions and their input, projected where its channels change."""
    shortcut = None if before == here else style.operators.conv(before, here, 1)
    return ResidualStage(before, here, depth=2, kernel=kernel, shortcut=shortcut, style=style)
