"""Run a whole command and say how long it took and how much memory it and its children held."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PERIOD = 0.05
PAGE = os.sysconf("SC_PAGE_SIZE")
ENDED_BY_KERNEL = -9
SIGNS_OF_NO_MEMORY = ("MemoryError", "allocate memory", "Unable to allocate")


@dataclass(frozen=True)
class Measurement:
    """One run of one command.

    Attributes:
        seconds: Wall time from the start of the process to its end.
        peak_bytes: Largest resident memory of the process and all its children together, as
            two looks 50 ms apart both saw it; what they share counts once.
        code: Exit code; negative for a signal.
        error: Last lines it printed, if it failed.
    """

    seconds: float
    peak_bytes: int
    code: int
    error: str = ""

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether the kernel ended it for that, or it said so itself."""
        said_so = any(sign in self.error for sign in SIGNS_OF_NO_MEMORY)
        return self.code == ENDED_BY_KERNEL or (self.code != 0 and said_so)

    @property
    def note(self) -> str:
        """What went wrong in a few words, empty if nothing did."""
        if self.ran_out_of_memory:
            return "out of memory"
        return f"failed: {self.error.splitlines()[-1:]}" if self.code else ""


def run(
    command: Sequence[str | Path],
    *,
    log: Path,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Measurement:
    """Run a command to its end, with its output in a file.

    Should the memory run out, the kernel ends this command before anything else. Its children
    end with it when this process is interrupted.

    Args:
        command: Words.
        log: Where its output goes.
        folder: Where it runs; default here.
        variables: Of the environment, beside those of this process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    highest = 0
    ended = threading.Event()

    def watch(pid: int) -> None:
        nonlocal highest
        before = 0
        while not ended.wait(PERIOD):
            now = resident(pid)
            highest = max(highest, min(before, now))  # a process may begin or end during one look
            before = now

    with log.open("w", encoding="utf-8") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | (variables or {}),
            start_new_session=True,
        )
        with suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000", encoding="ascii")
        watcher = threading.Thread(target=watch, args=(process.pid,))
        watcher.start()
        try:
            _, status = os.waitpid(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            ended.set()
            watcher.join()
        seconds = time.perf_counter() - begun
    process.returncode = code = os.waitstatus_to_exitcode(status)
    error = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    # not what the kernel counts for a child, which begins with the memory of this process
    return Measurement(seconds, highest, code, error if code else "")


def resident(pid: int) -> int:
    """Resident bytes of a process and all its descendants; what they share counts once."""
    waiting, found = [pid], []
    while waiting:
        here = Path(f"/proc/{waiting.pop()}")
        with suppress(OSError, ValueError):
            for task in (here / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
            found.append(here)
    held = _alone if len(found) == 1 else _share
    total = 0
    for here in found:
        with suppress(OSError, ValueError, IndexError):  # it may have ended
            total += held(here)
    return total


def _alone(process: Path) -> int:
    return int((process / "statm").read_text().split()[1]) * PAGE


def _share(process: Path) -> int:
    """Its own pages, and of each that several processes hold its part (proc_pid_smaps(5))."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    [size] = (line.split()[1] for line in lines if line.startswith("Pss:"))
    return int(size) << 10
