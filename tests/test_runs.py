"""Run folders: one process at a time, nothing left of killed ones."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medseg3d.config import FitConfig
from medseg3d.errors import RunError
from medseg3d.runs import LOCK, free_run_folder, locked

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
    assert not run.exists()
    run.mkdir()
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
