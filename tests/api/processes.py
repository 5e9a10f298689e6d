"""Processes of one ``fit`` as a launcher begins them, without its cost of starting each anew."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


@dataclass
class Ranks:
    """Running processes and where each writes what it has to say."""

    processes: list[Any]
    told: list[Path]

    def wait(self, seconds: float = 300) -> list[int | None]:
        """Exit codes; whoever has none by then is killed."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes

    def texts(self) -> list[str]:
        """What each has said."""
        return [path.read_text() for path in self.told]


def launch(count: int, words: Sequence[str], folder: Path) -> Ranks:
    """Begin ``medseg3d`` with these words so many times, as processes that are to meet.

    Args:
        count: Processes.
        words: Of the command line.
        folder: For what they say.
    """
    return begin(count, partial(be_medseg3d, list(words)), folder)


def begin(count: int, work: Callable[[], None], folder: Path) -> Ranks:
    """Begin processes that are to meet.

    Args:
        count: Processes.
        work: What each does.
        folder: For what they say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medseg3d.api.fitting.run", "medseg3d.cli"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = [folder / f"{number}.txt" for number in range(count)]
    processes = []
    for number in range(count):
        facts = {
            "RANK": number,
            "WORLD_SIZE": count,
            "LOCAL_RANK": number,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": 1,
        }
        variables = {name: str(value) for name, value in facts.items()}
        process = context.Process(target=be_one, args=(work, variables, told[number]))
        process.start()
        processes.append(process)
    return Ranks(processes, told)


def be_one(work: Callable[[], None], variables: dict[str, str], told: Path) -> None:
    """Be one of the processes."""
    os.environ.update(variables)
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    import torch

    torch.set_num_threads(1)
    work()


def be_medseg3d(words: list[str]) -> None:
    """Be the command."""
    from medseg3d import cli

    sys.argv = ["medseg3d", *words]
    cli.main()
