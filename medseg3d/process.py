"""How this process starts and ends: signals, streams and exit codes."""

import atexit
import contextlib
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from medseg3d.errors import MedSeg3DError, Terminated, TimeIsUp

STANDARD_ERROR = 2
FAILED = 1
MISUSED = 2
INTERRUPTED = 130
TERMINATED = 143
TIME_IS_UP = 138
PIPE_CLOSED = 141

ENDING = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGHUP: Terminated,
    signal.SIGUSR1: TimeIsUp,
}
"""Signals that ask a process to end, and what they raise."""

GRACE = 9.0
"""Seconds from the first signal to the end at the latest."""

MOST_SHOWN = 500
"""Characters of the message of an error that nobody expected."""

_OUT_OF_MEMORY = re.compile(
    r"out of memory|(?:not enough|can't allocate|cannot allocate|unable to allocate) memory"
    r"|bad_alloc|failed to allocate|(?:cublas|cudnn)_status_alloc_failed"
    r"|unable to find an engine to execute this computation",  # cuDNN, for want of a workspace
    re.IGNORECASE,
)

SAME = 0.5
"""Signals this many seconds apart are one wish: ``timeout`` and terminals send it twice."""


def handle_signals() -> None:
    """Let Ctrl-C, SIGTERM, SIGUSR1 and a closed terminal end the work in order, within seconds.

    The first signal raises in the main thread (``KeyboardInterrupt``, else
    :class:`~medseg3d.errors.Terminated` or a kind of it), so that half-made files are removed or
    a checkpoint is saved. A second one ends the process at once, and so do 9 s without an end, as
    when a long computation outside Python keeps the first from being seen. Signals that are
    ignored when the process starts, as under ``nohup``, stay so.
    """
    begun = 0.0

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal begun
        now = time.monotonic()
        if not begun:
            begun = now
            atexit.register(_ignore)
            raise ENDING[signal.Signals(number)]
        if now - begun > SAME:
            os._exit(exit_code(ENDING[signal.Signals(number)]))

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    seen, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_end_late, args=(seen,), name="grace", daemon=True).start()


def _end_late(seen: int) -> None:
    """Wait for a signal that ends the process, and end it if nobody else does."""
    while True:
        for number in os.read(seen, 64):
            if number in ENDING:
                time.sleep(GRACE)
                os._exit(exit_code(ENDING[signal.Signals(number)]))


def _ignore() -> None:
    """Python gives signals their usual effect back when it ends, and the exit code would go."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def exit_code(interrupt: type[KeyboardInterrupt]) -> int:
    """The exit code of a process that a signal has ended.

    Examples:
        >>> exit_code(KeyboardInterrupt), exit_code(Terminated), exit_code(TimeIsUp)
        (130, 143, 138)
    """
    if issubclass(interrupt, TimeIsUp):
        return TIME_IS_UP
    return TERMINATED if issubclass(interrupt, Terminated) else INTERRUPTED


def forgive_characters() -> None:
    """Print a replacement for characters that the encoding of the output lacks."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def drop_output() -> None:
    """Send what is still to be printed nowhere, because its reader has gone."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def libraries_say_nothing() -> Iterator[None]:
    """Send nowhere what compiled code writes to the error output.

    What Python itself has to say of errors is raised all the same.
    """
    try:
        kept = os.dup(STANDARD_ERROR)
    except OSError:  # it is closed, so nothing can be written there
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, STANDARD_ERROR)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)


def flush_output() -> None:
    """Print what is still to be printed, if there is somebody to read it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        drop_output()


def sentence(error: BaseException) -> str:
    """One sentence for any error: deliberate ones speak for themselves, the rest is a bug.

    Examples:
        >>> sentence(FileNotFoundError(2, "No such file or directory", "a.csv"))
        'a.csv: No such file or directory'
        >>> sentence(IndexError("list index out of range")).split(";")[0]
        'unexpected IndexError: list index out of range'
    """
    match error:
        case MedSeg3DError():
            return str(error)
        case OSError(strerror=str(reason), filename=name):
            return f"{name}: {reason}" if name else f"the system reports: {reason}"
    if out_of_memory(error):
        return "the memory is used up; close other programs or use a larger machine"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected {what[:MOST_SHOWN]}; this is a bug, run with --verbose for the traceback"


def out_of_memory(error: BaseException) -> bool:
    """Whether a library says that memory could not be had, on the processor or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, MedSeg3DError) or not isinstance(error, RuntimeError):
        return False
    return bool(_OUT_OF_MEMORY.search(str(error)))
