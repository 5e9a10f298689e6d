"""Work in a process of its own, which ends in order when the one that began it does."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from medseg3d.process import GRACE

FIRST_TO_GO = "1000"
"""Where memory runs out, the kernel ends this process and not the one that watches it."""


def run_apart(module: str, arguments: Sequence[str]) -> int:
    """Call ``main`` of a module in a new process and wait for its end.

    Signals reach this process only. When it is interrupted, it closes the pipe that the other
    listens to (:func:`end_with_parent`), and waits for its end in order. Should it be killed, the
    system closes the pipe.

    Args:
        module: Dotted name.
        arguments: Texts that ``main`` gets as a list.

    Returns:
        The exit code, negative for a signal.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # which is for what this process prints, and libraries might
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        with suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(FIRST_TO_GO, encoding="ascii")
        return process.wait()
    finally:
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE - 1)
        process.kill()
        process.wait()


def end_with_parent() -> None:
    """Let this process get SIGTERM as soon as nobody holds the other end of its input."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
