"""DICOM: a folder of slices, a multi-frame image or a segmentation as one volume.

A folder stands for the one volume that its slices make. Where it holds several, a choice is
named like a file inside it: ``FOLDER/series=3`` or ``FOLDER/b=800``; likewise in a multi-frame
file. pydicom and highdicom come with the extra ``medseg3d[dicom]`` and are imported when
something is read.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io.dicom.sniff import Kind, kind_of, sop_class
from medseg3d.io.volume import Header, Inspection, Stored

EXTRA = ("pydicom", "highdicom")


def inspect(path: Path) -> Inspection:
    """Read the headers only.

    Raises:
        DataError: If the files are not one sound volume.
    """
    with _extra(path):
        from medseg3d.io.dicom import reading
    return reading.inspect(path)


def read(path: Path) -> Stored:
    """Read voxels ``(C, I, J, K)``: columns, rows, slices along their normal.

    Raises:
        DataError: If the files are not one sound volume, or no installed codec reads them.
    """
    with _extra(path):
        from medseg3d.io.dicom import reading
    return reading.read(path)


def sources(path: Path) -> tuple[Path, ...]:
    """The files that a volume is read from, in the order of its slices."""
    with _extra(path):
        from medseg3d.io.dicom import reading
    return reading.sources(path)


def write(
    path: Path,
    array: npt.NDArray[Any],
    grid: Grid,
    header: Header,
    *,
    labels: bool,
    names: Mapping[int, str] | None = None,
) -> None:
    """Write a label map as a DICOM segmentation of the series it was made from.

    Raises:
        DataError: If it is no label map, or its image was no DICOM series.
        RunError: If the target cannot be written.
    """
    if not labels or array.shape[0] != 1:
        raise DataError(f"{path}: only label maps are written as DICOM; use .nii.gz for images")
    if not header.sources:
        raise DataError(
            f"{path}: a DICOM segmentation refers to the DICOM series that was segmented, which "
            f"was {header.format or 'an array'} here; choose another format, such as nii.gz"
        )
    with _extra(path):
        from medseg3d.io.dicom import writing
    writing.write(path, array[0], grid, header, names or {})


def expect_identified(path: Path) -> None:
    """Refuse, before any work, a series that no DICOM segmentation can refer to.

    Raises:
        DataError: If a file of it lacks an identifier, or several hold several slices each.
    """
    with _extra(path):
        from medseg3d.io.dicom import writing
    writing.expect_identified(sources(path))


def claims(path: Path) -> bool:
    """Whether a path whose name does not tell its format is DICOM."""
    try:
        if path.is_dir():
            return any(sop_class(entry) is not None for entry in path.iterdir())
        return chosen_in(path) is not None or sop_class(path) is not None
    except OSError:
        return False


def chosen_in(path: Path) -> Path | None:
    """The folder or multi-frame file of which ``path`` names a part, as ``FOLDER/series=3``."""
    whole = path.parent
    try:
        is_choice = "=" in path.name and not path.exists()
        is_choice = is_choice and (whole.is_dir() or kind_of(whole) is Kind.FRAMES)
    except OSError:
        return None
    return whole if is_choice else None


@contextmanager
def _extra(path: Path) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise DataError(
            f"{path} is DICOM, which needs an extra: pip install 'medseg3d[dicom]'"
        ) from error
