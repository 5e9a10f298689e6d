"""U-Net whose upsampled features are gated by the skips, for thin branching structures.

Reference:
    Li et al., "Connection sensitive attention U-NET for accurate retinal vessel segmentation",
    2019. arXiv:1903.05558

The paper prints no widths, 64 to 1024 are assumed, and its loss is not given in full: train
with ``dice_ce`` or ``cldice``. It is the decoder's features that are weighted; the encoder's
are joined as they are.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    ConvStack,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.stages import Stages, Step
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "csa_unet",
    title="Connection sensitive attention U-Net",
    year=2019,
    paper="1903.05558",
    dims=(2, 3),
    parameters=48_229_569,
)
class CsaUNet(nn.Module):
    """Attention maps per channel from encoder and decoder; the finest is used once more.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
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
        width: int = 16,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("csa_unet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = stages.pools(style)
        self.ups, self.gates, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for (below, here), step in zip(
            pairwise(stages.widths[::-1]), stages.steps[::-1], strict=True
        ):
            self.ups.append(style.operators.conv_transpose(below, here, step, step))
            self.gates.append(ConnectionGate(here, step, style=style))
            self.decoder.append(ConvStack(2 * here, here, style=style))
        finest = stages.widths[0]
        conv = style.operators.conv(finest, finest, 3, padding=1)
        self.decoder[-1] = nn.Sequential(ConvNormAct(2 * finest, finest, style=style), conv)
        self.last = ConvStack(2 * finest, finest, style=style)
        self.head = style.operators.conv(finest, out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 1 channels, in two dimensions."""
        return cls(3, 1, width=64, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        skips = []
        for stage, pool in zip(self.encoder, self.pools, strict=False):
            skips.append(stage(x))
            x = pool(skips[-1])
        x = self.encoder[-1](x)
        attention = x
        for up, gate, fuse in zip(self.ups, self.gates, self.decoder, strict=True):
            x, skip = up(x), skips.pop()
            attention = gate(skip, x)
            x = fuse(torch.cat([x * attention, skip], dim=1))
        return crop(self.head(self.last(torch.cat([x, attention], dim=1))), size)


class ConnectionGate(nn.Module):
    """A factor between 0 and 1 per channel and voxel, from both features seen more coarsely.

    Shape:
        - skip and decoded: ``(B, channels, *sp)``
        - output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, step: Step, *, style: Style) -> None:
        super().__init__()

        def conv() -> nn.Module:
            return ConvNormAct(channels, channels, style=style)

        def look() -> nn.Sequential:
            return nn.Sequential(conv(), style.operators.max_pool(step, step), conv())

        self.skip, self.decoded = look(), look()
        up = style.operators.conv_transpose(channels, channels, step, step)
        self.both = nn.Sequential(conv(), up)

    def forward(self, skip: Tensor, decoded: Tensor) -> Tensor:
        """The factors."""
        return torch.sigmoid(self.both(self.skip(skip) + self.decoded(decoded)))
