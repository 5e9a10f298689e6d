"""The file formats by suffix; a new one is a module with three functions and a row here."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import dicom, itk, mgh, nifti, seg_nrrd
from medseg3d.io.volume import Header, Inspection, Stored


class Writer(Protocol):
    """Writes ``(C, I, J, K)`` atomically."""

    def __call__(
        self,
        path: Path,
        array: npt.NDArray[Any],
        grid: Grid,
        header: Header,
        *,
        labels: bool,
        names: Mapping[int, str] | None = None,
    ) -> None:
        """Write ``array`` on ``grid`` to ``path``; ``names`` says what each label is."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Args:
        suffixes: Lower-case endings of the files that stand for a volume.
        halves: Endings of files that hold its voxels; readable, but not counted as volumes.
        sources: Names all files that a volume is read from.
        claims: Says whether a path that has no known suffix is of this format, as a folder.
        inspect: Reads the header.
        read: Reads header and voxels.
        write: Writes them.
    """

    suffixes: tuple[str, ...]
    inspect: Callable[[Path], Inspection]
    read: Callable[[Path], Stored]
    write: Writer
    halves: tuple[str, ...] = ()
    sources: Callable[[Path], tuple[Path, ...]] = lambda path: (path,)
    claims: Callable[[Path], bool] = lambda _: False


FORMATS = (
    Format(
        (".nii.gz", ".nii", ".hdr"),
        nifti.inspect,
        nifti.read,
        nifti.write,
        halves=(".img",),
        sources=nifti.sources,
    ),
    Format((".mgz", ".mgh"), mgh.inspect, mgh.read, mgh.write),
    Format(
        (".nrrd", ".nhdr", ".mha", ".mhd", ".gipl.gz", ".gipl"),
        itk.inspect,
        itk.read,
        itk.write,
        sources=itk.sources,
    ),
    Format((".seg.nrrd",), seg_nrrd.inspect, seg_nrrd.read, seg_nrrd.write, sources=itk.sources),
    Format(
        (".dcm",),
        dicom.inspect,
        dicom.read,
        dicom.write,
        sources=dicom.sources,
        claims=dicom.claims,
    ),
)

SUFFIXES: tuple[str, ...] = tuple(suffix for row in FORMATS for suffix in row.suffixes)
"""Endings of the files that stand for a volume, lower case, with their dots."""


OUTPUTS = {
    "nii.gz": ".nii.gz",
    "nii": ".nii",
    "nrrd": ".nrrd",
    "seg.nrrd": ".seg.nrrd",
    "mha": ".mha",
    "mgz": ".mgz",
    "dicom-seg": ".dcm",
}
"""Formats that label maps are written in, with the suffix of each."""

READ_ONLY = (".mhd", ".nhdr")
"""Detached headers that are read, but not written: an output is one file."""


def case_stem(path: str | os.PathLike[str]) -> str:
    """File name without its image suffix, in whatever letter case that is.

    Examples:
        >>> case_stem("images/case.v1.2_0000.NII.GZ")
        'case.v1.2_0000'
        >>> case_stem("series")
        'series'
    """
    name = Path(path).name
    suffix = _suffix(name)
    return name[: len(name) - len(suffix)]


def sources(path: Path) -> tuple[Path, ...]:
    """All files that a volume is read from: itself and, for detached headers, its data.

    Raises:
        DataError: If no format has its suffix.
    """
    return format_of(path).sources(path)


def format_of(path: Path) -> Format:
    """The format that the suffix of ``path`` stands for, or that knows it without one.

    Raises:
        DataError: If no format has it.
    """
    suffix = _suffix(path.name)
    for row in FORMATS:
        if suffix in row.suffixes + row.halves if suffix else row.claims(path):
            return row
    if path.is_dir():
        raise DataError(f"{path} is a folder without DICOM images; name an image file")
    raise DataError(f"{path} has no known image suffix; expected one of {', '.join(SUFFIXES)}")


def _suffix(name: str) -> str:
    lower = name.lower()
    known = (suffix for row in FORMATS for suffix in row.suffixes + row.halves)
    fitting = [suffix for suffix in known if lower.endswith(suffix) and lower != suffix]
    return max(fitting, key=len, default="")
