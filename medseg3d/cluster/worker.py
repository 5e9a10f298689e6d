"""What happens in a worker: one job, whose errors and messages come back as its result."""

import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from medseg3d.io.atomic import stops_all
from medseg3d.process import sentence

log = logging.getLogger("medseg3d")

J = TypeVar("J")

Message = tuple[int, str]
"""Level and text."""

_alone = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What became of one job.

    Attributes:
        result: What the function returned.
        error: One sentence if it raised instead.
        stops_all: Whether the others would fail in the same way, as on a full disk.
        messages: What was logged meanwhile.
    """

    result: Any = None
    error: str | None = None
    stops_all: bool = False
    messages: tuple[Message, ...] = ()


def packed(function: Callable[[J], Any], job: J) -> bytes:
    """A function and its job as bytes, which the scheduler passes on without looking inside."""
    from distributed.protocol.pickle import dumps

    return dumps((function, job))  # type: ignore[no-any-return]


def attempt(pack: bytes, level: int) -> Outcome:
    """Do one job, after the one that is at work in this process.

    Nothing is raised: an exception would be logged by the worker with all paths of the job, and
    not every exception can be sent.

    Args:
        pack: From :func:`packed`.
        level: Which messages come back.
    """
    with _alone, _messages(level) as messages:
        try:
            function, job = pickle.loads(pack)
            result = function(job)
        except (Exception, SystemExit) as error:
            log.debug("a job failed", exc_info=True)
            return Outcome(
                error=sentence(error), stops_all=stops_all(error), messages=tuple(messages)
            )
        return Outcome(result, messages=tuple(messages))


@contextmanager
def _messages(level: int) -> Iterator[list[Message]]:
    """Collect what is logged inside."""
    messages: list[Message] = []
    collector = _Collector(messages)
    before = log.level
    log.setLevel(level)
    log.addHandler(collector)
    try:
        yield messages
    finally:
        log.removeHandler(collector)
        log.setLevel(before)


class _Collector(logging.Handler):
    def __init__(self, messages: list[Message]) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append((record.levelno, self.format(record)))
