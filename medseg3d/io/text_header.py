"""What NRRD and MetaImage have in common: headers in text, and voxels in files beside them."""

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.io.signatures import looks_like
from medseg3d.io.streams import Stamp, open_stream
from medseg3d.types import Affine

LONGEST_HEADER = 4 << 20
FIRST_BYTES = 1 << 14
MOST_FILES = 10_000
FLIP_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PATTERN = re.compile(r"%0?\d{0,2}[du]")


def read_header(path: Path, end: re.Pattern[bytes], name: str) -> tuple[str, int, Stamp]:
    """The text of a file up to and with ``end``, or all of a short file that has no end.

    Args:
        path: The file.
        end: What a header ends with.
        name: What the file should be, for the message.

    Returns:
        The header, its bytes in the file, and the state of the file.

    Raises:
        DataError: If the file cannot be read, is no text, or goes on for ever.
    """
    with open_stream(path) as stream:
        head = stream.read(FIRST_BYTES)
        found = end.search(head)
        if found is None and len(head) == FIRST_BYTES and b"\0" not in head:
            head += stream.read(LONGEST_HEADER - FIRST_BYTES)
            found = end.search(head)
        stamp = stream.stamp
    header = head[: found.end()] if found else head
    if b"\0" in header or (found is None and stamp.size > len(head)):
        raise no_such_image(path, name, head)
    return header.decode("utf-8", "replace"), len(header), stamp


def no_such_image(path: Path, name: str, head: bytes) -> DataError:
    """That a file is not what its suffix says, and what it looks like."""
    hint = looks_like(head)
    return DataError(
        f"{path} is not {name}; " + (f"it looks like {hint}" if hint else "it has no such header")
    )


def numbers(path: Path, key: str, value: str, count: int) -> npt.NDArray[np.float64]:
    """``count`` decimal numbers.

    Raises:
        DataError: Naming the key, if they are fewer, more or none.
    """
    try:
        found = [float(word) for word in value.split()]
    except ValueError:
        found = []
    if len(found) != count:
        raise DataError(f"{path} has '{short(key)}: {short(value)}'; expected {count} numbers")
    return np.array(found)


def integers(path: Path, key: str, value: str, count: int) -> tuple[int, ...]:
    """``count`` integers of at most 18 digits.

    Raises:
        DataError: Naming the key, if they are fewer, more or none.
    """
    words = value.split()
    if len(words) != count or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        raise DataError(f"{path} has '{short(key)}: {short(value)}'; expected {count} integers")
    return tuple(int(word) for word in words)


def spacing_of(path: Path, lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pass on voxel sizes.

    Raises:
        DataError: If one is not a positive number.
    """
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise DataError(f"{path} has the spacing {lengths.tolist()}; repair the header")
    return lengths


def affine_of(
    axes: npt.NDArray[np.float64], origin: npt.NDArray[np.float64], flips: Affine = FLIP_LPS_RAS
) -> Affine:
    """Voxel index to RAS+ mm, from steps along the three axes (columns) in another space."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = origin
    with np.errstate(all="ignore"):  # what is not finite is refused with the grid
        return np.asarray(flips @ affine)


def data_files(path: Path, named: str, listed: list[str]) -> tuple[Path, ...]:
    """Files that a header takes its voxels from, in their order.

    Args:
        path: The header.
        named: One name, a pattern with its first and last number and step, or ``LIST``.
        listed: Names on the lines after ``LIST``.

    Raises:
        DataError: If one lies outside the folder of the header.
    """
    words = named.split()
    if words and words[0].upper() == "LIST":
        names = [line.strip() for line in islice(listed, MOST_FILES + 1) if line.strip()]
    elif PATTERN.search(named):
        names = _numbered(path, named)
    else:
        names = [named]
    if not 1 <= len(names) <= MOST_FILES:
        raise DataError(
            f"{path} names {len(names) or 'no'} files of voxels; expected 1 to {MOST_FILES}"
        )
    return tuple(_beside(path, name) for name in names)


def expect_present(path: Path, files: tuple[Path, ...]) -> None:
    """Refuse a header whose voxels are gone.

    Raises:
        DataError: Naming the first file that does not exist, and how many others.
    """
    missing = [file.name for file in files if not file.exists()]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DataError(f"{path} needs its data file {missing[0]}{others}, which does not exist")


def short(value: str) -> str:
    """The beginning of what a file says, fit for a message."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in value[:40])
    return shown + ("..." if len(value) > 40 else "")


def expect_fields(path: Path, header: Mapping[str, str], *keys: str) -> None:
    """Refuse a header that lacks one of ``keys``.

    Raises:
        DataError: Naming those that are missing.
    """
    missing = [key for key in keys if key not in header]
    if missing:
        raise DataError(f"{path} is incomplete: its header lacks {', '.join(missing)}")


def _numbered(path: Path, named: str) -> list[str]:
    """Names that a pattern such as ``slice%03d.raw 1 20 1`` stands for."""
    pattern, *words = named.rsplit(maxsplit=3)
    if len(words) != 3 or len(PATTERN.findall(pattern)) != 1 or pattern.count("%") != 1:
        pattern, *words = named.split()[:4]
    first, last, step = integers(path, "data files", " ".join(words[:3]), 3)
    if len(PATTERN.findall(pattern)) != 1 or pattern.count("%") != 1 or step == 0:
        raise DataError(f"{path} takes its data from '{short(named)}'; expected one number in it")
    count = (last - first) // step + 1
    if not 0 < count <= MOST_FILES or min(first, last) < 0:
        raise DataError(
            f"{path} takes its data from '{short(named)}'; expected 1 to {MOST_FILES} files"
        )
    return [pattern % number for number in range(first, first + count * step, step)]


def _beside(path: Path, name: str) -> Path:
    file = path.parent / name
    try:
        inside = file.resolve()
        folders = {path.parent.resolve(), path.resolve().parent}
        file.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} takes its data from '{short(name)}', which is no file") from error
    if not any(inside.is_relative_to(folder) for folder in folders) or inside in folders:
        raise DataError(
            f"{path} takes its data from {short(name)}, outside its own folder; refused"
        )
    return file
