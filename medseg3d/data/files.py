"""Files and folders that a user names: what is a volume there, and what is wrong instead.

Faults are collected as text, so that the caller can report all of them in one error.
"""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from medseg3d.errors import DataError
from medseg3d.io import OUTPUTS, SUFFIXES, case_stem
from medseg3d.io.dicom import chosen_in
from medseg3d.io.dicom.sniff import Kind, holds_volume, kind_of
from medseg3d.io.formats import format_of

DICOM_SUFFIX = OUTPUTS["dicom-seg"]
DEEPEST = 8
"""Folders between the one that was given and a DICOM series, as patient, study and series."""

LOOKED_FOR = (
    "images/ + labels/ (also masks/, segs/, segmentations/), nnU-Net's imagesTr/ + labelsTr/, "
    "a dataset.json that lists 'training' pairs, or one folder per patient with the images and "
    "a *seg or *label file"
)


def expect_folder(root: Path) -> Path:
    """The folder itself, or a :class:`DataError` that says what is there instead."""
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} is a file; expected a folder with {LOOKED_FOR}")
    raise DataError(f"no folder {root}{_suggestion(root) or f'; expected one with {LOOKED_FOR}'}")


def input_files(path: Path, faults: list[str]) -> dict[Path, str]:
    """The volumes that a path given by the user stands for, and the case name of each.

    A folder of DICOM slices is one volume. Of any other folder, what lies directly inside
    counts; where that is nothing, the DICOM series further below do.
    """
    if folder := chosen_in(path):
        return {path: f"{folder.name}_{path.name}"}
    try:
        if path.is_dir():
            return _inside(path, faults)
        if not (path.exists() or path.is_symlink()):
            faults.append(f"{path} does not exist{_suggestion(path)}")
            return {}
        format_of(path)
    except OSError as error:
        faults.append(f"{path} cannot be looked at: {error.strerror}")
        return {}
    except DataError as error:
        faults.append(str(error))
        return {}
    return {path: case_stem(path)}


def volumes_in(folder: Path, faults: list[str], *, broken_too: bool = False) -> list[Path]:
    """Volumes directly inside a folder, without hidden files and other junk.

    Those are image and label files, subfolders that hold a DICOM series, and the folder
    itself if slices lie in it. A pipe, folder or broken link with the name of a volume is a
    fault, or with ``broken_too`` a volume, for reading it to say what is wrong.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        faults.append(f"{folder} cannot be listed ({error.strerror})")
        return []
    found: list[Path] = []
    unnamed: dict[Path, Kind] = {}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        named = entry.name.lower().endswith(SUFFIXES)
        if named and not entry.name.lower().endswith(DICOM_SUFFIX):
            if broken_too or _is(Path.is_file, entry):
                found.append(entry)
            else:
                faults.append(f"{entry} is not a regular file but a folder, pipe or broken link")
        elif _is(Path.is_dir, entry):
            found += [entry] if holds_volume(entry) else []
        elif kind := kind_of(entry):
            unnamed[entry] = kind
        elif named:
            found.append(entry)  # reading it says what is wrong with it
    has_slices = Kind.SLICE in unnamed.values()
    for entry, kind in unnamed.items():
        is_whole = kind in (Kind.FRAMES, Kind.SEGMENTATION)
        if is_whole or (kind is Kind.OTHER and not has_slices and _is_named_dicom(entry)):
            found.append(entry)
    return sorted([*found, folder] if has_slices else found)


def is_there(path: Path) -> bool:
    """Whether a path that a list names is a file or a folder of DICOM slices."""
    return path.is_file() or holds_volume(path)


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation, whatever its name."""
    named = path.name.lower().endswith(SUFFIXES) and not _is_named_dicom(path)
    return not named and kind_of(path) is Kind.SEGMENTATION


def subfolders(folder: Path) -> list[Path]:
    """Folders directly inside a folder, without hidden ones."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror})") from error
    return [entry for entry in entries if _is(Path.is_dir, entry) and entry.name[0] != "."]


def _suggestion(path: Path) -> str:
    """Say which name that exists is close to a path that does not."""
    parent = path.absolute().parent
    if not parent.is_dir():
        return f" ({parent} does not exist either)"
    close = get_close_matches(path.name, [entry.name for entry in parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _inside(folder: Path, faults: list[str]) -> dict[Path, str]:
    found = volumes_in(folder, faults, broken_too=True)
    if folder in found:
        beside = [file for file in found if file != folder and file.is_file()]
        others = [file for file in beside if not kind_of(file)]
        if others:
            faults.append(
                f"{folder} holds the slices of a DICOM series and {len(others)} other images "
                f"({others[0].name}); put them into folders of their own"
            )
        return {folder: case_stem(folder)}
    if found:
        return {path: case_stem(path) for path in found}
    below = series_below(folder)
    if not below:
        inside = [sub.name for sub in subfolders(folder) if volumes_in(sub, [])]
        hint = f"; did you mean {folder / inside[0]}?" if inside else ""
        faults.append(
            f"{folder} holds no file with a suffix of {', '.join(SUFFIXES)} and no DICOM "
            f"series{hint}"
        )
    return {path: "_".join(path.relative_to(folder).parts) for path in below}


def series_below(root: Path) -> list[Path]:
    """Folders below ``root`` that hold a DICOM volume; a link that leads back is not followed."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen or depth > DEEPEST:
            continue
        seen.add((status.st_dev, status.st_ino))
        if holds_volume(folder):
            found.append(folder)
        waiting += [(sub, depth + 1) for sub in reversed(subfolders(folder))]
    return sorted(found)


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path is of a kind, as far as one may look."""
    try:
        return kind(path)
    except OSError:
        return False


def _is_named_dicom(path: Path) -> bool:
    return path.name.lower().endswith(DICOM_SUFFIX)
