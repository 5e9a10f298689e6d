"""One cluster for all tests, since processes start slowly."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg3d.cluster import Cluster

sys.path.insert(0, str(Path(__file__).parent))  # for cluster_jobs, here and in the workers

LOGGERS = ("distributed", "distributed.client", "asyncio", "medseg3d")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two workers of this machine; when they end, nothing of them is left."""
    import distributed

    assert distributed.__version__
    before = _environment()
    levels = [logging.getLogger(name).level for name in LOGGERS]
    with Cluster("local:2") as found:
        yield found
    assert _environment() == before
    assert [logging.getLogger(name).level for name in LOGGERS] == levels
    assert workers_of(os.getpid()) == []


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "PYTEST" not in name}


def workers_of(process: int) -> list[int]:
    """Living workers that a process has started."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                state = (place / "stat").read_text().rpartition(")")[2].split()
                command = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if int(state[1]) == process and state[0] != "Z" and b"spawn_main" in command:
                found.append(int(place.name))
    return found


@pytest.fixture
def workers(cluster: Cluster) -> list[int]:
    """Processes of the two workers, which may just be coming back from another test."""
    client = cluster._connection.client
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = workers_of(os.getpid())
        if len(found) == 2 and len(client.nthreads()) == 2:
            return found
        time.sleep(0.05)
    raise AssertionError("the workers do not come back")


@pytest.fixture
def scheduler(cluster: Cluster) -> str:
    """The address of the cluster, as of one that somebody else has started."""
    return str(cluster._connection.client.scheduler.address)
