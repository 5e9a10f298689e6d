"""Repairing the files of one case, as far as it was chosen."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import turn_between
from medseg3d.data.cases import Case
from medseg3d.data.doctor.onehot import leave_nothing_out, merge_masks
from medseg3d.data.regrid import image_onto, is_transposed, labels_onto
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import LabelVolume, Volume, read_grid, write_image, write_labels
from medseg3d.io.formats import format_of
from medseg3d.io.labels import ROUNDING
from medseg3d.io.volume import Header, Stored

LOGGER = logging.getLogger("medseg3d")

MOST_LOST = 0.05
"""Share of a label's volume that resampling may lose without a warning."""


@dataclass(frozen=True, kw_only=True)
class Remedies:
    """What may be changed beyond what is always safe.

    Attributes:
        resample_labels: Resample label maps that lie elsewhere to the grid of their image.
        ignore_geometry: Give them the affine of their image instead.
        label_map: New value of label values.
        onehot: Merge label maps with one mask per label.
        background_first: Whether the first of these masks is the background; by default it is
            where they leave no voxel out, which one case alone may tell wrongly.
        replace_nonfinite: Number for voxels of images that have none.
        resample_channels: Resample the other channels to the grid of the first.
        rounding_voxels: Label maps whose corners are at most this far off get the affine of
            their image.
    """

    resample_labels: bool = False
    ignore_geometry: bool = False
    label_map: Mapping[int, int] = field(default_factory=dict)
    onehot: bool = False
    background_first: bool | None = None
    replace_nonfinite: float | None = None
    resample_channels: bool = False
    rounding_voxels: float = 0.05


@dataclass(frozen=True)
class Change:
    """One change of one file, as ``fixes.csv`` lists it.

    Attributes:
        case: Id of the case.
        file: Path below the data set.
        change: What was done.
        before: How it was.
        after: How it is.
    """

    case: str
    file: str
    change: str
    before: str
    after: str


