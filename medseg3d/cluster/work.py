"""Which job is where: one on each worker, again if its worker dies, failed after three."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from medseg3d.cluster.worker import Outcome, attempt, packed
from medseg3d.errors import RunError
from medseg3d.process import sentence

if TYPE_CHECKING:
    from distributed import Client, Future

J = TypeVar("J")
R = TypeVar("R")

log = logging.getLogger("medseg3d")

MOST_DEATHS = 3
"""Workers that one job may cost."""

SECONDS_TO_ANSWER = 10.0
"""For a worker to send a result, before it counts as dead."""


class SchedulerLostError(RunError):
    """The scheduler has dropped what it was given."""


@dataclass
class _Task(Generic[J]):
    """A job, how many workers have died of it, and what the scheduler knows it by."""

    job: J
    deaths: int = 0
    future: "Future[Any] | None" = None


class Work(Generic[J, R]):
    """Jobs that wait, that are at work, and what to do with those that end.

    Jobs are given to one certain worker each, so that no worker has two and a death is put
    down to one job, whatever the number of threads and other users of the workers.

    Args:
        client: Connected to the scheduler.
        function: Takes one job in a worker.
        jobs: What to do.
        on_result: Called with each job that is done and its result.
        on_failure: Called with each job that failed and why, in one sentence.
    """

    def __init__(
        self,
        client: "Client",
        function: Callable[[J], R],
        jobs: Iterable[J],
        on_result: Callable[[J, R], None],
        on_failure: Callable[[J, RunError], None],
    ) -> None:
        self._client = client
        self._function = function
        self._on_result = on_result
        self._on_failure = on_failure
        self._waiting = deque(_Task(job) for job in jobs)
        self._at_work: dict[str, _Task[J]] = {}
        self._ended: SimpleQueue[str] = SimpleQueue()

    @property
    def is_done(self) -> bool:
        """Whether every job has ended in one way or another."""
        return not self._waiting and not self._at_work

    @property
    def is_under_way(self) -> bool:
        """Whether a worker has a job."""
        return bool(self._at_work)

    def give(self, present: Set[str], usable: Set[str]) -> None:
        """Take back the jobs of workers that have died, and give jobs to those without one.

        Args:
            present: Addresses of all workers.
            usable: Of those that take jobs.
        """
        for address in self._at_work.keys() - present:
            self._bury(self._at_work.pop(address))
        for address in usable - self._at_work.keys():
            self._begin(address)

    def take(self, seconds: float) -> None:
        """Handle what ends within this time; who ends one job gets the next."""
        if not self._at_work:
            time.sleep(seconds)
        until = time.monotonic() + seconds
        while self._at_work and (left := until - time.monotonic()) > 0:
            try:
                key = self._ended.get(timeout=left)
            except Empty:
                return
            for address, task in list(self._at_work.items()):
                if task.future is not None and task.future.key == key:
                    del self._at_work[address]
                    if self._end(task, task.future):
                        self._begin(address)

    def _begin(self, address: str) -> None:
        if not self._waiting:
            return
        task = self._at_work[address] = self._waiting.popleft()
        task.future = self._client.submit(
            attempt,
            packed(self._function, task.job),
            log.getEffectiveLevel(),
            key=f"medseg3d-{uuid4().hex}",  # by default it would be made of the paths
            workers=[address],
            allow_other_workers=False,
            pure=False,
        )
        task.future.add_done_callback(lambda future: self._ended.put(future.key))

    def _end(self, task: _Task[J], future: "Future[Any]") -> bool:
        """Take what came back; whether its worker is still there."""
        from distributed import CancelledError, KilledWorker

        task.future = None
        if future.status in ("lost", "pending"):  # its worker died with the result
            self._bury(task)
            return False
        try:
            outcome: Outcome = future.result(timeout=SECONDS_TO_ANSWER)
        except (KilledWorker, OSError, TimeoutError):  # or dies while it sends it
            self._bury(task)
            return False
        except CancelledError:  # as all are when the connection breaks
            raise SchedulerLostError from None
        except Exception as error:  # the result could not be sent
            outcome = Outcome(error=sentence(error))
        for level, text in outcome.messages:
            log.log(level, "%s", text)
        if outcome.error is None:
            self._on_result(task.job, outcome.result)
        elif outcome.stops_all:
            raise RunError(outcome.error)
        else:
            self._on_failure(task.job, RunError(outcome.error))
        return True

    def _bury(self, task: _Task[J]) -> None:
        """Put a job whose worker has died at the end of the line, or give it up."""
        task.future = None  # the scheduler forgets it
        task.deaths += 1
        if task.deaths < MOST_DEATHS:
            log.warning("a worker died at its work, which is tried again")
            self._waiting.append(task)
            return
        told = (
            f"{task.deaths} workers died while they worked on it, as when the memory is used up; "
            "try it alone, on a larger machine"
        )
        self._on_failure(task.job, RunError(told))
