"""U-Net that also reads smaller copies of its input and decides from all scales.

Reference:
    Mehta and Sivaswamy, "M-Net: a convolutional neural network for deep brain structure
    segmentation", ISBI 2017. https://doi.org/10.1109/ISBI.2017.7950555

The published network squeezes a slab of slices to its middle slice by one convolution across
all of them and goes on in two dimensions: ``slab=51``. Here every slice gets its slab, with
zeros beyond the ends. Without a slab all is done in the dimensions of the image. The figure
normalizes and activates the logits too; here they are plain.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import lcm, prod
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    OPERATORS,
    Style,
    crop,
    from_slices,
    he_initialize,
    pad_to_multiple,
    per_stage,
)
from medseg3d.networks.blocks.stages import Step
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.dense.denseunet import SliceFrame
from medseg3d.networks.topology import Topology

IN_PLANE = 7
POOLINGS = 3


@NETWORKS.register(
    "m_net",
    title="M-Net",
    year=2017,
    paper="10.1109/ISBI.2017.7950555",
    dims=(2, 3),
    parameters=754_255,
)
class MNet(nn.Module):
    """Left leg: the input pooled; right leg: features of all stages; between them a U.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage.
        strides: Of the three poolings, one integer or one per axis.
        slab: Odd number of slices that one convolution brings into each slice; 0 for none.
        slice_axis: Voxel axis across the slices of a slab, where strides are not used.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3; a slab needs 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there are not three strides, one does not fit, or the slab cannot be.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
        slab: int = 0,
        slice_axis: int = -1,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        if len(strides) != POOLINGS:
            raise ConfigError(f"m_net needs {POOLINGS} strides, got {len(strides)}")
        if slab and (slab < 0 or slab % 2 == 0 or spatial_dims == 2):
            raise ConfigError(
                f"m_net: a slab is an odd number of slices of a volume, got {slab} and "
                f"spatial_dims={spatial_dims}"
            )
        steps = per_stage(strides, POOLINGS, spatial_dims)
        self.frame: SliceFrame | None = None
        if slab:
            steps = tuple(step[: slice_axis % 3] + step[slice_axis % 3 + 1 :] for step in steps)
            self.frame = SliceFrame(slice_axis, in_plane=lcm(*_divisor(steps)), across=1)
            self.converter = OPERATORS[3].conv(
                in_channels,
                width,
                (IN_PLANE, IN_PLANE, slab),
                padding=(IN_PLANE // 2, IN_PLANE // 2, slab // 2),
            )
        dims = 2 if slab else spatial_dims
        style = Style(norm=norm, activation="relu", spatial_dims=dims)
        self.body = MBody(width if slab else in_channels, out_channels, width, steps, style=style)
        self.divisor: Step = self.frame.divisor if self.frame else self.body.divisor
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network of slabs of 51 slices, 1 -> 15 channels."""
        return cls(1, 15, slab=51, norm="batch")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """The plan's strides, three of them, half its width, and its coarsest axis."""
        return {
            "width": max(1, topology.width // 2),
            "strides": topology.first_strides(POOLINGS),
            "slice_axis": topology.coarse_axis,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        if self.frame is None:
            return crop(self.body(pad_to_multiple(x, self.divisor)), size)
        seen = self.converter(self.frame.enter(x))
        slices = seen.permute(0, 4, 1, 2, 3).flatten(0, 1)
        return self.frame.leave(from_slices(self.body(slices), x.shape[0]), size)


class MBody(nn.Module):
    """The M without what squeezes slabs.

    Args:
        in_channels: Channels of the left leg.
        out_channels: Logit channels.
        width: Channels of the finest stage.
        steps: Of the three poolings.
        style: Normalization and dimensions.

    Shape:
        - input: ``(B, in_channels, *sp)``, divisible by the steps
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        steps: Sequence[Step],
        *,
        style: Style,
    ) -> None:
        super().__init__()
        self.divisor = _divisor(steps)
        legs = (0, 2 * width, 3 * width, 4 * width)  # what joins the left leg
        inner, outer = (1, 2, 3, 4), (2, 3, 4, 8)
        self.encoder = nn.ModuleList(
            _Cell(in_channels + before, a * width, b * width, style)
            for before, a, b in zip(legs, inner, outer, strict=True)
        )
        self.bottom = _ConvActNorm(8 * width, 4 * width, style)
        self.decoder = nn.ModuleList(
            _Cell(2 * a * width, a * width, b * width, style) for a, b in ((4, 3), (3, 2), (2, 1))
        )
        self.pools = nn.ModuleList(style.operators.max_pool(step, step) for step in steps)
        self.ups = nn.ModuleList(
            nn.Upsample(scale_factor=tuple(map(float, step)), mode="nearest")
            for step in steps[::-1]
        )
        self.head = style.operators.conv((4 + 3 + 2 + 1) * width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the input."""
        skips = [self.encoder[0](x)]
        for stage, pool in zip(self.encoder[1:], self.pools, strict=True):
            x = pool(x)
            skips.append(stage(torch.cat([x, pool(skips[-1])], dim=1)))
        x = right = self.bottom(skips.pop())
        for up, stage in zip(self.ups, self.decoder, strict=True):
            x = stage(torch.cat([skips.pop(), up(x)], dim=1))
            right = torch.cat([up(right), x], dim=1)
        logits: Tensor = self.head(right)
        return logits


def _divisor(steps: Sequence[Step]) -> Step:
    return tuple(prod(axis) for axis in zip(*steps, strict=True))


class _Cell(nn.Module):
    """Two convolutions, of which the second reads the input too."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.first = _ConvActNorm(in_channels, inner, style)
        self.second = _ConvActNorm(in_channels + inner, out_channels, style)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.cat([self.first(x), x], dim=1))
        return result


class _ConvActNorm(nn.Sequential):
    """Convolution, activation, normalization, in this order."""

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__(
            OrderedDict(
                conv=style.operators.conv(in_channels, out_channels, 3, padding=1),
                act=nn.ReLU(inplace=True),
                norm=style.make_norm(out_channels),
            )
        )
