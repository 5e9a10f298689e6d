"""What a measured plan tells a network about its own shape."""

from dataclasses import dataclass
from math import prod
from typing import Any

from medseg3d.errors import ConfigError
from medseg3d.types import Size3


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Resolutions and sizes that suit the data; each network reads what it can use.

    Args:
        patch_size: Training patch in voxels.
        strides: Downsampling entering each stage but the first, per voxel axis.
        kernels: Kernel size of every stage, per voxel axis.
        width: Feature channels of the finest stage of a plain U-Net.
        max_width: Upper limit of the feature channels of any stage.

    Raises:
        ConfigError: If there is not one kernel more than strides.
    """

    patch_size: Size3
    strides: tuple[Size3, ...]
    kernels: tuple[Size3, ...]
    width: int = 32
    max_width: int = 320

    def __post_init__(self) -> None:
        if len(self.kernels) != len(self.strides) + 1:
            raise ConfigError(
                f"topology: {len(self.strides)} strides need {len(self.strides) + 1} kernels, "
                f"got {len(self.kernels)}"
            )

    @property
    def num_stages(self) -> int:
        """Resolutions, the finest included."""
        return len(self.kernels)

    @property
    def total_stride(self) -> Size3:
        """Downsampling from the finest to the coarsest stage, per voxel axis."""
        i, j, k = (prod(stride[axis] for stride in self.strides) for axis in range(3))
        return i, j, k

    def unet_options(self, *, share: float = 1.0) -> dict[str, Any]:
        """What a U with one width and one stride per stage can use of it.

        Args:
            share: Factor on the widths, for networks that hold more per channel.
        """
        return {
            "width": max(1, round(self.width * share)),
            "max_width": max(1, round(self.max_width * share)),
            "strides": self.strides,
        }

    @property
    def coarse_axis(self) -> int:
        """The axis that is downsampled least, then convolved least; the last axis of equals.

        Examples:
            >>> flat = Topology(
            ...     patch_size=(8, 64, 64),
            ...     strides=((1, 2, 2), (2, 2, 2)),
            ...     kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
            ... )
            >>> flat.coarse_axis
            0
        """

        def effort(axis: int) -> tuple[int, int]:
            return self.total_stride[axis], sum(kernel[axis] for kernel in self.kernels)

        return min((2, 1, 0), key=effort)
