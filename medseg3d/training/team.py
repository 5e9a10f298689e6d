"""The processes that train one network together, each on patches of its own.

The first one leads: it alone checks and prepares cases, validates, and writes; whatever it hands
out, the others do. What they must know of each other while they train goes through here, the
gradients go through lightning.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Self

import torch
from torch import distributed

from medseg3d.errors import ConfigError, RunError
from medseg3d.process import libraries_say_nothing
from medseg3d.ranks import Rank, own_rank

PATIENCE = timedelta(days=1)
"""Others may wait this long, as while the first one prepares the cases."""

LAST_WORDS = timedelta(seconds=8)
"""What the first one may take for its checkpoint when all are told to end."""

LEFT = "medseg3d/left"
"""Key that the first process sets where all meet."""

LONGEST_REASON = 200
"""Characters that are told of what a library says."""

LOST = "gloo", "nccl"
"""An error of the library that connects the processes names it."""


class Team:
    """What a process knows of the others; by default there are none.

    A process that ends closes its connections, so that the others do not wait for it.

    Args:
        rank: Of this process.
    """

    def __init__(self, rank: Rank | None = None) -> None:
        self._rank = rank or Rank()

    @classmethod
    def join(cls) -> Self:
        """Meet the others that ``torchrun`` or ``srun`` began, once in the life of a process.

        Raises:
            RunError: If they cannot be reached.
        """
        rank = own_rank()
        if rank.count > 1 and not distributed.is_initialized():
            on_gpu = torch.cuda.is_available() and distributed.is_nccl_available()
            try:
                distributed.init_process_group(
                    "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                    init_method=rank.place,
                    rank=rank.number,
                    world_size=rank.count,
                    timeout=PATIENCE,
                )
            except (RuntimeError, ValueError, OSError) as error:
                raise RunError(
                    f"process {rank.number} of {rank.count} cannot reach the others "
                    f"({_in_brief(error)}); see that all hosts may connect to "
                    "the first one, and that its port (MASTER_PORT) is free"
                ) from error
        return cls(rank)

    @property
    def number(self) -> int:
        """Which one this is, from 0."""
        return self._rank.number

    @property
    def count(self) -> int:
        """How many there are."""
        return self._rank.count

    @property
    def leads(self) -> bool:
        """Whether this is the first one."""
        return self.number == 0

    def own_device(self, device: torch.device) -> torch.device:
        """The device of this process: the processor, or a GPU that no other one on its host takes.

        Args:
            device: What is asked for; the same of all processes.

        Raises:
            ConfigError: If one GPU is named for all, or there are fewer than processes.
        """
        if self.count == 1 or device.type != "cuda":
            return device
        if ":" in str(device):
            raise ConfigError(
                f"--device {device} is one GPU for {self.count} processes; give --device cuda, and "
                "each takes its own"
            )
        seen = torch.cuda.device_count()
        if seen == 1 and self._rank.launcher == "srun":  # which may show each task its own only
            return torch.device("cuda", 0)
        if self._rank.local >= seen:
            raise ConfigError(
                f"process {self.number} is number {self._rank.local + 1} on its host, where torch "
                f"sees {seen} GPUs; begin as many processes as there are GPUs"
            )
        return torch.device("cuda", self._rank.local)

    def hand_out(self, work: object) -> None:
        """Give the others something to do; call it in the first process.

        Raises:
            RunError: If one of them is gone.
        """
        if self.count > 1:
            with self._heard():
                distributed.broadcast_object_list([work], src=0)

    def receive(self) -> Any:
        """Wait for what the first one hands out; call it in the others.

        Raises:
            RunError: If it is gone.
        """
        found: list[Any] = [None]
        with self._heard():
            distributed.broadcast_object_list(found, src=0)
        return found[0]

    def agreed(self, number: float) -> float:
        """The number of the first process, whatever that of this one is.

        Raises:
            RunError: If a process is gone.
        """
        if self.count == 1:
            return number
        shared = torch.tensor(float(number), dtype=torch.float64)
        with self._heard():
            distributed.broadcast(shared, src=0)
        return float(shared)

    def mean(self, number: float) -> float:
        """The mean of the numbers of all processes.

        Raises:
            RunError: If a process is gone.
        """
        if self.count == 1:
            return number
        shared = torch.tensor(float(number), dtype=torch.float64)
        with self._heard():
            distributed.all_reduce(shared)
        return float(shared) / self.count

    def leave(self) -> None:
        """Say that the first process has written what it had to; call it in that one."""
        if self.count > 1 and self.leads:
            with suppress(Exception):
                _meeting_place().set(LEFT, "")

    def outlast(self) -> None:
        """Wait until the first process has left or ended, though not for long.

        What began the processes may end all of them when one has, and the first one may be
        writing a checkpoint. It may also be in the middle of a step, so the connection that steps
        go through is closed before, and it does not wait for this process's part.
        """
        if not self.leads:
            with suppress(Exception), libraries_say_nothing():  # the first one may be gone
                place = _meeting_place()
                distributed.destroy_process_group()
                place.wait([LEFT], LAST_WORDS)

    @contextmanager
    def _heard(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not is_loss_of_another(error):
                raise
            raise self.lost_another(error) from error

    def lost_another(self, error: BaseException) -> RunError:
        """What to say when the connection to another process is gone, as the library says it."""
        return RunError(
            f"another of the {self.count} processes of this run has ended, or the connection to it "
            f"failed ({_in_brief(error)}); its own message says why"
        )


def _in_brief(error: BaseException) -> str:
    r"""The beginning of what a library says, in one line.

    Examples:
        >>> _in_brief(RuntimeError("NCCL error, unhandled system error\nLast error: no route"))
        'NCCL error, unhandled system error Last error: no route'
    """
    return " ".join(str(error).split())[:LONGEST_REASON]


def _meeting_place() -> Any:
    """Where the processes found each other; it is gone with the process that keeps it."""
    return distributed.distributed_c10d._get_default_store()


def is_loss_of_another(error: BaseException) -> bool:
    """Whether an error says that the connection to another process is gone.

    Examples:
        >>> is_loss_of_another(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed"))
        True
        >>> is_loss_of_another(RuntimeError("CUDA error: an illegal memory access"))
        False
    """
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error).lower() for name in LOST)


ALONE = Team()
"""The one process that there is without a launcher."""
