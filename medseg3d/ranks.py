"""Which of several processes this one is, as ``torchrun`` or ``srun`` tells those that it began.

Variables of a launcher are no options of ours: nobody sets them by hand, and outside of a
launcher there are none.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Launcher = Literal["torchrun", "srun"]

LEAST_PORT, NUM_PORTS = 15_000, 10_000
"""Ports of Slurm jobs, by the last digits of their numbers."""


@dataclass(frozen=True)
class Rank:
    """One of the processes that do one work.

    Attributes:
        number: From 0, which leads.
        count: Processes in all, on all hosts.
        local: From 0 on this host.
        place: Where the first one listens, ``tcp://HOST:PORT``; ``env://`` where torch knows.
        launcher: What began them; None if this process is alone.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    place: str = ""
    launcher: Launcher | None = None


def own_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """The rank of this process.

    Args:
        environment: Variables of the process.

    Examples:
        >>> own_rank({})
        Rank(number=0, count=1, local=0, place='', launcher=None)
        >>> torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a"}
        >>> own_rank(torchrun).number, own_rank(torchrun).local
        (3, 1)
        >>> job = {"SLURM_JOB_ID": "70012", "SLURM_STEP_NODELIST": "gpu[07-09],x1"}
        >>> task = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "2"}
        >>> own_rank(job | task).place
        'tcp://gpu07:15012'
        >>> own_rank(job | task | {"SLURM_STEP_NUM_TASKS": "1"}).count
        1
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= environment.keys():
        names, place = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "env://"
        launcher: Launcher = "torchrun"
    elif {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= environment.keys():  # the latter by srun only
        names, place = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"), ""
        launcher = "srun"
    else:
        return Rank()
    number, count, local = (int(environment.get(name, 0)) for name in names)
    if count < 2:
        return Rank()
    return Rank(number, count, local, place or _place_of_job(environment), launcher)


def own_share(processors: int, environment: Mapping[str, str] = os.environ) -> int | None:
    """Processors for this process where ``torchrun`` has left each of several only one.

    Args:
        processors: Of all processes on this host together.
        environment: Variables of the process.

    Returns:
        How many, at least 1; None if this process is alone, something else began it, or somebody
        has chosen a number.

    Examples:
        >>> several = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "a"}
        >>> here = several | {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        >>> own_share(16, here), own_share(1, here), own_share(16, several)
        (8, 1, None)
        >>> own_share(16, here | {"OMP_NUM_THREADS": "4"}), own_share(16, {})
        (None, None)
    """
    is_chosen = environment.get("OMP_NUM_THREADS", "1") != "1"
    beside = environment.get("LOCAL_WORLD_SIZE")
    if own_rank(environment).launcher != "torchrun" or is_chosen or beside is None:
        return None
    return max(1, processors // int(beside))


def _place_of_job(environment: Mapping[str, str]) -> str:
    """Where the first process of a Slurm step listens, unless somebody has chosen a place."""
    host = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
    usual = LEAST_PORT + int(environment["SLURM_JOB_ID"]) % NUM_PORTS
    return f"tcp://{host}:{environment.get('MASTER_PORT') or usual}"


def first_host(hosts: str) -> str:
    """The first of a list of hosts as Slurm writes it.

    Examples:
        >>> first_host("n7"), first_host("a1,b2"), first_host("gpu[07-09,12],x1")
        ('n7', 'a1', 'gpu07')
        >>> first_host("rack[0-1]n[3,5]")
        'rack0n3'
    """
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", hosts).split(",")[0]
