"""Ctrl-C and other signals while training: never between the two halves of a step."""

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

from medseg3d.process import ENDING

SAME = 0.5
"""Signals this many seconds apart are one wish: ``timeout`` and terminals send it twice."""


class Interrupts:
    """Raises what a signal asks for, at once or as soon as the work is whole again.

    Between :meth:`hold` and :meth:`release` the first signal waits; a second one does not.
    Whatever swallows the exception, :meth:`check` raises it again. Outside the main thread, where
    no signals arrive, all of this does nothing.

    Attributes:
        pending: What a signal asked for, if one came.
        is_whole: Whether no exception can have come between two halves of a step.
    """

    def __init__(self) -> None:
        self.pending: type[KeyboardInterrupt] | None = None
        self.is_whole = True
        self._before: dict[signal.Signals, Any] = {}
        self._came_at = 0.0

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def install(self) -> None:
        """Take the signals, also back from somebody who took them since."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDING:
            before = signal.getsignal(number)
            if before == signal.SIG_IGN and number not in self._before:
                continue  # a job in the background that shall not hear Ctrl-C
            if before is None and number == signal.SIGUSR1:
                continue  # somebody's faulthandler
            self._before.setdefault(number, before or signal.SIG_DFL)
            signal.signal(number, self._on_signal)

    def hold(self) -> None:
        """Begin something that must not be cut in two."""
        self.is_whole = False

    def release(self) -> None:
        """End it, and raise what came meanwhile."""
        self.is_whole = True
        self.check()

    def check(self) -> None:
        """Raise what a signal asked for."""
        if self.pending is not None:
            raise self.pending

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        is_first, self.pending = self.pending is None, ENDING[signal.Signals(number)]
        if is_first:
            self._came_at = now
        if self.is_whole if is_first else now - self._came_at > SAME:
            raise self.pending
