"""What a path of DICOM stands for, and its volume."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medseg3d.errors import DataError
from medseg3d.io.dicom import chosen_in, pixels, segmentation
from medseg3d.io.dicom.headers import slices_in, slices_of, what_is
from medseg3d.io.dicom.sniff import Kind, files_in, kind_of
from medseg3d.io.dicom.stacking import Stack, stack
from medseg3d.io.volume import Header, Inspection, Stored

REMEDIES = {
    "RT Structure Set": "contours, not voxels; convert it to a label map first, for instance "
    "with plastimatch or 3D Slicer",
    "Media Storage Directory": "an index of other files; give the folder of a series",
}
NAME = "DICOM"


@dataclass(frozen=True)
class _Found:
    """What a path stands for: the slices of a volume, or a segmentation file."""

    stack: Stack | None = None
    segmentation: Path | None = None


def inspect(path: Path) -> Inspection:
    """Read the headers only.

    Raises:
        DataError: If the files are not one sound volume.
    """
    found = _find(path)
    if found.segmentation:
        return segmentation.inspect(found.segmentation)
    return _inspection(found)


def read(path: Path) -> Stored:
    """Read voxels ``(1, I, J, K)``.

    Raises:
        DataError: If the files are not one sound volume, or no installed codec reads them.
    """
    found = _find(path)
    if found.segmentation:
        return segmentation.read(found.segmentation)
    inspection = _inspection(found)
    slices = found.stack.slices if found.stack else ()
    return Stored(inspection, pixels.voxels_of(path, slices, inspection.grid.shape)[None])


def sources(path: Path) -> tuple[Path, ...]:
    """The files of the volume, in the order of its slices."""
    found = _find(path)
    if found.segmentation:
        return (found.segmentation,)
    return _inspection(found).header.sources


def _inspection(found: _Found) -> Inspection:
    assert found.stack is not None
    slices = found.stack.slices
    files = tuple(dict.fromkeys(each.path for each in slices))
    frames = tuple((each.path, each.frame) for each in slices if each.frame is not None)
    header = Header(NAME, sources=files, frames=frames)
    return Inspection(found.stack.grid, 1, header, found.stack.notes)


def _find(path: Path) -> _Found:
    whole = path if path.is_dir() else chosen_in(path)
    if whole is None:
        return _in_file(path)
    if whole.is_file():
        return _Found(stack(whole, slices_of(whole), _choice(path, whole), path))
    return _in_folder(path, whole)


def _in_file(path: Path) -> _Found:
    kind = kind_of(path)
    if kind is Kind.SEGMENTATION:
        return _Found(segmentation=path)
    if kind is Kind.FRAMES:
        return _Found(stack(path, slices_of(path), {}, path))
    if kind is Kind.SLICE:
        raise DataError(f"{path} is one slice of a series; give the folder of the series")
    if kind is None:
        raise DataError(f"{path} is no DICOM file, or cannot be read; check the file")
    name = what_is(path)
    raise DataError(f"{path} is {name}: {REMEDIES.get(name, 'not an image or segmentation')}")


def _in_folder(path: Path, folder: Path) -> _Found:
    slices, others = slices_in(folder)
    if not slices:
        whole = [file for file in files_in(folder) if kind_of(file) is Kind.SEGMENTATION]
        if len(whole) == 1:
            return _Found(segmentation=whole[0])
        there = f"; there are {_counts(others)}" if others else ""
        raise DataError(f"{folder} holds no DICOM image{there}; expected the slices of a series")
    found = stack(folder, slices, _choice(path, folder), path)
    if not others:
        return _Found(found)
    note = f"{folder}: {len(others)} files are no slices and are skipped ({_counts(others)})"
    return _Found(Stack(found.slices, found.grid, (*found.notes, note)))


def _choice(path: Path, folder: Path) -> dict[str, str]:
    if path == folder:
        return {}
    parts = [part.partition("=") for part in path.name.split(",")]
    return {key.strip(): value.strip() for key, _, value in parts}


def _counts(kinds: list[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common())
