"""Files and folders that a user names: what is a volume there, and what is wrong instead.

Faults are collected as text, so that the caller can report all of them in one error.
"""

from difflib import get_close_matches
from pathlib import Path

from medseg3d.errors import DataError
from medseg3d.io import SUFFIXES
from medseg3d.io.formats import format_of

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


def input_files(path: Path, faults: list[str]) -> list[Path]:
    """The volumes that a path given by the user stands for."""
    if path.is_dir():
        files = volumes_in(path, faults)
        if not files:
            inside = [sub.name for sub in subfolders(path) if volumes_in(sub, [])]
            hint = f"; did you mean {path / inside[0]}?" if inside else ""
            faults.append(f"{path} holds no file with a suffix of {', '.join(SUFFIXES)}{hint}")
        return files
    if not path.is_file():
        there = path.exists() or path.is_symlink()
        faults.append(
            f"{path} is not a regular file but a pipe or broken link"
            if there
            else f"{path} does not exist{_suggestion(path)}"
        )
        return []
    try:
        format_of(path)
    except DataError as error:
        faults.append(str(error))
        return []
    return [path]


def volumes_in(folder: Path, faults: list[str]) -> list[Path]:
    """Image and label files directly inside a folder, without hidden files and other junk."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        faults.append(f"{folder} cannot be listed ({error.strerror})")
        return []
    found = [entry for entry in entries if _is_volume(entry.name)]
    for entry in found:
        if not entry.is_file():
            faults.append(f"{entry} is not a regular file but a folder, pipe or broken link")
    return [entry for entry in found if entry.is_file()]


def subfolders(folder: Path) -> list[Path]:
    """Folders directly inside a folder, without hidden ones."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror})") from error
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _suggestion(path: Path) -> str:
    """Say which name that exists is close to a path that does not."""
    parent = path.absolute().parent
    if not parent.is_dir():
        return f" ({parent} does not exist either)"
    close = get_close_matches(path.name, [entry.name for entry in parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _is_volume(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
