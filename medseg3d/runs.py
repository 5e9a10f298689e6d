"""Run folders: what lies in them, where a new one goes, which models ``predict`` takes.

::

    runs/<data>_<network>_<time>/
      config.yaml plan.yaml split.json provenance.json   written before the first step
      history.csv history.png checkpoints/               while training
      corrections.csv                                    after it, with self_correction
      start.medseg3d start.json                          what it began with, if it had weights
      validation/                                        label maps and scores of held-out cases
      model.medseg3d                                     last of all, unless validation failed:
                                                         then the run can be resumed

All folds of a cross-validation lie in one folder::

    runs/<data>_<network>_<time>/
      config.yaml plan.yaml splits.json start.medseg3d   before the first step
      fold_0/ fold_1/ ...                                each a run as above
      validation/                                        label maps and scores of all cases

While a process works in the folder it holds a lock on ``.medseg3d-lock``, which the system lets
go of however the process ends.
"""

import fcntl
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from medseg3d.bundle import BEST, FILE_NAME
from medseg3d.config import FitConfig, read_yaml, to_yaml, validated
from medseg3d.data.split_files import read_splits
from medseg3d.errors import ConfigError, ModelError, RunError
from medseg3d.io.atomic import empties_removed, reason_of

RUNS = Path("runs")
CACHE = RUNS / ".cache"
"""Where preprocessed cases go unless the options name another folder."""

OPTIONS, PLAN, SPLIT, PROVENANCE = "config.yaml", "plan.yaml", "split.json", "provenance.json"
HELD_OUT, SCORES = "validation", "scores.csv"
"""Folder of the label maps of held-out cases, and the table of their scores in it."""

SPLITS = "splits.json"
"""All folds, in the folder of a cross-validation."""

LOCK = ".medseg3d-lock"
OURS = ".medseg3d-*"
UNFINISHED = ".medseg3d-*-part*"

MAY_CHANGE = frozenset(
    {
        *("out", "resume", "device", "workers", "cache", "logger", "checkpoint_minutes"),
        *("data", "patients", "classes", "target_domain"),
    }
)
"""Options that a resumed run may give anew without training another model."""


def stored_options(folder: Path) -> FitConfig:
    """The resolved options of a run.

    Raises:
        ConfigError: If they cannot be read.
    """
    return validated(FitConfig, read_yaml(folder / OPTIONS), source=str(folder / OPTIONS))


def from_anywhere(config: FitConfig) -> FitConfig:
    """The options with files and folders that are found from any current folder."""
    places = {name: value.absolute() for name, value in config if isinstance(value, Path)}
    return config.model_copy(update=places)


def options_text(config: FitConfig) -> str:
    """What the file of options of a run holds; all that it needs is found from anywhere."""
    config = from_anywhere(config.model_copy(update={"cache": config.cache or CACHE}))
    return to_yaml(config, title="Resolved options of this run")


def free_run_folder(config: FitConfig) -> Path:
    """Where a new run goes; nothing is made yet.

    Raises:
        RunError: If it exists and is not empty.
    """
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    network = config.network.name.replace(":", "_")  # which not all file systems allow
    default = RUNS / f"{config.data.resolve().name}_{network}_{stamp}"
    folder = config.out or default
    if folder.exists() and (not folder.is_dir() or not _is_empty(folder)):
        if (holder := _holder(folder / LOCK)) is not None:
            raise _is_locked(folder, holder)
        raise RunError(
            f"{folder} is already in use; choose another folder with -o, or give --resume to go "
            "on with the run in it"
        )
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder, and remove what killed ones left unfinished.

    The folder is made if it is absent, and gone again at the end if nothing was put into it.

    Raises:
        RunError: If the folder cannot be made or written to, or another process is in it.
    """
    with empties_removed(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _take_lock(folder)
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {reason_of(error)}") from None
        try:
            for left in folder.rglob(UNFINISHED):
                if not left.is_dir():  # a review that is in the making
                    left.unlink(missing_ok=True)
            yield
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(file)


def _take_lock(folder: Path) -> int:
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise _is_locked(folder, _holder(path) or "") from None
        except OSError:  # some network file systems have no locks
            pass
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file).st_ino:  # not one that was just given up
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return file
        os.close(file)


def _holder(path: Path) -> str | None:
    """Who holds a lock, in words; None if nobody does."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return None


def _is_locked(folder: Path, holder: str) -> RunError:
    return RunError(
        f"another run is at work in {folder} ({holder or 'a process that gave no number'}); wait "
        "for its end, or choose another folder with -o"
    )


def _is_empty(folder: Path) -> bool:
    return all(entry.match(OURS) for entry in folder.iterdir())


