"""A client of dask.distributed that is quiet, leaves nothing behind and changes nothing."""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medseg3d.cluster.place import Elsewhere, Here
from medseg3d.errors import RunError
from medseg3d.machine import num_processors

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

SECONDS_TO_CONNECT = 10.0
SECONDS_TO_CLOSE = 5.0

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables from which numeric libraries take the number of their threads when they load."""

OURS = (*THREADS, "PYTHONHASHSEED", "MALLOC_TRIM_THRESHOLD_", "__DASK_PARENT_PID")
"""Variables that are set, by this module or by distributed, for the processes it starts."""

LOUD = ("distributed", "distributed.client", "distributed.gc", "tornado.application", "asyncio")
"""Loggers that tell, often with a traceback, what is told here in one sentence."""

SETTINGS: dict[str, Any] = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.deploy.lost-worker-timeout": "120 s",  # to come back on a busy machine
}


@dataclass(frozen=True)
class Connection:
    """What is needed of a cluster.

    Attributes:
        client: To send jobs with.
        has_failed: Whether no worker will ever come.
    """

    client: "Client"
    has_failed: Callable[[], bool] = lambda: False


def expect_installed() -> None:
    """Refuse to go on without the extra.

    Raises:
        RunError: Naming it.
    """
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise RunError(
            'workers need dask.distributed; install it with pip install "medseg3d[cluster]"'
        ) from None


@contextmanager
def connected(place: Here | Elsewhere) -> Iterator[Connection]:
    """Start workers here, or reach those elsewhere; they end with the block, these do not.

    Raises:
        RunError: If dask.distributed is not installed or the scheduler cannot be reached.
    """
    expect_installed()
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        loop = stack.enter_context(_loop())
        if isinstance(place, Here):
            yield stack.enter_context(_local(place.num_workers, loop))
        else:
            yield stack.enter_context(_remote(place.address, loop))


def threads_each(num_workers: int) -> int:
    """Processors for each of several workers of this machine, at least 1."""
    share = max(1, num_processors() // num_workers)
    wanted = os.environ.get(THREADS[0], "")
    return min(share, int(wanted)) if wanted.isdigit() and int(wanted) else share


@contextmanager
def _local(num_workers: int, loop: Any) -> Iterator[Connection]:
    import dask
    from distributed import LocalCluster

    threads = str(threads_each(num_workers))
    variables = dict.fromkeys(THREADS, threads)
    with (
        TemporaryDirectory(prefix="medseg3d-", ignore_cleanup_errors=True) as folder,
        _environment(variables),
        dask.config.set({**SETTINGS, "temporary-directory": folder}),
        LocalCluster(
            n_workers=0,  # they are started below, when somebody is there to end them
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
            memory_limit=None,
            env=variables,
            loop=loop,
        ) as cluster,
    ):
        try:
            with _client(cluster, loop) as client:
                cluster.scale(num_workers)
                yield Connection(client, lambda: _has_failed(cluster))
        finally:
            _end_workers(cluster)


def _has_failed(cluster: "LocalCluster") -> bool:
    """Whether workers were started and none lives."""
    workers = list(cluster.workers.values())
    return bool(workers) and all(worker.status.name in ("failed", "closed") for worker in workers)


def _end_workers(cluster: "LocalCluster") -> None:
    """End the processes at once; asked politely, they finish their jobs first."""
    for worker in list(cluster.workers.values()):
        worker.close_gracefully()  # else it would be started again
        if worker.pid:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)


@contextmanager
def _remote(address: str, loop: Any) -> Iterator[Connection]:
    try:
        _probe(address, loop)
    except OSError:  # also of time
        raise RunError(
            f"no Dask scheduler answers at {address} within {SECONDS_TO_CONNECT:g} s; check the "
            "address and that it runs"
        ) from None
    except Exception as error:  # whatever the bytes of another service lead to
        raise RunError(
            f"what answers at {address} is no Dask scheduler that can be talked to "
            f"({type(error).__name__}); check the address and the versions of distributed"
        ) from None
    with _client(address, loop) as client:
        yield Connection(client)


def _probe(address: str, loop: Any) -> None:
    """Ask a scheduler who it is; a client would wait without end for one that is silent."""
    from distributed.core import rpc
    from distributed.security import Security
    from distributed.utils import sync

    async def ask() -> None:
        arguments = Security().get_connection_args("client")
        async with rpc(address, timeout=SECONDS_TO_CONNECT, connection_args=arguments) as scheduler:
            await scheduler.identity(n_workers=0)

    sync(loop, ask, callback_timeout=SECONDS_TO_CONNECT + 1)


@contextmanager
def _client(place: "str | LocalCluster", loop: Any) -> Iterator["Client"]:
    from distributed import Client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions, which are compared in another place
        client = Client(place, timeout=SECONDS_TO_CONNECT, set_as_default=False, loop=loop)
    try:
        yield client
    finally:
        with suppress(OSError):
            client.close(timeout=SECONDS_TO_CLOSE)


@contextmanager
def _loop() -> Iterator[Any]:
    """A thread for the messages; Ctrl-C reaches neither it nor the processes that it starts."""
    from distributed.utils import LoopRunner

    resource_tracker.ensure_running()  # if it is started later, it lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner = LoopRunner()
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop(timeout=SECONDS_TO_CLOSE)


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the processes to come, and set back those of this one."""
    before = {name: os.environ.get(name) for name in OURS}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
