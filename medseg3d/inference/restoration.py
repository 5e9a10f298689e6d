"""From the finished planes of a slab to labels on the native grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.geometry.resampling import AxisMap
from medseg3d.inference.kernels import restore
from medseg3d.inference.planes import PlaneSink
from medseg3d.inference.slab import Slab, share
from medseg3d.types import LabelMap

TOGETHER = 16
"""Planes written at once where voxels of neighboring planes are neighbors in memory."""

LARGEST = np.iinfo(np.uint16).max
"""The largest value of a label that is written without a detour."""

ROWS = 32
"""Rows written at once, few enough to stay in a processor's cache."""


@dataclass(frozen=True)
class Line:
    """Where voxels along one axis of the native grid lie in a slab.

    Attributes:
        first: The first of them.
        before: For each, the voxel of the slab before it, ascending.
        parts: How far it lies towards the next one, 0 to 1.
    """

    first: int
    before: npt.NDArray[np.int64]
    parts: npt.NDArray[np.float32]

    @classmethod
    def of(cls, axis_map: AxisMap) -> Line:
        """From positions in the whole working image."""
        positions = np.asarray(axis_map.positions, dtype=np.float64)
        before = np.floor(positions).astype(np.int64)
        return cls(axis_map.first, before, (positions - before).astype(np.float32))

    def within(self, first: int, end: int) -> Line:
        """Only those that lie from ``first`` on and before ``end``, counted from ``first``.

        Examples:
            >>> line = Line.of(AxisMap(4, np.array([0.0, 0.5, 1.0, 1.5, 2.0])))
            >>> line.within(1, 2)
            Line(first=6, before=array([0, 0]), parts=array([0. , 0.5], dtype=float32))
        """
        low, high = np.searchsorted(self.before, [first, end]).tolist()
        return Line(self.first + low, self.before[low:high] - first, self.parts[low:high])

    def same_as(self, length: int) -> bool:
        """Whether they are the voxels of the slab one by one."""
        return np.array_equal(self.before, np.arange(length)) and not self.parts.any()


class Restoration:
    """Writes labels plane by plane, as soon as they can be told.

    Args:
        slab: Where the planes come from.
        maps: Where the native voxels lie in the working image, per axis.
        out: Native label map ``(I, J, K)``, any strides.
        values: Value to write for each logit; its number by default.
        sinks: Get the logits too.
        threads: How many planes to work on at once.
    """

    def __init__(
        self,
        slab: Slab,
        maps: tuple[AxisMap, AxisMap, AxisMap],
        out: LabelMap,
        values: npt.NDArray[np.integer[Any]] | None,
        *,
        sinks: Sequence[PlaneSink] = (),
        threads: int = 1,
    ) -> None:
        self.slab = slab
        self._sinks = sinks
        self._threads = threads
        lines = [Line.of(axis_map) for axis_map in maps]
        lines[slab.strip.axis] = lines[slab.strip.axis].within(slab.strip.first, slab.strip.end)
        self._planes, self._rows, self._columns = (lines[n] for n in slab.course.axes)
        parts = [slice(line.first, line.first + line.before.size) for line in lines]
        self._out = out[tuple(parts)].transpose(slab.course.axes)
        numbers = np.arange(slab.num_labels)
        wanted = numbers if values is None else values
        self._large = wanted if wanted.max() > LARGEST else None  # the kernel writes 16 bits
        self._values = (wanted if self._large is None else numbers).astype(np.uint16)
        self._same_columns = self._columns.same_as(slab.ring.shape[3])
        # a plane can be told once that plane of the slab is finished
        self._needs = self._planes.before + (self._planes.parts > 0)
        self._done = 0

    @property
    def num_labels(self) -> int:
        """Logits per voxel."""
        return self.slab.num_labels

    def advance_to(self, settled: int) -> None:
        """Write all planes that need only planes of the slab before ``settled``."""
        ready = int(np.searchsorted(self._needs, settled))
        steps = np.abs(self._out.strides)
        together = TOGETHER if steps[0] < steps[1:].min() else 1
        blocks = [
            range(first, min(first + together, ready))
            for first in range(self._done, ready, together)
        ]
        if self._out.size:
            share(self._write, blocks, threads=self._threads)
        self._done = ready

    def _write(self, block: range) -> None:
        labels = np.empty((len(block), *self._out.shape[1:]), np.uint16)
        for plane, into in zip(block, labels, strict=True):
            logits = self._restore(plane, into)
            for sink in self._sinks:
                corner = (self._rows.first, self._columns.first)
                sink.take(self.slab.course.axis, self._planes.first + plane, corner, logits)
        target = self._out[block.start : block.stop]
        for row in range(0, labels.shape[1], ROWS):
            found = labels[:, row : row + ROWS]
            target[:, row : row + ROWS] = found if self._large is None else self._large[found]

    def _restore(self, plane: int, into: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
        shape = (self.num_labels, *into.shape) if self._sinks else (1, 1, into.shape[1])
        logits = np.empty(shape, np.float32)
        before, part = int(self._planes.before[plane]), float(self._planes.parts[plane])
        depth = self.slab.course.depth
        restore(
            self.slab.ring,
            before % depth,
            (before + 1 if part > 0 else before) % depth,
            part,
            self._rows.before,
            self._rows.parts,
            self._columns.before,
            self._columns.parts,
            self._same_columns,
            self._values,
            into,
            logits,
        )
        return logits
