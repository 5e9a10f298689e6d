"""How volumes are cut into slices for a network of two dimensions."""

from dataclasses import dataclass
from math import inf
from typing import Literal, TypeVar

from medseg3d.data.stages import topology
from medseg3d.errors import ConfigError
from medseg3d.types import Size3, Spacing

T = TypeVar("T")

LEAST_BATCH = 12
"""Slices of a training step, as nnU-Net has it: two would be too much alike."""

LARGEST_CPU_BATCH = 32
"""Where time and not memory is short, more steps are worth more than more slices in each."""


@dataclass(frozen=True)
class Slices:
    """Across which axis the slices lie, and how many the network sees at once.

    Attributes:
        axis: Voxel axis across the slices.
        slab: Odd number of slices, the middle one being labeled; 1 for no neighbors.
    """

    axis: Literal[0, 1, 2]
    slab: int

    @classmethod
    def across(cls, shape: Size3, spacing: Spacing, slab: int) -> "Slices":
        """Slices of cases that are one each, or else across the axis with the largest spacing.

        Of equal spacings it is the last one.

        Examples:
            >>> Slices.across((20, 256, 256), (5.0, 0.7, 0.7), 1)
            Slices(axis=0, slab=1)
            >>> Slices.across((90, 80, 70), (1.0, 1.0, 1.0), 3)
            Slices(axis=2, slab=3)
            >>> Slices.across((256, 256, 1), (1.4, 1.4, 1.0), 1)
            Slices(axis=2, slab=1)
        """
        single = [edge == 1 for edge in shape]
        i, j, k = single if sum(single) == 1 else spacing
        return cls(2 if k >= max(i, j) else 1 if j >= i else 0, slab)

    @property
    def least_batch(self) -> int:
        """Patches of a training step; a few slabs hold slices enough."""
        return LEAST_BATCH if self.slab == 1 else 2

    def patch_of(self, shape: Size3) -> Size3:
        """A volume of ``shape`` cut to the slices of a patch.

        All slices of a patch are labeled. Those at its ends lack neighbors, so that a slab needs
        more than one.

        Examples:
            >>> Slices(2, 1).patch_of((90, 80, 70)), Slices(0, 3).patch_of((90, 80, 70))
            ((90, 80, 1), (8, 80, 70))
        """
        depth = 1 if self.slab == 1 else max(self.slab, min(4 * (self.slab - 1), shape[self.axis]))
        return with_edge(shape, self.axis, depth)

    def topology(
        self, patch: Size3, spacing: Spacing
    ) -> tuple[tuple[Size3, ...], tuple[Size3, ...]]:
        """Strides and kernels that do nothing across the slices; see :func:`.stages.topology`.

        Examples:
            >>> strides, kernels = Slices(2, 3).topology((16, 32, 8), (1.0, 1.0, 1.0))
            >>> strides, set(kernels)
            (((2, 2, 1), (2, 2, 1), (1, 2, 1)), {(3, 3, 1)})
        """
        return topology(with_edge(patch, self.axis, 1), with_edge(spacing, self.axis, inf))

    def expect(self, patch: Size3) -> None:
        """Refuse a patch that was meant for volumes.

        Raises:
            ConfigError: If it has several slices where one is seen, or fewer than are seen.
        """
        depth = patch[self.axis]
        if (depth == 1) if self.slab == 1 else (depth >= self.slab):
            return
        wanted = self.patch_of(patch)
        raise ConfigError(
            f"patch_size {_times(patch)} does not suit slices across axis {self.axis} of which "
            f"the network sees {self.slab} at once; give {_times(wanted)}, or leave it out"
        )


def with_edge(edges: tuple[T, T, T], axis: int, edge: T) -> tuple[T, T, T]:
    """The same with another value for one axis.

    Examples:
        >>> with_edge((4, 5, 6), 2, 1)
        (4, 5, 1)
    """
    i, j, k = (edge if n == axis else same for n, same in enumerate(edges))
    return i, j, k


def _times(patch: Size3) -> str:
    return " x ".join(map(str, patch))
