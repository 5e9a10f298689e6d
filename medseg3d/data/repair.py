"""Writing a repaired copy of a data set; the original is only read."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import astuple, fields
from itertools import chain
from pathlib import Path

from medseg3d.data.cases import Case, Dataset
from medseg3d.data.files import parts_of
from medseg3d.data.remedies import CaseRepair, Change, Remedies
from medseg3d.data.threads import in_threads
from medseg3d.errors import ConfigError, RunError
from medseg3d.io.atomic import atomic, write_csv
from medseg3d.machine import disk_shortage

LOG_NAME = "fixes.csv"


def repair(
    dataset: Dataset,
    out: Path,
    remedies: Remedies,
    *,
    dry_run: bool = False,
    advance: Callable[[], None] | None = None,
) -> tuple[Change, ...]:
    """Copy a data set, with the files repaired that can be.

    Args:
        dataset: The cases; all other files of the folder are copied as they are.
        out: New or empty folder.
        remedies: What may be changed.
        dry_run: Only say what would be changed.
        advance: Called after each case.

    Returns:
        The changes; they are written to ``fixes.csv`` in ``out`` too.

    Raises:
        ConfigError: If ``out`` lies inside the data set or around it.
        RunError: If ``out`` is not empty, the disk has no room or cannot be written.
    """
    if not dry_run:
        expect_fresh(out, dataset.root)
        _expect_room(out, dataset.root)

    def repaired(case: Case) -> tuple[Change, ...]:
        work = CaseRepair(case, dataset.root, None if dry_run else out, remedies)
        try:
            return work.run()
        finally:
            if advance:
                advance()

    found = in_threads(repaired, dataset.cases)
    changes = tuple(chain.from_iterable(found))
    if not dry_run:
        for file in _all_files(dataset):
            _copy(file, out / file.relative_to(dataset.root))
        columns = (field.name for field in fields(Change))
        write_csv(out / LOG_NAME, columns, map(astuple, changes))
    return changes


def expect_fresh(out: Path, root: Path) -> None:
    """Refuse a folder for the copy that holds something, or lies in or around the data set.

    Raises:
        ConfigError: If it lies inside the data set or around it.
        RunError: If it is not empty.
    """
    there, here = out.resolve(), root.resolve()
    if there == here or here in there.parents or there in here.parents:
        raise ConfigError(
            f"the repaired copy cannot lie in {out}, because the data set is {root}; name a folder "
            "beside it"
        )
    if there.exists() and (not there.is_dir() or any(there.iterdir())):
        raise RunError(
            f"{out} is not empty, perhaps from a run that was interrupted; remove it or name "
            "another folder for the repaired copy"
        )


def _expect_room(out: Path, root: Path) -> None:
    needed = sum(file.stat().st_size for file in _walk(root))
    if short := disk_shortage([(out, needed)]):
        raise RunError(
            f"a copy of {root} needs about {short.needed}, but {short.free} are free at {out}; "
            "free some space or name another folder"
        )


def _all_files(dataset: Dataset) -> Iterator[Path]:
    """Every file of the folder, and those of the cases that lie behind linked folders."""
    files = set(_walk(dataset.root))
    for case in dataset.cases:
        for path in (*case.images, *(() if case.labels is None else (case.labels,))):
            files.update(part for part in parts_of(path) if part.is_file())
    return iter(sorted(files))


def _walk(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path


def _copy(file: Path, target: Path) -> None:
    """Copy a file unless a repaired one is there already."""
    if target.exists():
        return
    try:
        file.open("rb").close()
        with atomic(target) as partial:
            shutil.copyfile(file, partial)
    except OSError as error:
        raise RunError(f"{file} cannot be copied to {target} ({error.strerror})") from error
