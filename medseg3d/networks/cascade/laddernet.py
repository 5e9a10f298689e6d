"""U-shapes in a row whose equal stages are added, of residual units with one shared kernel.

Reference:
    Zhuang, "LadderNet: multi-path networks based on U-Net for medical image segmentation",
    2018. arXiv:1810.07810

The figure has a normalization after each convolution, the released code none; here each pass
through the shared kernel has its own. The features of the coarsest stage are not linked, as in
the code.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

DROPOUT = 0.25


@NETWORKS.register(
    "laddernet", title="LadderNet", year=2018, paper="1810.07810", dims=(2, 3), parameters=1_381_652
)
class LadderNet(nn.Module):
    """Two U-shapes; the second adds the decoder of the first, stage by stage, going down.

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
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("laddernet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        finest = stages.widths[0]
        conv = style.operators.conv(in_channels, finest, 3, padding=1)
        self.stem = nn.Sequential(conv, nn.ReLU())
        self.enter = SharedResidual(finest, style=style)
        self.first = _Rung(stages, style)
        self.second = _Rung(stages, style)
        self.head = style.operators.conv(finest, out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The released two-dimensional network for vessels, 1 -> 2 channels, five resolutions."""
        return cls(1, 2, width=10, strides=(2, 2, 2, 2), norm="none", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        decoded = self.first(self.stem(pad_to_multiple(x, self.divisor)), ())
        decoded = self.second(self.enter(decoded[0]), decoded)
        return crop(self.head(decoded[0]), size)


class _Rung(nn.Module):
    """One U-shape; gives the decoded features of all stages but the coarsest, finest first."""

    def __init__(self, stages: Stages, style: Style) -> None:
        super().__init__()
        conv, up = style.operators.conv, style.operators.conv_transpose
        widths = stages.widths
        self.down_units = nn.ModuleList(SharedResidual(n, style=style) for n in widths[:-1])
        self.downs = nn.ModuleList(
            nn.Sequential(conv(here, below, 3, step, 1), nn.ReLU())
            for (here, below), step in zip(pairwise(widths), stages.steps, strict=True)
        )
        self.bottom = SharedResidual(widths[-1], style=style)
        self.ups = nn.ModuleList(
            up(below, here, 3, step, 1, tuple(edge - 1 for edge in step))
            for (below, here), step in zip(pairwise(widths[::-1]), stages.steps[::-1], strict=True)
        )
        self.up_units = nn.ModuleList(SharedResidual(n, style=style) for n in widths[-2::-1])

    def forward(self, x: Tensor, links: Sequence[Tensor]) -> list[Tensor]:
        skips = []
        for place, (unit, down) in enumerate(zip(self.down_units, self.downs, strict=True)):
            skips.append(unit(x + links[place] if links else x))
            x = down(skips[-1])
        x = self.bottom(x)
        decoded: list[Tensor] = []
        for up, unit in zip(self.ups, self.up_units, strict=True):
            x = unit(up(x) + skips.pop())
            decoded.append(x)
        return decoded[::-1]


class SharedResidual(nn.Module):
    """One convolution used twice, added to the input.

    Shape:
        - input and output: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        self.conv = style.operators.conv(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(style.make_norm(channels) for _ in range(2))
        dropout = {2: nn.Dropout2d, 3: nn.Dropout3d}[style.spatial_dims]
        self.between = nn.Sequential(nn.ReLU(), dropout(DROPOUT))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve twice with the same kernel, add."""
        once = self.between(self.norms[0](self.conv(x)))
        total: Tensor = self.act(x + self.norms[1](self.conv(once)))
        return total
