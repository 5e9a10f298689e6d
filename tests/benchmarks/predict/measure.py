"""Run a whole command and say how long it took and how much memory it and its children held."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
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
        peak_bytes: Largest resident memory: of the first process as the kernel counted it, or
            of it and all its children together, as seen every 50 ms; the larger of both.
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


def run(command: Sequence[str | Path], *, log: Path, folder: Path | None = None) -> Measurement:
    """Run a command to its end, with its output in a file.

    Should the memory run out, the kernel ends this command before anything else.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    highest = 0
    ended = threading.Event()

    def watch(pid: int) -> None:
        nonlocal highest
        while not ended.wait(PERIOD):
            highest = max(highest, resident(pid))

    with log.open("w", encoding="utf-8") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, cwd=folder
        )
        with suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000", encoding="ascii")
        watcher = threading.Thread(target=watch, args=(process.pid,))
        watcher.start()
        try:
            _, status = os.waitpid(process.pid, 0)
        except BaseException:
            process.kill()
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
    """Resident bytes of a process and all its descendants."""
    total = 0
    waiting = [pid]
    while waiting:
        here = Path(f"/proc/{waiting.pop()}")
        with suppress(OSError, ValueError, IndexError):
            total += int((here / "statm").read_text().split()[1]) * PAGE
            for task in (here / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total
