"""A process of its own: its exit code, and its end in order with the one that began it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medseg3d.api.contest.own_process import run_apart

WORKER = """
import signal, sys, time
from pathlib import Path

from medseg3d.api.contest.own_process import end_with_parent


def main(arguments):
    what, folder = arguments
    if what == "end":
        sys.exit(3)
    if what == "die":
        signal.raise_signal(signal.SIGKILL)

    def end(number, frame):
        (Path(folder) / "ended").write_text(signal.Signals(number).name)
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    end_with_parent()
    (Path(folder) / "begun").write_text("")
    while True:
        time.sleep(0.01)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "worker_of_the_test.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    return "worker_of_the_test"


def appears(path: Path, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and (path.name == "begun" or path.read_text()):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("what", "code"), [("end", 3), ("die", -signal.SIGKILL)])
def test_it_gives_the_exit_code(worker: str, what: str, code: int, tmp_path: Path) -> None:
    assert run_apart(worker, [what, str(tmp_path)]) == code


def test_an_interrupt_ends_it_in_order_before_it_is_raised(worker: str, tmp_path: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        if (tmp_path / "begun").exists():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_apart(worker, ["wait", str(tmp_path)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "ended").read_text() == "SIGTERM"


def test_it_ends_in_order_when_the_other_is_killed(worker: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from medseg3d.api.contest.own_process import run_apart\n"
        f"run_apart({worker!r}, ['wait', {str(tmp_path)!r}])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert appears(tmp_path / "begun")
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert appears(tmp_path / "ended")
