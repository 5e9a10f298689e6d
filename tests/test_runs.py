"""Run folders: one process at a time, nothing left of killed ones."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medseg3d.bundle import FILE_NAME
from medseg3d.config import FitConfig, validated
from medseg3d.errors import ConfigError, RunError
from medseg3d.runs import (
    CACHE,
    HELD_OUT,
    LOCK,
    OPTIONS,
    SCORES,
    free_run_folder,
    interrupted_run,
    locked,
    options_text,
)

HOLD = """
import sys, time
from pathlib import Path
from medseg3d.runs import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_lock_leaves_no_trace(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    with locked(run):
        assert f"process {os.getpid()} on " in (run / LOCK).read_text()
    assert not run.parent.exists()
    run.mkdir(parents=True)
    (run / "kept").touch()
    with locked(run):
        pass
    assert [path.name for path in run.iterdir()] == ["kept"]


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "a"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == "locked\n"
        told = rf"another run is at work in {run} \(process {first.pid} on .*\); wait"
        with pytest.raises(RunError, match=told), locked(run):
            pass
        (run / "config.yaml").touch()
        with pytest.raises(RunError, match=told):
            free_run_folder(FitConfig(data=tmp_path, out=run))
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
        first.stdout.close()
    assert (run / LOCK).is_file()
    with pytest.raises(RunError, match=r"is already in use; .*--resume"):
        free_run_folder(FitConfig(data=tmp_path, out=run))
    (run / "config.yaml").unlink()
    assert free_run_folder(FitConfig(data=tmp_path, out=run)) == run, "only our own leftovers"
    with locked(run):
        pass


def test_what_killed_runs_were_writing_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".medseg3d-1234-part.safetensors"
    left.parent.mkdir()
    left.touch()
    (tmp_path / "checkpoints" / "last.safetensors").touch()
    with locked(tmp_path):
        assert [path.name for path in left.parent.iterdir()] == ["last.safetensors"]


def test_a_review_in_the_making_is_in_nobodys_way(tmp_path: Path) -> None:
    making = tmp_path / "fold_0" / ".medseg3d-0123456789ab-part"
    (making / "assets").mkdir(parents=True)
    with locked(tmp_path):
        assert (making / "assets").is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/a cannot be written: a part of the path"):
        locked(tmp_path / "file" / "a").__enter__()


def test_what_a_run_needs_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    (home / "runs").mkdir(parents=True)
    run.mkdir()
    monkeypatch.chdir(home)
    names = {"data": "cases", "classes": "c.csv", "target_domain": "others", "start_from": "model"}
    (run / OPTIONS).write_text(options_text(validated(FitConfig, names | {"patients": "p.csv"})))
    resume = {"out": run, "resume": True}
    interrupted_run(validated(FitConfig, names | resume))
    monkeypatch.chdir(tmp_path)
    found = interrupted_run(validated(FitConfig, {"data": "home/cases"} | resume))[1]
    for name, place in names.items() - {("data", "cases")}:
        assert getattr(found, name) == home / place
    assert (found.patients, found.cache) == (home / "p.csv", home / CACHE)
    with pytest.raises(ConfigError, match=r"start_from \(stored .*home/model, given .*other/model"):
        interrupted_run(
            validated(FitConfig, {"data": "home/cases", "start_from": "other/model"} | resume)
        )


def test_a_run_that_was_moved_makes_its_cache_where_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    text = options_text(FitConfig(data=Path("cases"), classes=Path("c.csv")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / OPTIONS).write_text(text)
    moved = FitConfig(data=Path("cases"), classes=Path("new/c.csv"), out=tmp_path, resume=True)
    found = interrupted_run(moved)[1]
    assert (found.cache, found.classes) == (None, Path("new/c.csv"))
    given = interrupted_run(moved.model_copy(update={"cache": Path("here")}))[1]
    assert given.cache == Path("here")


def test_a_resumed_run_may_log_elsewhere_or_nowhere(tmp_path: Path) -> None:
    begun = {"data": tmp_path, "out": tmp_path, "logger": "wandb", "checkpoint_minutes": 5}
    (tmp_path / OPTIONS).write_text(options_text(validated(FitConfig, begun)))

    def resumed(**options: object) -> FitConfig:
        asked = {"data": tmp_path, "out": tmp_path, "resume": True} | options
        return interrupted_run(validated(FitConfig, asked))[1]

    assert (resumed().logger, resumed().checkpoint_minutes) == ("wandb", 5)
    assert resumed(logger=None).logger is None
    assert resumed(logger="mlflow", checkpoint_minutes=0).logger == "mlflow"


def test_a_model_without_scores_is_no_finished_run(tmp_path: Path) -> None:
    (tmp_path / OPTIONS).write_text(options_text(FitConfig(data=tmp_path)))
    (tmp_path / FILE_NAME).touch()
    asked = FitConfig(data=tmp_path, out=tmp_path, resume=True)
    assert interrupted_run(asked)[0] == tmp_path
    (tmp_path / HELD_OUT).mkdir()
    (tmp_path / HELD_OUT / SCORES).touch()
    with pytest.raises(RunError, match=f"is finished: it holds {FILE_NAME} and the scores"):
        interrupted_run(asked)
