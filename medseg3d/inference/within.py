"""Probabilities and uncertainty of a region, with background outside as in the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import Box
from medseg3d.inference.kernels import AIR
from medseg3d.inference.planes import Logits, PlaneSink
from medseg3d.types import Mask


class Within:
    """Hands planes on, with logits of nothing but background outside a region.

    Args:
        sinks: Get the planes.
        box: Box that holds the region, in RAS+ order, with both ends given.
        mask: ``(I, J, K)`` in RAS+ order; None for the whole box.
    """

    def __init__(self, sinks: Sequence[PlaneSink], box: Box, mask: Mask | None = None) -> None:
        self._sinks = sinks
        self._box = box
        self._mask = mask

    def take(self, axis: int, index: int, corner: tuple[int, int], logits: Logits) -> None:
        """See :class:`.planes.PlaneSink`; changes ``logits``."""
        outside = ~self._inside(axis, index, corner, logits.shape[1:])
        logits[0, outside] = 0
        logits[1:, outside] = AIR
        for sink in self._sinks:
            sink.take(axis, index, corner, logits)

    def _inside(
        self, axis: int, index: int, corner: tuple[int, int], shape: tuple[int, ...]
    ) -> npt.NDArray[np.bool_]:
        """Which voxels ``(A, B)`` of a part of a plane belong to the region."""
        inside = np.zeros(shape, np.bool_)
        if not self._box[axis].start <= index < self._box[axis].stop:
            return inside
        across = [edge for number, edge in enumerate(self._box) if number != axis]
        parts = zip(across, corner, strict=True)
        rows, columns = (
            slice(max(0, edge.start - first), max(0, edge.stop - first)) for edge, first in parts
        )
        inside[rows, columns] = True
        if self._mask is not None:
            plane = np.moveaxis(self._mask, axis, 0)[index]
            (first, left), (height, width) = corner, shape
            inside &= plane[first : first + height, left : left + width]
        return inside
