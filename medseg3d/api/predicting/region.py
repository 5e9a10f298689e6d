"""The part of a case that is asked for with ``--roi`` or ``--roi-mask``."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg3d.config import PredictConfig
from medseg3d.data.canonical import Box, labels_on
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, DataError
from medseg3d.geometry.grid import Grid
from medseg3d.geometry.orientation import Reorientation
from medseg3d.io import case_stem, read_labels
from medseg3d.types import LabelMap, Mask, Size3, Spacing


@dataclass(frozen=True)
class Region:
    """Where labels are wanted.

    Attributes:
        box: Box that holds the region, in the order of the file.
        mask: ``(I, J, K)`` in the order of the file, None for the whole box.
    """

    box: Box
    mask: npt.NDArray[np.bool_] | None = None

    def canonical_box(self, turn: Reorientation, margin: Size3 = (0, 0, 0)) -> Box:
        """The box in RAS+ order with ``margin`` voxels around it, as far as there are any."""
        edges = []
        for axis, source in enumerate(turn.order):
            length = turn.source.shape[source]
            first, last, _ = self.box[source].indices(length)
            if turn.flips[axis]:
                first, last = length - last, length - first
            edges.append(slice(max(0, first - margin[axis]), min(length, last + margin[axis])))
        return edges[0], edges[1], edges[2]

    def canonical_mask(self, turn: Reorientation) -> Mask | None:
        """The mask in RAS+ order, None for the whole box."""
        return None if self.mask is None else turn.apply(self.mask)

    def keep(self, labels: LabelMap) -> None:
        """Put background outside, in place; ``labels`` has the order of the file."""
        inside = labels[self.box].copy()
        labels[...] = 0
        labels[self.box] = inside
        if self.mask is not None:
            labels[~self.mask] = 0


def region_of(config: PredictConfig, case_id: str, grid: Grid) -> Region | None:
    """What the options say about one case; None for everything.

    Raises:
        ConfigError: If the box does not fit the image.
        DataError: If there is no mask for the case, or it is empty or lies elsewhere.
    """
    if config.roi is not None:
        return Region(_box(config.roi, grid.shape))
    if config.roi_mask is None:
        return None
    (path,) = masks_of(config, case_id)
    mask = labels_on(read_labels(path), grid) != 0
    found = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if found[0].size == 0:
        raise DataError(f"the region in {path} is empty; mark something, or leave out --roi-mask")
    i, j, k = (slice(int(places[0]), int(places[-1]) + 1) for places in found)
    return Region((i, j, k), mask)


def masks_of(config: PredictConfig, case_id: str) -> tuple[Path, ...]:
    """The file of ``--roi-mask`` for a case, none where there is no such option.

    Raises:
        DataError: If there is no mask for the case, or more than one.
    """
    return () if config.roi_mask is None else (_mask_file(config.roi_mask, case_id),)


def surroundings(spacing: Spacing, plan: Plan) -> Size3:
    """Voxels around a region that the network sees to know what is inside: half a window."""
    i, j, k = (
        ceil(window * target / edge / 2)
        for window, target, edge in zip(plan.patch_size, plan.spacing, spacing, strict=True)
    )
    return i, j, k


def part_shape(config: PredictConfig, grid: Grid, plan: Plan) -> Size3:
    """Voxels of the part to look at along the RAS+ axes, as far as ``--roi`` tells.

    Raises:
        ConfigError: If the box does not fit the image.
    """
    turn = Reorientation.to_canonical(grid)
    if config.roi is None:
        return turn.grid.shape
    region = Region(_box(config.roi, grid.shape))
    return lengths(region.canonical_box(turn, surroundings(turn.grid.spacing, plan)))


def lengths(box: Box) -> Size3:
    """Voxels of a box along each axis."""
    i, j, k = (edge.stop - edge.start for edge in box)
    return i, j, k


def _box(text: str, shape: Size3) -> Box:
    parts = []
    for part, length in zip(text.split(","), shape, strict=True):
        first, _, last = part.strip().partition(":")
        low, high = int(first or 0), int(last or length)
        if not 0 <= low < high <= length:
            raise ConfigError(
                f"--roi {text}: {part.strip()} does not fit an image of "
                f"{' x '.join(map(str, shape))} voxels; expected 0 <= first < last <= {length}"
            )
        parts.append(slice(low, high))
    return parts[0], parts[1], parts[2]


@lru_cache(maxsize=1)
def _by_stem(folder: Path, _changed: int) -> dict[str, list[Path]]:
    """Files of a folder by the case that their names tell, listed anew when it has changed."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        found.setdefault(case_stem(file), []).append(file)
    return found


def _mask_file(path: Path, case_id: str) -> Path:
    if not path.is_dir():
        return path
    fitting = _by_stem(path, path.stat().st_mtime_ns).get(case_id, [])
    if len(fitting) != 1:
        raise DataError(
            f"--roi-mask {path} has {len(fitting)} files named {case_id}, expected one label map"
        )
    return fitting[0]
