"""Files that appear complete or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medseg3d.errors import RunError

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


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write beside ``path`` and rename at the end.

    The folder is made if it is absent. A link at ``path`` is replaced, not followed.

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
    beside = target.parent / f".medseg3d-{secrets.token_hex(6)}-part{suffix}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield beside
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


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
