"""The processes that prepare patches, and what becomes of them."""

import contextlib
import ctypes
import multiprocessing
import signal
import sys
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from medseg3d.training.interrupts import Interrupts

DIE_WITH_PARENT = 1
GRACE_SECONDS = 5.0
DYING_SECONDS = 60.0
"""For one that has closed its connection; the system may write its memory to a disk first."""


class WorkerEndedError(RuntimeError):
    """A data worker ended by itself; becomes a sentence in :mod:`medseg3d.training.faults`."""


class Workers:
    """Watches the data workers while training waits for them.

    Torch watches them too, but only in the first training of a process, and it may wait for a
    dead one as long as for a slow one. Processes that were there before this object are none of
    them.

    Args:
        interrupts: Tells when a step must not be cut in two.

    Attributes:
        ended: How one of them ended before :meth:`end`, in words.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self.ended: str | None = None
        self._interrupts = interrupts
        self._others = set(multiprocessing.active_children())
        self._processes: list[BaseProcess] = []

    def watch(self, number: int) -> None:
        """Watch the workers that are there now, and raise as soon as one ends.

        Raises:
            WorkerEndedError: If there are fewer than ``number``.
        """
        begun = set(multiprocessing.active_children()) - self._others
        self._processes = [child for child in begun if child.daemon] if number else []
        if len(self._processes) < number:
            self.ended = "a data worker ended as soon as it was begun"
        if number and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, self._on_end)
        self.check()

    def check(self) -> None:
        """Make sure that all are alive.

        Raises:
            WorkerEndedError: If one is not.
        """
        if self.ended is None:
            ended = (process for process in self._processes if process.exitcode is not None)
            self.ended = next(map(_ended, ended), None)
        if self.ended is not None:
            raise WorkerEndedError(self.ended)

    def end(self, error: BaseException | None = None) -> None:
        """Kill them: they hold nothing of worth and may be slow to end.

        Args:
            error: Why; a connection that is gone tells of a worker that is about to be.
        """
        if not self._processes:
            return
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if isinstance(error, (ConnectionError, EOFError)):
            self._await_one(DYING_SECONDS)
        elif isinstance(error, OSError):
            self._await_one(GRACE_SECONDS)
        with contextlib.suppress(WorkerEndedError):
            self.check()
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill()
        for process in processes:
            process.join(1)

    def _await_one(self, seconds: float) -> None:
        by_sentinel = {process.sentinel: process for process in self._processes}
        for sentinel in wait(list(by_sentinel), seconds):
            assert isinstance(sentinel, int)
            by_sentinel[sentinel].join(seconds)  # it closes its files before it has ended

    def _on_end(self, _number: int, _frame: FrameType | None) -> None:
        if self._interrupts.is_whole:
            self.check()


def begin_worker(_number: int) -> None:
    """Leave signals for all to the main process, and end with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # from Slurm
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)


def _ended(process: BaseProcess) -> str:
    code = process.exitcode or 0
    how = f"died with exit code {code}" if code >= 0 else f"was killed ({signal.strsignal(-code)})"
    return f"data worker {process.pid} {how}"
