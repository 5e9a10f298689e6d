"""One table from the number of spatial dimensions to torch's modules, and per-axis sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from medseg3d.errors import ConfigError
from medseg3d.networks.blocks.batch_norm import BatchNorm2d, BatchNorm3d
from medseg3d.networks.blocks.conv3d import Conv3d, ConvTranspose3d

Size: TypeAlias = int | Sequence[int]
"""One integer for all axes, or one per axis."""

Sizes: TypeAlias = int | Sequence[int | Sequence[int]]
"""One integer for all stages and axes, or one size per stage, finest first."""


@dataclass(frozen=True)
class Operators:
    """Torch's modules for one number of spatial dimensions."""

    conv: type[nn.Module]
    conv_transpose: type[nn.Module]
    batch_norm: type[nn.Module]
    max_pool: type[nn.Module]
    average_pool: type[nn.Module]


OPERATORS = {
    2: Operators(nn.Conv2d, nn.ConvTranspose2d, BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d),
    3: Operators(Conv3d, ConvTranspose3d, BatchNorm3d, nn.MaxPool3d, nn.AvgPool3d),
}


def per_axis(size: Size, spatial_dims: int) -> tuple[int, ...]:
    """One positive integer per axis.

    Raises:
        ConfigError: If a sequence has another length, or a number is not positive.

    Examples:
        >>> per_axis(3, 2), per_axis([1, 3, 3], 3)
        ((3, 3), (1, 3, 3))
    """
    axes = (size,) * spatial_dims if isinstance(size, int) else tuple(size)
    if len(axes) != spatial_dims or min(axes) < 1:
        raise ConfigError(
            f"a size must be one positive integer or {spatial_dims} of them, got {size!r}"
        )
    return axes


def per_stage(
    sizes: Sizes, num_stages: int, spatial_dims: int, *, odd: bool = False
) -> tuple[tuple[int, ...], ...]:
    """One size per stage, each with one integer per axis.

    Raises:
        ConfigError: If a sequence does not have one entry per stage, or a number is even
            though ``odd`` asks for kernels that keep the size.

    Examples:
        >>> per_stage(3, 2, 2), per_stage([1, [3, 5]], 2, 2)
        (((3, 3), (3, 3)), ((1, 1), (3, 5)))
    """
    stages = (sizes,) * num_stages if isinstance(sizes, int) else tuple(sizes)
    if len(stages) != num_stages:
        raise ConfigError(
            f"{num_stages} stages need one size for all or {num_stages} of them, got {sizes!r}"
        )
    if odd and any(edge % 2 == 0 for size in stages for edge in per_axis(size, spatial_dims)):
        raise ConfigError(f"kernels must be odd, got {sizes!r}")
    return tuple(per_axis(size, spatial_dims) for size in stages)
