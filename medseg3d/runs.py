"""Run folders: what lies in them, where a new one goes, which one ``predict`` takes.

::

    runs/<data>_<network>_<time>/
      config.yaml plan.yaml split.json provenance.json   written before the first step
      history.csv history.png checkpoints/               while training
      validation/                                        label maps and scores of held-out cases
      model.medseg3d                                     last of all: the run is finished
"""

from datetime import datetime
from pathlib import Path

from medseg3d.bundle import FILE_NAME, SUFFIX
from medseg3d.config import FitConfig, read_yaml, validated
from medseg3d.errors import ConfigError, ModelError, RunError

RUNS = Path("runs")
CACHE = RUNS / ".cache"
"""Where preprocessed cases go unless the options name another folder."""

MAY_CHANGE = frozenset({"out", "resume", "device", "workers", "data", "cache"})
"""Options that a resumed run may give anew without training another model."""


def free_run_folder(config: FitConfig) -> Path:
    """Where a new run goes; nothing is made yet.

    Raises:
        RunError: If it exists and is not empty.
    """
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    default = RUNS / f"{config.data.resolve().name}_{config.network.name}_{stamp}"
    folder = config.out or default
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            f"{folder} is already in use; choose another folder with -o, or give --resume to go "
            "on with the run in it"
        )
    return folder


def make_run_folder(folder: Path) -> None:
    """Make the folder of a new run.

    Raises:
        RunError: If it cannot be made.
    """
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made ({error.strerror}); choose another -o") from None


def interrupted_run(config: FitConfig) -> tuple[Path, FitConfig]:
    """Folder and stored options of the run to resume.

    Raises:
        ConfigError: If no run folder is given, or an option differs from the stored one.
        RunError: If the folder holds no run, or the run is finished.
    """
    if config.out is None:
        raise ConfigError("--resume needs the run folder: medseg3d fit DATA -o RUN --resume")
    folder = config.out
    if (folder / FILE_NAME).exists():
        raise RunError(f"{folder} is finished: it holds {FILE_NAME}; start a new run to train more")
    missing = [
        name for name in ("config.yaml", "plan.yaml", "split.json") if not (folder / name).is_file()
    ]
    if missing:
        raise RunError(
            f"{folder} holds no {', '.join(missing)}, so there is no run to resume in it"
        )
    stored = validated(FitConfig, read_yaml(folder / "config.yaml"), source="config.yaml")
    given = {name: getattr(config, name) for name in config.model_fields_set - MAY_CHANGE}
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
    return folder, stored.model_copy(update=anew)


def find_bundle(model: Path | None) -> Path:
    """The bundle of a run folder, the file itself, or the newest finished run under ``runs``.

    Raises:
        ModelError: If there is none.
    """
    if model is None:
        finished = sorted(RUNS.glob(f"*/{FILE_NAME}"), key=lambda path: path.stat().st_mtime)
        if not finished:
            raise ModelError(
                f"no finished run under {RUNS.resolve()}; train one with medseg3d fit DATA, or "
                "give a run folder or bundle with -m"
            )
        return finished[-1]
    if model.is_dir():
        bundle = model / FILE_NAME
        if not bundle.is_file():
            best = model / "checkpoints" / f"best{SUFFIX}"
            hint = f"; the best weights so far are {best}" if best.is_file() else ""
            raise ModelError(f"{model} holds no {FILE_NAME}: the run is not finished{hint}")
        return bundle
    if not model.is_file():
        raise ModelError(f"{model}: no such run folder or bundle; give one with -m")
    return model
