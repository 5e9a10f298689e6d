"""Places to write to: what keeps files from being made there is told before the work."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from medseg3d.errors import RunError
from medseg3d.io.atomic import atomic, reason_of


def expect_absent(files: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse to replace files unasked.

    Raises:
        RunError: Naming those that are there.
    """
    existing = [str(file) for file in files if os.path.lexists(file)]
    if existing and not overwrite:
        raise RunError(
            f"{' and '.join(existing)} exist already; give --overwrite to replace them, or choose "
            "another -o"
        )


def expect_no_input(files: Iterable[Path], inputs: Iterable[object]) -> None:
    """Refuse to replace what is read, even where files may be replaced.

    Args:
        files: Those to be written.
        inputs: What is read; what is no path does not matter.

    Raises:
        RunError: Naming the first that is an input.
    """
    read = {given.resolve() for given in inputs if isinstance(given, Path)}
    for file in files:
        if file.resolve() in read:
            raise RunError(f"{file} is an input; choose another -o so that nothing is lost")


def expect_writable(folders: Iterable[Path]) -> None:
    """Refuse folders in which no file can be made; they need not exist yet.

    A file is really made and removed, since permission bits do not tell what a read-only disk
    or the administrator's account may do.

    Raises:
        RunError: Naming the folder and the reason.
    """
    for folder in dict.fromkeys(folders):
        place = folder.absolute()
        try:
            while not place.exists():
                if place.is_symlink():
                    raise RunError(f"{place} is a link that leads nowhere; choose another -o")
                place = place.parent
            if not place.is_dir():
                raise RunError(f"{place} is a file, not a folder; choose another -o")
            with suppress(_Tried), atomic(place / "tried") as beside:
                beside.touch()
                raise _Tried
        except (OSError, RunError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise RunError(f"{folder} cannot be written: {reason_of(cause)}") from None


class _Tried(Exception):  # noqa: N818 - it is no error
    """Ends an attempt to write before the file appears."""