def is_finished(folder: Path) -> bool:
    """Whether a run has left its model and the scores of its held-out cases."""
    return (folder / FILE_NAME).is_file() and (folder / HELD_OUT / SCORES).is_file()


def interrupted_run(config: FitConfig) -> tuple[Path, FitConfig]:
    """Folder and stored options of the run to resume.

    Raises:
        ConfigError: If no run folder is given, or an option differs from the stored one.
        RunError: If the folder holds no run, or the run is finished.
    """
    if config.out is None:
        raise ConfigError("--resume needs the run folder: medseg3d fit DATA -o RUN --resume")
    folder = config.out
    if is_finished(folder):
        raise RunError(
            f"{folder} is finished: it holds {FILE_NAME} and the scores of its held-out cases; "
            "start a new run to train more"
        )
    if not (folder / OPTIONS).is_file():
        raise RunError(f"{folder} holds no {OPTIONS}, so there is no run to resume in it")
    stored, asked = from_anywhere(stored_options(folder)), from_anywhere(config)
    if "name" not in asked.network.model_fields_set:  # it may be that of the model of --from
        named = asked.network.model_copy(update={"name": stored.network.name})
        asked = asked.model_copy(update={"network": named})
    given = {name: getattr(asked, name) for name in config.model_fields_set - MAY_CHANGE}
    changed = [
        f"{name} (stored {getattr(stored, name)}, given {value})"
        for name, value in given.items()
        if getattr(stored, name) != value
    ]
    if changed:
        raise ConfigError(
            f"{folder} was begun with other options: {', '.join(changed)}; leave them out to "
            "resume, or start a new run"
        )
    anew = {name: getattr(config, name) for name in config.model_fields_set & MAY_CHANGE}
    if stored.cache is not None and not stored.cache.parent.is_dir():  # the run came from elsewhere
        anew = {"cache": None} | anew
    return folder, stored.model_copy(update=anew)


def fold_folder(folder: Path, number: int) -> Path:
    """Run folder of one fold of a cross-validation."""
    return folder / f"fold_{number}"


def find_bundles(model: Path | None) -> list[Path]:
    """The bundle of a run, those of all folds of a cross-validation, or the file itself.

    Args:
        model: A run folder or a bundle; None for the newest finished run under ``runs``.

    Raises:
        ModelError: If there is none, or a fold is not finished.
    """
    if model is None:
        folders = [path.parent for name in (FILE_NAME, SPLITS) for path in RUNS.glob(f"*/{name}")]
        finished = [found for folder in folders if all(map(Path.is_file, found := _in(folder)))]
        if not finished:
            raise ModelError(
                f"no finished run under {RUNS.resolve()}; train one with medseg3d fit DATA, or "
                "give a run folder or bundle with -m"
            )
        return max(finished, key=lambda found: max(path.stat().st_mtime for path in found))
    if not (model / SPLITS).is_file():
        return [find_bundle(model)]
    bundles = _in(model)
    if lacking := [path.parent.name for path in bundles if not path.is_file()]:
        raise ModelError(
            f"{model} is a cross-validation of which {', '.join(lacking)} "
            f"{'is' if len(lacking) == 1 else 'are'} not finished; go on with medseg3d fit DATA "
            f"-o {shlex.quote(str(model))} --resume, or name those that are, such as -m "
            f"{shlex.quote(str(model / 'fold_0'))}"
        )
    return bundles


def _in(folder: Path) -> list[Path]:
    """Where the bundles of a run or cross-validation are when it is finished."""
    if not (folder / SPLITS).is_file():
        return [folder / FILE_NAME]
    folds = read_splits(folder / SPLITS)
    return [fold_folder(folder, number) / FILE_NAME for number in range(len(folds))]


def expect_one_run(folder: Path) -> None:
    """Refuse the folder of a cross-validation where one model is wanted.

    Raises:
        ModelError: Naming the run of a fold.
    """
    if (folder / SPLITS).is_file():
        raise ModelError(
            f"{folder} is a cross-validation; name the run of one fold, such as {folder}/fold_0"
        )


def find_bundle(model: Path) -> Path:
    """The bundle of a run folder, or the file itself.

    Raises:
        ModelError: If there is none, or one for each of several folds.
    """
    expect_one_run(model)
    if model.is_dir():
        bundle = model / FILE_NAME
        if not bundle.is_file():
            best = model / BEST
            hint = f"; the best weights so far are {best}" if best.is_file() else ""
            raise ModelError(f"{model} holds no {FILE_NAME}: the run is not finished{hint}")
        return bundle
    if not model.is_file():
        raise ModelError(f"{model}: no such run folder or bundle; give one with -m")
    return model
