"""The folder of a review: it appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from medseg3d.errors import RunError
from medseg3d.io import atomic
from medseg3d.io.atomic import half_made, reason_of, set_aside, spelled_out

PAGE = "index.html"
LIST = "cases.js"
ASSETS = "assets"
OURS = (PAGE, LIST, ASSETS, "cases", "thumbnails")
"""All that a review consists of."""


def expect_free(out: Path, *, overwrite: bool) -> None:
    """Refuse a place where something is that is no review, or one that may not be replaced.

    Raises:
        RunError: Saying what is there and what to do.
    """
    if os.path.ismount(os.path.realpath(out)):
        raise RunError(
            f"{out} is where a disk is mounted, which no review can replace; name a folder inside "
            f"it: -o {out / 'review'}"
        )
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise RunError(f"{out} is no folder; choose another -o")
    if not any(out.iterdir()):
        return
    if not ((out / PAGE).is_file() and (out / LIST).is_file()):
        raise RunError(f"{out} holds something else than a review; choose another -o")
    if not overwrite:
        raise RunError(f"{out} exists already; give --overwrite to replace it, or another -o")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``out`` at the end.

    After any exception ``out`` is as it was; after a killed process, once the folder that it is in
    is swept.

    Args:
        out: Where the review shall appear; a review that is there is replaced, and what else
            lies in its folder is kept.

    Yields:
        An empty folder beside it.

    Raises:
        RunError: If the place cannot be written.
    """
    place = Path(os.path.realpath(out))
    beside, before = half_made(place), set_aside(place)
    try:
        beside.mkdir(parents=True)
        with suppress(FileNotFoundError):  # that the name is too long is told before the work
            before.lstat()
        yield beside
        if place.is_dir():
            _keep_others(place, beside)
            os.utime(place)  # from now on, nobody sweeps it
            place.rename(before)
        beside.rename(place)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {reason_of(error)}") from error
    finally:
        if os.path.lexists(before) and not os.path.lexists(place):
            before.rename(place)
        for left in (beside, before):
            shutil.rmtree(left, ignore_errors=True)


def write_assets(folder: Path) -> None:
    """Write the page and what it loads, but for the cases.

    Raises:
        RunError: If the installation lacks the page, or the disk is full.
    """
    source = resources.files(__package__).joinpath(ASSETS)
    if not source.joinpath(PAGE).is_file():
        raise RunError("the page of the review is not installed; install medseg3d again")
    for name, content in _files(source):
        target = folder / name if name == PAGE else folder / ASSETS / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def write_script(path: Path, before: str, value: Any, after: str) -> None:
    """Write a value as JavaScript; a page from ``file://`` may load scripts, but no JSON.

    Bytes of file names that are no UTF-8 are spelled out, because no address, table or key of the
    page can hold them.

    Raises:
        RunError: If it cannot be written.
    """
    text = json.dumps(_unicode(value), allow_nan=False, separators=(",", ":"))  # ASCII only
    with atomic(path) as beside:
        beside.write_text(f"{before}{text}{after}\n", encoding="ascii")


def write_case(folder: Path, name: str, value: dict[str, Any]) -> None:
    """Write the script of one case."""
    write_script(folder / name, "window.REVIEW_CASE(", value, ");")


def write_list(folder: Path, value: dict[str, Any]) -> None:
    """Write the work list."""
    write_script(folder / LIST, "window.REVIEW = ", value, ";")


def write_picture(folder: Path, name: str, content: bytes) -> None:
    """Write a thumbnail."""
    with atomic(folder / name) as beside:
        beside.write_bytes(content)


def _unicode(value: Any) -> Any:
    """The value with bytes that are no UTF-8 spelled out in all its texts."""
    if isinstance(value, str):
        return spelled_out(value)
    if isinstance(value, Mapping):
        return {_unicode(key): _unicode(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_unicode(held) for held in value]
    return value


def _keep_others(folder: Path, target: Path) -> None:
    """Have what is no part of a review, such as exported verdicts, in another folder too."""
    for path in sorted(folder.iterdir()):
        if path.name in OURS:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target / path.name, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(path, target / path.name)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # not all file systems know links
        shutil.copy2(source, target, follow_symlinks=False)


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()
