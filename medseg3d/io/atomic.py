"""Files that appear complete or not at all."""

import csv
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from medseg3d.errors import DataError, RunError
from medseg3d.machine import free_disk

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EACCES: "permission is denied; choose another output folder",
    errno.EPERM: "permission is denied; choose another output folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EEXIST: "a file is where a folder should be; choose another output folder",
    errno.ENOTDIR: "a part of the path is not a folder; choose another output folder",
    errno.EISDIR: "a folder of that name is in the way; remove it",
    errno.EFBIG: "the file would be too large for the file system",
    errno.EIO: "the disk reports an error",
}

_STOPS_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

_HALF_MADE = re.compile(
    r"\.medseg3d-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}-(?:part(?:\..*)?|before-(.+))", re.DOTALL
)
SECONDS_OF_A_DAY = 86_400
LITTLE = 16_384
"""Bytes; with less than that left, a full disk is why a writer gave up, whatever it says."""

LONGEST_SUFFIX = 40
"""Bytes; what comes after the last dot of a name may be most of the name."""


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write beside ``path`` and rename at the end.

    The folder is made if it is absent. A link at ``path`` is replaced, not followed. Writers
    that keep errors to themselves must read again what they have written.

    Args:
        path: Where the file shall appear.

    Yields:
        A path in the same folder with the same suffix; write there. It is flushed to the
        disk and renamed on success and removed on any exception.

    Raises:
        RunError: If the target cannot be written (disk full, read-only, a folder).

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with atomic(f"{folder}/scores.csv") as beside:
        ...         _ = beside.write_text("case,label,dice")
        ...     [path.name for path in Path(folder).iterdir()]
        ['scores.csv']
    """
    target = Path(path)
    suffix = "".join(target.suffixes[-2:] if target.suffix.lower() == ".gz" else [target.suffix])
    # a fixed short stem, because the target's own name may already be of the greatest length
    kept = suffix if len(os.fsencode(suffix)) <= LONGEST_SUFFIX else ""
    beside = target.parent / f"{half_made(target).name}{kept}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
        except Exception as error:
            if not isinstance(error, OSError) and free_disk(target.parent) < LITTLE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _REASONS:
            raise RunError(f"{target} cannot be written: {_REASONS[error.errno]}") from error
        raise
    _sync_folder(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file whole; bytes of file names that are no UTF-8 are spelled out.

    Raises:
        RunError: If it cannot be written.
    """
    with atomic(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table whole, in UTF-8; bytes of file names that are no UTF-8 stay what they are.

    Args:
        path: File to write or replace.
        header: Names of the columns.
        rows: Cells in the order of the columns; of None the cell is empty.

    Raises:
        RunError: If it cannot be written.
    """
    with (
        atomic(path) as beside,
        beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def spelled_out(text: str) -> str:
    r"""The text with bytes of file names that are no UTF-8 spelled out.

    Examples:
        >>> print(spelled_out(os.fsdecode(b"caf\xe9.nii")))
        caf\udce9.nii
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def half_made(target: Path) -> Path:
    """A hidden name beside a file or folder for making it; :func:`sweep` knows it."""
    return target.parent / f"{_mark()}-part"


def set_aside(target: Path) -> Path:
    """A hidden name for what is at ``target`` while something else takes its place.

    If the process is killed before that, :func:`sweep` gives it its name back.
    """
    return target.parent / f"{_mark()}-before-{target.name}"


def reason_of(error: OSError) -> str:
    """Why something cannot be written and what to do, in a few words."""
    number = error.errno or 0
    return _REASONS.get(number) or f"the system says: {error.strerror or error}"


@contextmanager
def empties_removed(folder: Path) -> Iterator[None]:
    """Whatever of a folder and its parents was absent before is gone again if nothing is in it."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in absent:
                path.rmdir()


def stops_all(error: BaseException | None) -> bool:
    """Whether an error comes from a disk that will take no other file either.

    A file that cannot be read, whatever its disk says, is a case of its own.

    Examples:
        >>> stops_all(OSError(errno.ENOSPC, "full")), stops_all(OSError(errno.ENOENT, "absent"))
        (True, False)
    """
    while error is not None and not isinstance(error, DataError):  # an input's own disk
        if isinstance(error, OSError) and error.errno in _STOPS_ALL:
            return True
        error = error.__cause__
    return False


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes were making in a folder, and give back what they set aside.

    Only files and folders named as by :func:`half_made` and :func:`set_aside` count, when the
    process that made them has ended on this machine, or when nobody has written to them for a day.

    Returns:
        What is no longer there.
    """
    removed = []
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            found = _HALF_MADE.fullmatch(entry.name)
            if found and _is_abandoned(entry, found[1], int(found[2])):
                with suppress(OSError):
                    if found[3] and not os.path.lexists(folder / found[3]):
                        entry.rename(folder / found[3])
                    elif entry.is_dir() and not entry.is_symlink():
                        shutil.rmtree(entry)
                    else:
                        entry.unlink()
                    removed.append(entry)
    return removed


def _mark() -> str:
    return f".medseg3d-{_system()}-{os.getpid()}-{secrets.token_hex(6)}"


def _is_abandoned(path: Path, system: str, process: int) -> bool:
    with suppress(OSError):
        newest = max(held.lstat().st_mtime for held in (path, *path.rglob("*")))
        if time.time() - newest > SECONDS_OF_A_DAY:
            return True
        if system == _system():
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                return True
    return False


@cache
def _system() -> str:
    """Stands for this machine, since its start, as far as its process numbers reach."""
    facts = [os.uname().nodename]
    for place in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            path = Path(place)
            facts.append(str(path.readlink()) if path.is_symlink() else path.read_text("ascii"))
    return hashlib.sha256(" ".join(facts).encode("utf-8", "replace")).hexdigest()[:8]


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
