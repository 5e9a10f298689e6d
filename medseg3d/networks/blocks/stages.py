"""Stages of a U: how wide each is, and what leads from one to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

from torch import nn

from medseg3d.errors import ConfigError
from medseg3d.networks.blocks.conv import ConvNormAct
from medseg3d.networks.blocks.dimensions import per_stage
from medseg3d.networks.blocks.style import Style

Step = tuple[int, ...]


@dataclass(frozen=True)
class Stages:
    """Widths of all stages, finest first, and the step between each two.

    Attributes:
        widths: Feature channels per stage.
        steps: Downsampling per axis entering each stage but the first.
    """

    widths: tuple[int, ...]
    steps: tuple[Step, ...]

    @classmethod
    def of(
        cls,
        network: str,
        width: int,
        max_width: int,
        strides: Sequence[int | Sequence[int]],
        spatial_dims: int,
    ) -> "Stages":
        """Widths that double up to ``max_width``, one stage more than there are strides.

        Raises:
            ConfigError: If there is no stride, or one does not fit.
        """
        if not strides:
            raise ConfigError(f"{network} needs at least one stride, got none; add stages")
        steps = per_stage(strides, len(strides), spatial_dims)
        widths = tuple(min(width * 2**stage, max_width) for stage in range(len(steps) + 1))
        return cls(widths, steps)

    @classmethod
    def with_widths(
        cls,
        network: str,
        widths: Sequence[int],
        strides: Sequence[int | Sequence[int]],
        spatial_dims: int,
    ) -> "Stages":
        """Any widths, one more than there are strides.

        Raises:
            ConfigError: If their numbers do not fit, or a stride does not.
        """
        if len(widths) != len(strides) + 1:
            raise ConfigError(
                f"{network}: {len(strides)} strides need {len(strides) + 1} widths, got "
                f"{len(widths)}"
            )
        return cls(tuple(widths), per_stage(strides, len(strides), spatial_dims))

    @property
    def divisor(self) -> Step:
        """Product of all steps per axis."""
        return tuple(prod(axis) for axis in zip(*self.steps, strict=True))

    def scale(self, stage: int) -> Step:
        """Voxels of the image per voxel of a stage, per axis."""
        ones = (1,) * len(self.steps[0])
        return tuple(prod(axis) for axis in zip(ones, *self.steps[:stage], strict=True))

    def pools(self, style: Style) -> nn.ModuleList:
        """Max pooling into each stage but the first."""
        return nn.ModuleList(style.operators.max_pool(step, step) for step in self.steps)


def listed(modules: nn.Module) -> nn.ModuleList:
    """A list within a list of modules, whose items torch types as plain modules."""
    return cast(nn.ModuleList, modules)


class UpConv(nn.Sequential):
    """Nearest upsampling, then convolution, normalization, activation.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp * stride)``
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: Step, style: Style) -> None:
        super().__init__(
            nn.Upsample(scale_factor=tuple(map(float, stride)), mode="nearest"),
            ConvNormAct(in_channels, out_channels, style=style),
        )


def linear_upsampling(stride: Step) -> nn.Upsample:
    """Bilinear or trilinear upsampling between voxel centers."""
    mode = "bilinear" if len(stride) == 2 else "trilinear"
    return nn.Upsample(scale_factor=tuple(map(float, stride)), mode=mode, align_corners=False)
