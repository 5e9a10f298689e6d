"""Deliberate errors; everything else that escapes is a bug.

::

    MedSeg3DError
      ConfigError   an option, a plan or a name is wrong (UnknownNameError)
      DataError     a file, volume or folder breaks the data contract
      ModelError    a bundle or checkpoint cannot be used
      RunError      a run cannot start or go on (resources, state, interrupted; IncompleteError)

A message is one sentence that says what was found, what was expected and what to do.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class MedSeg3DError(Exception):
    """Root of all deliberate errors; the command line prints it as one line, exit code 1."""


class ConfigError(MedSeg3DError, ValueError):
    """An option, a plan or a name is wrong."""


class UnknownNameError(ConfigError):
    """Nothing of that name is registered, or what is has no option of that name."""


class DataError(MedSeg3DError, ValueError):
    """A file, volume or folder breaks the data contract."""


class ModelError(MedSeg3DError, ValueError):
    """A bundle or checkpoint cannot be used."""


class RunError(MedSeg3DError, RuntimeError):
    """A run cannot start or cannot go on."""


class IncompleteError(RunError):
    """Some of the work is done.

    Args:
        message: What was not.
        done: What was, in its own order.
    """

    def __init__(self, message: str, done: Sequence[Any]) -> None:
        super().__init__(message)
        self.done = tuple(done)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.done)


class Terminated(KeyboardInterrupt):
    """The system asks the process to end (SIGTERM); handled as Ctrl-C, with its own exit code."""


class TimeIsUp(Terminated):
    """A scheduler is about to take the machine back (SIGUSR1); there is another exit code for it.

    Slurm sends the signal so many seconds before a job's end if the job asks for it
    (``--signal=USR1@120``).
    """


@contextmanager
def about_case(case_id: str) -> Iterator[None]:
    """Put ``case ID:`` before the message of any data error raised inside."""
    try:
        yield
    except DataError as error:
        prefix = f"case {case_id}: "
        message = str(error)
        if message.startswith(prefix):
            raise
        raise type(error)(prefix + message) from error
