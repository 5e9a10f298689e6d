"""What the workers of the tests do; they import it by this name."""

import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medseg3d.errors import DataError

_loads: list[int] = []
_busy = threading.Lock()


@dataclass(frozen=True)
class Done:
    job: int
    process: int
    loads: int
    was_alone: bool
    threads: str | None


@cache
def _model() -> int:
    _loads.append(1)
    return 7


def remember(job: int) -> Done:
    was_alone = _busy.acquire(blocking=False)
    _model()
    time.sleep(0.02)
    if was_alone:
        _busy.release()
    threads = os.environ.get("OMP_NUM_THREADS")
    return Done(job, os.getpid(), len(_loads), was_alone, threads)


@dataclass(frozen=True)
class Deadly:
    """Kills its worker until ``tries`` holds ``deaths`` lines."""

    tries: Path
    deaths: int


def risk(job: Deadly) -> int:
    with job.tries.open("a") as file:
        file.write("tried\n")
    tries = len(job.tries.read_text().splitlines())
    if tries <= job.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return tries


class StubbornError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not to be sent")


def _disagree() -> None:
    raise DataError("case a: the masks differ; draw them again")


def _leave() -> None:
    sys.exit(3)


def _surprise() -> None:
    raise StubbornError("a\nb")


def _fill_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/out/a.nii")


def _return_a_lock() -> Any:
    return threading.Lock()


def _say() -> None:
    log = logging.getLogger("medseg3d")
    log.debug("unheard")
    log.warning("%d %s", 50, "%")


FAULTS: dict[str, Callable[[], Any]] = {
    "disagree": _disagree,
    "leave": _leave,
    "surprise": _surprise,
    "fill_disk": _fill_disk,
    "return_a_lock": _return_a_lock,
    "say": _say,
}


@dataclass(frozen=True)
class Faulty:
    kind: str
    tries: Path


def fail(job: Faulty) -> Any:
    with job.tries.open("a") as file:
        file.write(f"{job.kind}\n")
    return FAULTS[job.kind]()


def nap(job: Path) -> None:
    job.touch()
    time.sleep(60)
