"""U-Net with dense links between neighboring scales, down, up and across.

Reference:
    Zhang et al., "MDU-Net: multi-scale densely connected U-Net for biomedical image
    segmentation", 2018. arXiv:1812.00352

The figure prints no widths, 64 to 1024 are assumed. Features go to a coarser scale by max
pooling and to a finer one by repetition. The quantization of the weights is left out.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "mdu_net", title="MDU-Net", year=2018, paper="1812.00352", dims=(2, 3), parameters=17_586_562
)
class MDUNet(nn.Module):
    """Every stage fuses up to three scales by a pointwise convolution, before and after.

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
        stages = Stages.of("mdu_net", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        conv, widths = style.operators.conv, stages.widths
        last = len(widths) - 1
        self._stages, self._last = stages, last
        self.pools = stages.pools(style)
        # the encoder: the input of a stage is as wide as the stage before it
        inputs = [in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(
            ConvStack(inputs[here], widths[here], style=style) for here in range(last)
        )
        self.fuse_down = nn.ModuleList(
            conv(widths[here - 1] + sum(inputs[max(0, here - 2) : here]), inputs[here], 1)
            for here in range(1, last + 1)
        )
        self.bottom = conv(inputs[last], widths[last], 1)
        # the decoder, coarsest stage first
        encoded = [*widths[:-1], inputs[last]]
        self.ups, self.fuse_across = nn.ModuleList(), nn.ModuleList()
        self.decoder, self.fuse_up = nn.ModuleList(), nn.ModuleList()
        for here in range(last - 1, -1, -1):
            step = stages.steps[here]
            self.ups.append(
                style.operators.conv_transpose(widths[here + 1], widths[here], step, step)
            )
            across = sum(encoded[k] for k in self._neighbors(here))
            self.fuse_across.append(conv(widths[here] + across, widths[here], 1))
            self.decoder.append(ConvStack(widths[here], widths[here], style=style))
            coarser = sum(widths[here + 1 : here + 3])
            self.fuse_up.append(conv(widths[here] + coarser, widths[here], 1))
        self.head = conv(widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The two-dimensional network, 3 -> 2 channels."""
        return cls(3, 2, width=64, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        inputs = [pad_to_multiple(x, self.divisor)]
        encoded = [self.encoder[0](inputs[0])]
        for here, fuse in enumerate(self.fuse_down, start=1):
            before = [self._to(inputs[k], k, here) for k in range(max(0, here - 2), here)]
            pooled = self._to(encoded[-1], here - 1, here)
            inputs.append(fuse(torch.cat([pooled, *before], dim=1)))
            encoded.append(self.encoder[here](inputs[-1]) if here < self._last else inputs[-1])
        decoded = {self._last: self.bottom(encoded[-1])}
        here = self._last
        for up, across, block, fuse in zip(
            self.ups, self.fuse_across, self.decoder, self.fuse_up, strict=True
        ):
            here -= 1
            beside = [self._to(encoded[k], k, here) for k in self._neighbors(here)]
            z = block(across(torch.cat([up(decoded[here + 1]), *beside], dim=1)))
            coarser = range(here + 1, min(here + 3, self._last + 1))
            above = [self._to(decoded[k], k, here) for k in coarser]
            decoded[here] = fuse(torch.cat([z, *above], dim=1))
        return crop(self.head(decoded[0]), size)

    def _neighbors(self, here: int) -> range:
        """Encoder stages that a decoder stage reads: itself and two beside it."""
        first = max(0, min(here - 1, self._last - 2))
        return range(first, min(first + 3, self._last + 1))

    def _to(self, x: Tensor, source: int, here: int) -> Tensor:
        """Features of one stage in the size of another."""
        for pool in self.pools[source:here]:
            x = pool(x)
        for step in self._stages.steps[here:source]:
            for axis, times in enumerate(step, start=2):
                x = x.repeat_interleave(times, dim=axis)
        return x
