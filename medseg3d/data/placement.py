"""Where the voxels that a network sees lie in the image as it is stored, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import Box, CanonicalCase
from medseg3d.errors import DataError
from medseg3d.geometry.orientation import Reorientation
from medseg3d.geometry.resampling import AxisMap
from medseg3d.types import LabelMap, Size3


@dataclass(frozen=True)
class Placement:
    """Where a working grid lies in the native one.

    Attributes:
        canonical_shape: Voxels of the whole case in RAS+ order.
        box: Part of it that the whole working grid covers.
        reorientation: Way back to the native order.
        shape: Voxels of the whole working grid.
        part: Voxels of the whole case that are of interest, within the box.
        held: Voxels of the working grid that they touch, which the working image holds.
    """

    canonical_shape: Size3
    box: Box
    reorientation: Reorientation
    shape: Size3
    part: Box
    held: Box

    @property
    def held_shape(self) -> Size3:
        """Voxels of the working image."""
        i, j, k = (held.stop - held.start for held in self.held)
        return i, j, k

    def maps(self) -> tuple[AxisMap, AxisMap, AxisMap]:
        """Where the voxels of the part, in RAS+ order, lie in the working image."""
        i, j, k = (
            _axis_map(*axis)
            for axis in zip(
                self.box, self.part, self.held, self.canonical_shape, self.shape, strict=True
            )
        )
        return i, j, k

    def empty_labels(self, values: Sequence[int] | npt.NDArray[Any]) -> tuple[LabelMap, LabelMap]:
        """A label map of background to write into.

        Args:
            values: Label values that it shall be able to hold.

        Returns:
            The label map ``(I, J, K)`` in native order as files store it, first axis fastest,
            of the smallest unsigned type; and a view of it in RAS+ order.
        """
        kind = np.min_scalar_type(int(np.max(values)))
        native: LabelMap = np.zeros(self.reorientation.source.shape, kind, order="F")
        return native, self.reorientation.apply(native)


def within(part: Box, box: Box, whole: Size3) -> Box:
    """What a part and the box, both of canonical voxels, have in common.

    Raises:
        DataError: If that is nothing.
    """
    common = []
    for chosen, kept, n in zip(part, box, whole, strict=True):
        (first, last, _), (low, high, _) = chosen.indices(n), kept.indices(n)
        common.append(slice(max(first, low), min(last, high)))
    if any(edge.start >= edge.stop for edge in common):
        raise DataError("the part to look at holds nothing but zeros; choose another")
    return common[0], common[1], common[2]


def place(case: CanonicalCase, box: Box, shape: Size3, part: Box) -> Placement:
    """Where the working grid lies, and which of its voxels the part touches."""
    held = []
    for inside, kept, n, after in zip(part, box, case.grid.shape, shape, strict=True):
        low, high, _ = kept.indices(n)
        first, last, before = inside.start - low, inside.stop - low, high - low
        held.append(slice(first * after // before, -(-last * after // before)))
    cut = held[0], held[1], held[2]
    return Placement(case.grid.shape, box, case.reorientation, shape, part, cut)


def _axis_map(box: slice, part: slice, held: slice, whole: int, after: int) -> AxisMap:
    """Along one axis of ``whole`` voxels, of which the box becomes ``after`` working ones."""
    low, high, _ = box.indices(whole)
    places = (np.arange(part.start, part.stop) - low + 0.5) * (after / (high - low)) - 0.5
    return AxisMap(part.start, (places - held.start).clip(0, held.stop - held.start - 1))