class CaseRepair:
    """Repairs the files of one case; what needs nothing is left to be copied.

    Args:
        case: The case.
        root: Folder of the data set.
        out: Folder of the copy, None to only say what would be changed.
        remedies: What may be changed.
    """

    def __init__(self, case: Case, root: Path, out: Path | None, remedies: Remedies) -> None:
        self.case = case
        self.root = root
        self.out = out
        self.remedies = remedies
        self.changes: list[Change] = []

    def run(self) -> tuple[Change, ...]:
        """Repair the images, then the label map.

        A file that cannot be repaired is left as it is; the check of the copy will tell.
        """
        for path in self.case.images:
            self._attempt(self._repair_image, path)
        if self.case.labels is not None:
            self._attempt(self._repair_labels, self.case.labels)
        return tuple(self.changes)

    def _attempt(self, repair: Callable[[Path], None], path: Path) -> None:
        before = len(self.changes)
        try:
            repair(path)
        except DataError as error:
            del self.changes[before:]
            LOGGER.warning("case %s: not repaired: %s", self.case.id, error)

    def _repair_image(self, path: Path) -> None:
        first = self.case.images[0]
        target = _grid(first)
        onto = (
            target
            if self.remedies.resample_channels and path != first and not target.same_as(_grid(path))
            else None
        )
        if onto is None and self.remedies.replace_nonfinite is None:
            return
        stored = format_of(path).read(path)
        array, header, grid = stored.array, stored.inspection.header, stored.inspection.grid
        bad = 0
        if self.remedies.replace_nonfinite is not None and array.dtype.kind == "f":
            array = array.astype(np.float32)
            wrong = ~np.isfinite(array)
            bad = int(wrong.sum())
            array[wrong] = self.remedies.replace_nonfinite
        if bad:
            self._note(
                path,
                "replace what is no finite number",
                f"{bad} voxels",
                f"{self.remedies.replace_nonfinite:g}",
            )
        if onto is not None:
            _expect_finite(path, array)
            array = image_onto(array.astype(np.float32), grid, onto)
            self._note(path, "resample to the first channel", onto.difference(grid), "same grid")
            grid, header = onto, format_of(first).inspect(first).header
        if self.out is not None and (bad or onto is not None):
            write_image(self._target(path), array, Volume(array, grid, path, header))

    def _repair_labels(self, path: Path) -> None:
        stored = format_of(path).read(path)
        labels = self._mapped(path, self._whole(path, self._single(path, stored)))
        grid, header = stored.inspection.grid, stored.inspection.header
        labels, grid, header = self._placed(path, labels, grid, header)
        if self.out is None or not any(c.file == self._name(path) for c in self.changes):
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= 1 << 31:
            raise DataError(
                f"{path} has labels from {low} to {high}; map them to values from 0 (--map)"
            )
        like = LabelVolume(labels, grid, path, header)
        names = self._names(stored.inspection.names)
        write_labels(self._target(path), labels, like, names=names)

    def _names(self, names: Mapping[int, str]) -> dict[int, str]:
        """Names within a label map by their new values; what keeps its value keeps its name."""
        moved = {self.remedies.label_map.get(value, value): name for value, name in names.items()}
        kept = {v: name for v, name in names.items() if v not in self.remedies.label_map}
        return {value: name for value, name in (moved | kept).items() if value != 0}

    def _single(self, path: Path, stored: Stored) -> npt.NDArray[Any]:
        """One volume, merged from masks where that is wanted."""
        if len(stored.array) == 1:
            return np.asarray(stored.array[0])
        if not self.remedies.onehot:
            raise DataError(f"{path} holds {len(stored.array)} volumes (--onehot merges masks)")
        is_first = self.remedies.background_first
        is_first = leave_nothing_out(stored.array) if is_first is None else is_first
        labels = merge_masks(stored.array, background_first=is_first)
        masks = f"{len(stored.array)} masks" + (", the first is background" if is_first else "")
        self._note(path, "merge masks", masks, f"labels {_values(labels)}")
        return labels

    def _whole(self, path: Path, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Integers; what is within rounding of one becomes one."""
        if stored.dtype.kind != "f":
            return stored
        with np.errstate(invalid="ignore"):
            nearest = np.rint(stored)
            apart = np.abs(stored - nearest)
            fits = bool((apart <= ROUNDING).all())
        if not fits:
            raise DataError(f"{path} holds values between labels, which no rule repairs")
        if apart.any():
            example = stored.ravel()[int(apart.argmax())]
            self._note(path, "round to integers", f"values such as {example:.6g}", _values(nearest))
        return np.asarray(nearest, dtype=np.int64)

    def _mapped(self, path: Path, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = {old: new for old, new in self.remedies.label_map.items() if (labels == old).any()}
        if not found:
            return labels
        mapped = labels.astype(np.int64)
        for old, new in found.items():
            where = labels == old
            mapped[where] = new
            self._note(path, "map label", f"{old} ({int(where.sum())} voxels)", str(new))
        return mapped

    def _placed(
        self, path: Path, labels: npt.NDArray[Any], grid: Grid, header: Header
    ) -> tuple[npt.NDArray[Any], Grid, Header]:
        """On the grid of the image, as far as the remedies go."""
        image = format_of(self.case.images[0]).inspect(self.case.images[0])
        target = image.grid
        if grid == target:
            return labels, grid, header
        apart = target.corner_displacement(grid)
        turn = turn_between(grid, target)
        if apart <= self.remedies.rounding_voxels:
            self._note(path, "copy the affine of the image", target.difference(grid), "same grid")
        elif turn is not None:
            labels = turn.apply(labels)
            self._note(path, "turn to the axes of the image", grid.orientation, target.orientation)
        elif self.remedies.ignore_geometry and grid.shape == target.shape:
            self._note(path, "copy the affine of the image", target.difference(grid), "same grid")
        elif self.remedies.resample_labels:
            labels = self._resampled(path, labels, grid, target)
        else:
            return labels, grid, header
        return labels, target, image.header

    def _resampled(
        self, path: Path, labels: npt.NDArray[Any], grid: Grid, target: Grid
    ) -> npt.NDArray[Any]:
        """On another grid; refused where labels would vanish, warned of where much is lost."""
        if is_transposed(grid, target):
            raise DataError(
                f"label map {path} fits its image only with its axes in another order than its "
                "header says; export it again from the tool that made it"
            )
        resampled = labels_onto(labels, grid, target)
        before, after = _volumes(labels, grid), _volumes(resampled, target)
        gone = [str(value) for value in before if value not in after]
        if gone:
            raise DataError(
                f"resampling label map {path} to its image would lose all of "
                f"label{'s' if len(gone) > 1 else ''} {', '.join(gone)}; check that both are of "
                "the same scan"
            )
        for value, volume in before.items():
            lost = 1 - after[value] / volume
            if lost > MOST_LOST:
                LOGGER.warning(
                    "case %s: resampling label map %s to its image loses %.0f %% of label %d "
                    "(%.4g mL before, %.4g mL after)",
                    *(self.case.id, path, 100 * lost, value, volume, after[value]),
                )
        apart = target.difference(grid)
        self._note(
            path,
            "resample to the image",
            f"{apart}; {_foreground(labels, before)}",
            f"same grid; {_foreground(resampled, after)}",
        )
        return resampled

    def _note(self, path: Path, change: str, before: str, after: str) -> None:
        self.changes.append(Change(self.case.id, self._name(path), change, before, after))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _target(self, path: Path) -> Path:
        assert self.out is not None
        return self.out / path.relative_to(self.root)


def _expect_finite(path: Path, array: npt.NDArray[Any]) -> None:
    """Refuse to resample what would spread over the voxels around it.

    Raises:
        DataError: With the number of such voxels.
    """
    if bad := array.size - int(np.isfinite(array).sum()):
        raise DataError(
            f"{path} has {bad} voxels that are not finite numbers, which resampling would spread; "
            "add --replace-nonfinite 0, for instance"
        )


def _grid(path: Path) -> Grid:
    return read_grid(path)[0]


def _volumes(labels: npt.NDArray[Any], grid: Grid) -> dict[int, float]:
    """Milliliters of each label that occurs, without background."""
    values, counts = np.unique(labels[labels != 0], return_counts=True)
    volumes = counts * grid.voxel_volume_ml
    return dict(zip(values.tolist(), volumes.tolist(), strict=True))


def _foreground(labels: npt.NDArray[Any], volumes: Mapping[int, float]) -> str:
    """Voxels and volume of all labels, background excluded."""
    return f"{np.count_nonzero(labels)} voxels, {sum(volumes.values()):.4g} mL"


def _values(labels: npt.NDArray[Any]) -> str:
    values = np.unique(labels)
    shown = ", ".join(f"{value:g}" for value in values[:10].tolist())
    return shown + (", ..." if values.size > 10 else "")
