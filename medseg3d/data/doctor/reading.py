"""Reading the files of a case; what cannot be used becomes a finding, with its kind and remedy."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medseg3d.data.cases import Case
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.doctor.onehot import leave_nothing_out, merge_masks
from medseg3d.errors import DataError
from medseg3d.io import LabelVolume, Volume, read_image, read_labels
from medseg3d.io.formats import format_of
from medseg3d.io.labels import ROUNDING
from medseg3d.io.volume import Stored

COPY = "medseg3d check DATA --fix OUT"
"""How a remedy that writes a repaired copy begins."""


def read_channels(case: Case) -> tuple[list[Volume], list[Finding]]:
    """The image files of a case that can be read, and what is wrong with the others."""
    volumes: list[Volume] = []
    findings = []
    for path in case.images:
        try:
            volumes.append(read_image(path))
        except (DataError, OSError, MemoryError) as error:
            findings.append(_image_fault(case, path, error))
    for volume in volumes[1:]:
        first = volumes[0]
        if not first.grid.same_as(volume.grid):
            findings.append(
                _error(
                    "channel-grid",
                    case,
                    volume.path,
                    f"{volume.path} is not on the grid of {first.path}: "
                    f"{first.grid.difference(volume.grid)}",
                    f"resample one to the other, or {COPY} --resample-channels",
                )
            )
    return volumes, findings


def read_label_map(case: Case) -> tuple[LabelVolume | None, list[Finding]]:
    """The label map of a case, or what is wrong with it."""
    if case.labels is None:
        return None, []
    try:
        return read_labels(case.labels), []
    except (DataError, OSError, MemoryError) as error:
        return None, [_label_fault(case, case.labels, error)]


def begin_with_background(cases: Iterable[Case]) -> bool:
    """Whether the first of several masks is the background in the label maps of a set.

    It is if the masks of any case leave no voxel out: one voxel that was forgotten elsewhere must
    not shift the labels there.
    """
    found = (_raw(case.labels) for case in cases if case.labels is not None)
    arrays = (stored.array for stored in found if stored is not None)
    return any(len(array) > 1 and leave_nothing_out(array) for array in arrays)


def _image_fault(case: Case, path: Path, error: Exception) -> Finding:
    stored = _raw(path)
    if stored is not None and not np.isfinite(stored.array).all():
        remedy = f"{COPY} --replace-nonfinite 0 does so in a copy"
        return _error("image-not-finite", case, path, str(error), remedy)
    return _error("image-unreadable", case, path, _told(path, error))


def _label_fault(case: Case, path: Path, error: Exception) -> Finding:
    code, remedy = _diagnosis(path)
    return _error(code, case, path, _told(path, error), remedy)


def _diagnosis(path: Path) -> tuple[str, str | None]:
    """Kind of a label map that was refused, and what helps."""
    stored = _raw(path)
    if stored is None:
        return "label-unreadable", None
    array = stored.array
    if len(array) > 1:
        try:
            merge_masks(array)
        except DataError as error:
            remedy = "export one volume in which every voxel has exactly one label"
            return "label-many-volumes", f"{error}; {remedy}"
        return "label-one-hot", f"{COPY} --onehot merges them in a copy"
    if not np.isfinite(array).all():
        return "label-not-finite", None
    if array.dtype.kind == "f" and np.abs(array - np.rint(array)).max() > ROUNDING:
        return "label-interpolated", None
    low = int(array.min())
    if low < 0:
        return "label-negative", f"{COPY} --map {low}=0 makes it background in a copy"
    return "label-unreadable", None


def _raw(path: Path) -> Stored | None:
    """The voxels as stored, whatever they mean, or None if they cannot be read."""
    try:
        return format_of(path).read(path)
    except (DataError, OSError, MemoryError):
        return None


def _told(path: Path, error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    reason = getattr(error, "strerror", None) or "more memory is needed than there is"
    return f"{path} cannot be read ({reason})"


def _error(code: str, case: Case, file: Path, message: str, fix: str | None = None) -> Finding:
    prefix = f"case {case.id}: "
    return Finding(
        severity=Severity.ERROR,
        code=code,
        case=case.id,
        file=file,
        message=message.removeprefix(prefix),
        fix=fix,
    )
