"""U-Net whose residual blocks are computed backwards instead of remembered.

Reference:
    Bruegger et al., "A partially reversible U-Net for memory-efficient volumetric image
    segmentation", MICCAI 2019. arXiv:1906.06148

The stem spans three voxels per axis, as in the released code; the figure has one.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.reversible import ReversibleSequence
from medseg3d.networks.blocks.stages import Stages, linear_upsampling
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "partially_reversible_unet",
    title="Partially reversible U-Net",
    year=2019,
    paper="1906.06148",
    dims=(2, 3),
    parameters=12_365_283,
)
class PartiallyReversibleUNet(nn.Module):
    """Additive couplings within each stage; pointwise convolutions between; skips are added.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        widths: Even number of feature channels per stage, finest first.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        depth: Reversible blocks per stage of the encoder; the decoder has one.
        reversible: Compute activations again while the gradients are worked out; otherwise they
            are kept, as in other networks.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If a width is odd, or strides and widths do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (60, 120, 240, 360, 480),
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        depth: int = 1,
        reversible: bool = True,
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        if any(width % 2 for width in widths):
            raise ConfigError(f"widths are halved and must be even, got {list(widths)}")
        style = Style(norm="none", activation="leaky_relu", spatial_dims=spatial_dims)
        stages = Stages.with_widths("partially_reversible_unet", widths, strides, spatial_dims)
        self.divisor = stages.divisor
        conv = style.operators.conv
        groups = max(1, widths[0] // 2)

        def sequence(channels: int, length: int) -> ReversibleSequence:
            return ReversibleSequence(
                channels, length, groups=groups, reversible=reversible, style=style
            )

        self.stem = conv(in_channels, widths[0], 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(sequence(here, depth) for here in widths)
        self.downs = nn.ModuleList(
            nn.Sequential(style.operators.max_pool(step, step), conv(here, below, 1))
            for (here, below), step in zip(pairwise(widths), stages.steps, strict=True)
        )
        self.decoder = nn.ModuleList(sequence(here, 1) for here in widths[::-1])
        self.ups = nn.ModuleList(
            nn.Sequential(conv(below, here, 1), linear_upsampling(step))
            for (below, here), step in zip(
                pairwise(tuple(widths)[::-1]), stages.steps[::-1], strict=True
            )
        )
        self.head = conv(widths[0], out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 4 -> 3 channels."""
        return cls(4, 3)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan; widths that grow as the published ones."""
        factors = (1, 2, 4, 6, 8)
        widths = [topology.width * factors[min(n, 4)] for n in range(topology.num_stages)]
        return {"widths": widths, "strides": topology.strides}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = self.stem(pad_to_multiple(x, self.divisor))
        skips = []
        for stage, down in zip(self.encoder, self.downs, strict=False):
            skips.append(stage(x))
            x = down(skips[-1])
        x = self.decoder[0](self.encoder[-1](x))
        for up, stage in zip(self.ups, self.decoder[1:], strict=True):
            x = stage(up(x) + skips.pop())
        return crop(self.head(x), size)
