"""The order in which windows are computed, so that few planes need be held.

Windows come in layers along one axis. Once a layer is done, the planes before the next one are
finished; they are handed on and their memory is used again. So no more planes are held than a
window has, and one, for all labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

from medseg3d.inference.windows import fit_window, starts
from medseg3d.types import Size3

FLOAT = 4
"""Bytes of a logit."""


@dataclass(frozen=True)
class Strip:
    """A part of every plane that is computed on its own.

    Attributes:
        axis: Voxel axis that it is a part of.
        first: First voxel along it.
        end: One more than the last voxel that belongs to it.
        stop: One more than the last that it holds, for interpolating between strips.
    """

    axis: int
    first: int
    end: int
    stop: int


@dataclass(frozen=True)
class Course:
    """Where the windows lie in a volume, and along which axis the slab rolls.

    Attributes:
        shape: Voxels of the volume.
        window: Voxels of a window, more than the volume has in places.
        overlap: Fraction of a window shared with its neighbor.
        slice_axis: Axis across slices that are seen one by one, so that windows share as few of
            them as they can.
    """

    shape: Size3
    window: Size3
    overlap: float
    slice_axis: int | None = None

    @classmethod
    def through(
        cls,
        shape: Size3,
        window: Size3,
        overlap: float,
        *,
        divisor: Size3 = (1, 1, 1),
        slice_axis: int | None = None,
    ) -> Course:
        """The course with the window that suits the volume; see :func:`.windows.fit_window`."""
        fitted = fit_window(shape, window, divisor, slice_axis)
        return cls(shape, fitted, overlap, slice_axis)

    @cached_property
    def starts(self) -> tuple[list[int], list[int], list[int]]:
        """First voxels of the windows along each axis."""
        overlaps = [0.0 if axis == self.slice_axis else self.overlap for axis in range(3)]
        i, j, k = map(starts, self.shape, self.window, overlaps)
        return i, j, k

    @cached_property
    def axis(self) -> int:
        """Axis along which the slab is the smallest part of the volume, else the longest."""
        return min(range(3), key=lambda n: (self._depth(n) / self.shape[n], -self.shape[n]))

    @property
    def axes(self) -> Size3:
        """The axis of the planes, then those within a plane, ascending."""
        across = [n for n in range(3) if n != self.axis]
        return self.axis, across[0], across[1]

    @property
    def depth(self) -> int:
        """Planes that are held at once."""
        return self._depth(self.axis)

    @property
    def layers(self) -> list[int]:
        """First planes of the layers of windows, in turn."""
        return self.starts[self.axis]

    def places(self, layer: int, strip: Strip) -> list[Size3]:
        """First voxels of the windows of a layer that reach into a strip, in turn."""
        along = list(self.starts)
        along[self.axis] = [layer]
        edge = self.window[strip.axis]
        along[strip.axis] = [
            start
            for start in along[strip.axis]
            if start + edge > strip.first and start < strip.stop
        ]
        return list(product(*along))  # type: ignore[arg-type]

    def strips(self, num_labels: int, most_bytes: int | None) -> list[Strip]:
        """As few strips as have slabs of at most so many bytes.

        At the boundary of two strips the windows that reach into both are computed twice, so
        a strip is never narrower than a window, whatever the memory.
        """
        _, a, b = self.axes
        axis = b if self.shape[b] > self.shape[a] else a
        length = self.shape[axis]
        count, found = 1, [Strip(axis, 0, length, length)]
        while most_bytes is not None and self.bytes_of(found, num_labels) > most_bytes:
            count += 1
            if length < count * self.window[axis]:
                break
            edges = [length * part // count for part in range(count + 1)]
            found = [
                Strip(axis, first, end, min(end + 1, length)) for first, end in pairwise(edges)
            ]
        return found

    def bytes_of(self, strips: list[Strip], num_labels: int) -> int:
        """Memory of the slab for the largest of some strips."""
        _, a, b = self.axes
        other = self.shape[a if strips[0].axis == b else b]
        widest = max(strip.stop - strip.first for strip in strips)
        return FLOAT * (num_labels + 1) * self.depth * widest * other

    def _depth(self, axis: int) -> int:
        single = len(self.starts[axis]) == 1
        return self.shape[axis] if single else self.window[axis] + 1
