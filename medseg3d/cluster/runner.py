"""Jobs on workers, of this machine or of a scheduler that somebody has started."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

from medseg3d.cluster.connection import connected, threads_each
from medseg3d.cluster.place import Here, parse_address
from medseg3d.cluster.versions import SCHEDULER, differences
from medseg3d.cluster.work import SchedulerLostError, Work
from medseg3d.errors import RunError

J = TypeVar("J")
R = TypeVar("R")

log = logging.getLogger("medseg3d")

SECONDS_BETWEEN_LOOKS = 0.3
PATIENCE = 60.0
"""Seconds without any worker, or answer of the scheduler, after which the work is given up."""


class Cluster:
    """Workers that are there while the ``with`` block runs.

    A job and its result go through pickle, so they hold paths and options, never arrays, and
    the function is one that the workers can import. Paths are absolute, and lead to the same
    files on all machines. What a worker shall keep from job to job, such as a model, the
    function keeps in its module.

    Args:
        address: ``local:N``, or the address of a Dask scheduler, whose workers run the same
            versions. Whoever can reach a scheduler can run anything on its workers.
        at_most: How many workers can be of use; fewer local ones are started then.

    Attributes:
        num_local: How many workers share this machine; 0 if they are elsewhere.
        threads: Processors for each of them; None if they are elsewhere.

    Raises:
        ConfigError: If the address cannot be understood.
        RunError: On entry, if the scheduler cannot be reached.
    """

    def __init__(self, address: str, *, at_most: int | None = None) -> None:
        place = parse_address(address)
        if isinstance(place, Here) and at_most is not None:
            place = Here(max(1, min(place.num_workers, at_most)))
        self.address = address
        self.num_local = place.num_workers if isinstance(place, Here) else 0
        self.threads = threads_each(self.num_local) if self.num_local else None
        self._place = place
        self._stack = ExitStack()
        self._fit: set[str] = set()
        self._unfit: set[str] = set()

    def __enter__(self) -> Self:
        self._connection = self._stack.enter_context(connected(self._place))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def run(
        self,
        function: Callable[[J], R],
        jobs: Sequence[J],
        *,
        on_result: Callable[[J, R], None],
        on_failure: Callable[[J, RunError], None],
        if_lost: str = "start again",
    ) -> None:
        """Do all jobs, in any order, one at a time on each worker.

        Args:
            function: Takes one job in a worker.
            jobs: What to do.
            on_result: Called here with each job that is done and what it returned.
            on_failure: Called here with each job that raised, or of which three workers died,
                and an error that says why. A job that raises is not tried again.
            if_lost: What has become of the finished jobs and what to do, where the scheduler ends.

        Raises:
            RunError: If the disk is full, the scheduler is lost, no worker is there for a
                minute, or workers run other versions.
        """
        work = Work(self._connection.client, function, jobs, on_result, on_failure)
        seen = time.monotonic()
        try:
            while not work.is_done:
                present, usable = self._look()
                work.give(present, usable)
                seen = time.monotonic() if work.is_under_way else seen
                self._expect_workers(time.monotonic() - seen)
                work.take(SECONDS_BETWEEN_LOOKS)
        except SchedulerLostError:
            raise RunError(
                f"the Dask scheduler at {self.address} is not there any more; {if_lost}"
            ) from None

    def _look(self) -> tuple[set[str], set[str]]:
        """Addresses of all workers, and of those that take jobs."""
        client = self._connection.client
        if client.status != "running":  # it tries to reach it again, but has forgotten its jobs
            raise SchedulerLostError
        try:
            info = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=PATIENCE)
        except (OSError, TimeoutError):
            raise SchedulerLostError from None
        workers = info["workers"]
        usable = {address for address, facts in workers.items() if facts["status"] == "running"}
        self._compare_versions(usable - self._fit - self._unfit)
        return set(workers), usable & self._fit

    def _compare_versions(self, workers: set[str]) -> None:
        """Refuse workers that were not seen before and run other software."""
        if not workers:
            return
        for address, words in differences(self._connection.client, workers).items():
            who = f"the {address}" if address == SCHEDULER else f"the worker at {address}"
            if not words:
                self._fit |= workers & {address}
            elif address == SCHEDULER or not self._fit:
                raise RunError(f"{who} has {words}; install the same versions on all machines")
            else:
                log.warning("%s has %s, so it gets no work", who, words)
                self._unfit.add(address)

    def _expect_workers(self, seconds: float) -> None:
        if self._connection.has_failed():
            raise RunError(
                f"no worker of {self.address} can be started; in a script, start the work under "
                'if __name__ == "__main__":'
            )
        if seconds > PATIENCE:
            raise RunError(
                f"{self.address} has had no worker that takes work for {PATIENCE:g} s; start some "
                "with: dask worker ADDRESS --nthreads 1 --memory-limit 0"
            )
