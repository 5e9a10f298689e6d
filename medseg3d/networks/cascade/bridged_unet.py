"""Two U-Nets in a row whose stages are joined.

Reference:
    Chen et al., "Bridged U-Net for prostate segmentation", 2018. arXiv:1807.04459

The paper does not say how its stages are pooled and upsampled: maximum and transposed
convolutions here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages, listed
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

DEEP = 2
"""So many of the coarsest stages have ReLU, all others ELU."""


@NETWORKS.register(
    "bridged_unet",
    title="Bridged U-Net",
    year=2018,
    paper="1807.04459",
    dims=(2, 3),
    parameters=18_673_153,
)
class BridgedUNet(nn.Module):
    """The second U-Net reads the decoder of the first, and adds its encoder to its own.

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
        max_width: int = 512,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="elu", spatial_dims=spatial_dims)
        deep = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("bridged_unet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.pools = stages.pools(style)
        widths = stages.widths
        num_shallow = len(widths) - DEEP
        bridges = [widths[0], *(before + here for before, here in pairwise(widths))]
        plain = [in_channels, *widths[:-1]]
        self.encoders, self.ups, self.decoders = (
            nn.ModuleList(nn.ModuleList() for _ in range(2)) for _ in range(3)
        )
        for number, inputs in enumerate((plain, bridges)):
            for stage, (before, here) in enumerate(zip(inputs, widths, strict=True)):
                kind = style if stage < num_shallow else deep
                listed(self.encoders[number]).append(ConvStack(before, here, style=kind))
            for (below, here), step in zip(pairwise(widths[::-1]), stages.steps[::-1], strict=True):
                up = style.operators.conv_transpose(below, here, step, step)
                listed(self.ups[number]).append(up)
                listed(self.decoders[number]).append(ConvStack(2 * here, here, style=style))
        self.head = style.operators.conv(widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 1 channels, in two dimensions."""
        return cls(1, 1, width=32, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        encoded = self._encode(0, x, [], [])
        decoded = self._decode(0, encoded)
        again = self._encode(1, decoded[0], decoded[1:], encoded[:-1])
        return crop(self.head(self._decode(1, again)[0]), size)

    def _encode(
        self, number: int, x: Tensor, bridges: Sequence[Tensor], skips: Sequence[Tensor]
    ) -> list[Tensor]:
        """Features of all stages, finest first."""
        features: list[Tensor] = []
        for place, stage in enumerate(listed(self.encoders[number])):
            if place:
                x = self.pools[place - 1](features[-1])
                if bridges:
                    x = torch.cat([x, bridges[place - 1]], dim=1)
            x = stage(x)
            features.append(x + skips[place] if place < len(skips) else x)
        return features

    def _decode(self, number: int, features: Sequence[Tensor]) -> list[Tensor]:
        """Decoded features of all stages, finest first; the coarsest are those given."""
        decoded = [features[-1]]
        for up, fuse, skip in zip(
            listed(self.ups[number]), listed(self.decoders[number]), features[-2::-1], strict=True
        ):
            decoded.append(fuse(torch.cat([skip, up(decoded[-1])], dim=1)))
        return decoded[::-1]
