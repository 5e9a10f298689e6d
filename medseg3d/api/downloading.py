"""``download``: a task of the Medical Segmentation Decathlon as a folder to learn from.

MONAI's class knows addresses and MD5 digests. Its transfer is not taken: it needs a package that
MONAI does not install, goes through the system's temporary folder, which may be smaller than an
archive, and says nothing where it may not write.

Reference:
    Antonelli et al., "The Medical Segmentation Decathlon", Nat. Commun. 13, 2022.
    https://doi.org/10.1038/s41467-022-30695-9
"""

import hashlib
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from medseg3d.config import DownloadConfig, given
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.io.atomic import empties_removed, half_made, reason_of, sweep
from medseg3d.machine import disk_shortage, in_words
from medseg3d.progress import Progress

log = logging.getLogger("medseg3d")

BLOCK = 1 << 20
LONGEST_SILENCE = 60.0
"""Seconds."""


@dataclass(frozen=True)
class Download:
    """A task that has arrived.

    Attributes:
        folder: Holds ``dataset.json``, ``imagesTr`` and ``labelsTr``; to be given to ``fit``.
        num_files: Files in it.
        num_bytes: Their size.
    """

    folder: Path
    num_files: int
    num_bytes: int


def download(task: str | DownloadConfig, **options: Any) -> Download:
    """Fetch a task, compare its digest with MONAI's, and unpack it.

    The folder appears whole or not at all.

    Args:
        task: Its name or number, or all options.
        **options: See :class:`medseg3d.config.DownloadConfig`.

    Raises:
        ConfigError: If there is no such task.
        RunError: If it is there already, the network or the disk does not allow it, or what
            arrives is damaged.
        DataError: If the archive holds something else than the task.
    """
    config = given(DownloadConfig, "task", task, options)
    name, url, md5 = known_task(config.task)
    target = config.out / name
    if target.exists():
        raise RunError(
            f"{target} is there already; learn from it with medseg3d fit, or remove it to "
            "download it again"
        )
    with _working_folder(config.out) as folder:
        archive = folder / "archive"
        found = _fetch(url, archive)
        if found != md5:
            raise RunError(
                f"what arrived from {url} is damaged: its MD5 is {found}, expected {md5}; repeat "
                "the command"
            )
        arrived = _unpack(archive, folder / "unpacked", name)
        made = folder / "unpacked" / name
        for path in (*made.rglob("*"), made):
            _flush(path)
        made.rename(target)
        _flush(config.out)
    log.info("%s: %d files, %s", target, arrived[0], in_words(arrived[1]))
    return Download(target, *arrived)


def known_task(text: str) -> tuple[str, str, str]:
    """Name, address and MD5 digest of a task that is given by name or number.

    Raises:
        ConfigError: If there is no such task.

    Examples:
        >>> known_task("hippocampus")[0], known_task("8")[0], known_task("Brain tumor")[0]
        ('Task04_Hippocampus', 'Task08_HepaticVessel', 'Task01_BrainTumour')
    """
    from monai.apps.datasets import DecathlonDataset

    tasks = {_plain(name).removeprefix("task")[2:]: name for name in DecathlonDataset.resource}
    wanted = _plain(text).removeprefix("task").replace("tumor", "tumour")
    number, rest = re.fullmatch(r"(\d*)(.*)", wanted).groups()  # type: ignore[union-attr]
    for plain, name in tasks.items():
        if rest in ("", plain) and (not number or int(number) == int(name[4:6])) and wanted:
            return name, DecathlonDataset.resource[name], DecathlonDataset.md5[name]
    close = get_close_matches(rest, tasks, n=1)
    hint = f"did you mean {tasks[close[0]]}?" if close else f"known: {', '.join(tasks.values())}"
    raise ConfigError(f"the Medical Segmentation Decathlon has no task {text!r}; {hint}")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


@contextmanager
def _working_folder(out: Path) -> Iterator[Path]:
    """A folder inside ``out`` that is gone at the end, and ``out`` too if nothing came of it.

    What killed downloads left in ``out`` is removed first.
    """
    folder = half_made(out / "download")
    with empties_removed(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
            sweep(out)
            folder.mkdir()
            yield folder
        except OSError as error:
            raise RunError(f"{out} cannot be written: {reason_of(error)}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _fetch(url: str, archive: Path) -> str:
    """Write what lies at an address into a file and return its MD5 digest."""
    try:
        answer = urlopen(url, timeout=LONGEST_SILENCE)
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error) from error
    digest = hashlib.md5(usedforsecurity=False)
    with answer, archive.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        _require_room(archive.parent.parent, size)
        log.info("downloading %s, %s", url, in_words(size) if size else "of unknown size")
        arrived = 0
        with Progress("Downloading") as bar:
            for block in _blocks(answer, url):
                file.write(block)
                digest.update(block)
                arrived += len(block)
                bar.set_progress(arrived / max(size, arrived), note=in_words(arrived))
    if arrived < size:
        raise _unreachable(url, EOFError(f"it ended after {arrived} of {size} bytes"))
    return digest.hexdigest()


def _blocks(answer: Any, url: str) -> Iterator[bytes]:
    try:
        while block := answer.read(BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> RunError:
    match error:
        case HTTPError():
            error.close()
            reason = f"the server says {error.code} {error.reason}"
        case URLError():
            reason = str(getattr(error.reason, "strerror", None) or error.reason)
        case TimeoutError():
            reason = f"nothing came for {LONGEST_SILENCE:.0f} s"
        case _:
            reason = str(error) or type(error).__name__
    return RunError(
        f"{url} cannot be downloaded ({reason}); check the network connection, or bring the "
        "archive from another machine and unpack it"
    )


def _require_room(out: Path, size: int) -> None:
    """Archive and files lie side by side for a while."""
    if short := disk_shortage([(out, 2 * size)]):
        raise RunError(
            f"{out} has {short.free} free, but {short.needed} are needed to download and unpack "
            "the task; free some space, or choose another folder with -o"
        )


def _flush(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk, where no power cut takes them."""
    with suppress(OSError) if path.is_dir() else nullcontext():  # not all systems do folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unpack(archive: Path, into: Path, name: str) -> tuple[int, int]:
    """Write the files of a task; only plain files, and only below its own folder.

    Returns:
        Number of files and of bytes.

    Raises:
        DataError: If the archive holds anything else, or is none.
    """
    root = into.resolve() / name
    num_files = num_bytes = 0
    try:
        with tarfile.open(archive) as tar, Progress("Unpacking", unit="file") as bar:
            for member in tar:
                path = (into.resolve() / member.name).resolve()
                if member.isdir() or path.name.startswith("."):  # what macOS adds
                    continue
                source = tar.extractfile(member) if member.isfile() else None
                if source is None or not path.is_relative_to(root):
                    raise DataError(
                        f"the archive of {name} holds {member.name!r}, which is no file in the "
                        f"folder {name}; it is not unpacked"
                    )
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(source, file, BLOCK)
                num_files, num_bytes = num_files + 1, num_bytes + member.size
                bar.advance()
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"the archive of {name} cannot be unpacked ({error})") from error
    if not (root / "dataset.json").is_file():
        raise DataError(f"the archive of {name} holds no {name}/dataset.json; it is not unpacked")
    return num_files, num_bytes
