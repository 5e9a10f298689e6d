"""What a measured plan tells a network about its own shape."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from medseg3d.errors import ConfigError

Edges = tuple[int, ...]
"""One integer per axis of the images: three, or two of a slice."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Resolutions and sizes that suit the data; each network reads what it can use.

    Args:
        patch_size: Training patch in voxels.
        strides: Downsampling entering each stage but the first, per voxel axis.
        kernels: Kernel size of every stage, per voxel axis.
        width: Feature channels of the finest stage of a plain U-Net.
        max_width: Upper limit of the feature channels of any stage.
        slice_axis: Axis across the slices that a network of two dimensions sees one by one.

    Raises:
        ConfigError: If there is not one kernel more than strides.
    """

    patch_size: Edges
    strides: tuple[Edges, ...]
    kernels: tuple[Edges, ...]
    width: int = 32
    max_width: int = 320
    slice_axis: int | None = None

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
    def total_stride(self) -> Edges:
        """Downsampling from the finest to the coarsest stage, per voxel axis."""
        axes = range(len(self.patch_size))
        return tuple(prod(stride[axis] for stride in self.strides) for axis in axes)

    def in_plane(self, axis: int) -> "Topology":
        """What is left of it for the slices across an axis.

        Examples:
            >>> flat = Topology(
            ...     patch_size=(64, 48, 1),
            ...     strides=((2, 2, 1), (2, 1, 1)),
            ...     kernels=((3, 3, 1),) * 3,
            ... )
            >>> flat.in_plane(2).patch_size, flat.in_plane(2).strides
            ((64, 48), ((2, 2), (2, 1)))
        """

        def flattened(edges: Edges) -> Edges:
            return edges[:axis] + edges[axis + 1 :]

        return replace(
            self,
            patch_size=flattened(self.patch_size),
            strides=tuple(map(flattened, self.strides)),
            kernels=tuple(map(flattened, self.kernels)),
            slice_axis=None,
        )

    def first_strides(self, count: int) -> tuple[Edges, ...]:
        """So many strides, of which those that the plan lacks leave all as it is."""
        ones = ((1,) * len(self.patch_size),) * count
        return (*self.strides, *ones)[:count]

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

        return min(range(len(self.patch_size))[::-1], key=effort)
