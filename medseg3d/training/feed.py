"""Batches of patches without end, prepared in this process or in others."""

import itertools
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from medseg3d.machine import num_processors
from medseg3d.training.team import ALONE, Team
from medseg3d.training.workers import begin_worker

log = logging.getLogger("medseg3d")

SHARED_MEMORY = Path("/dev/shm")
BATCHES_AHEAD = 2
LONGEST_WAIT = 600
"""Seconds after which silent workers are given up."""
UNENDING = 2**48


class Patches(Protocol):
    """Samples by number; any number has one, and always the same."""

    def __getitem__(self, number: int) -> dict[str, Any]:
        """``image`` ``(C, I, J, K)``, ``labels`` ``(1, I, J, K)`` and ``case``."""

    def case_id(self, number: int) -> str:
        """The case that a sample is from, without reading it."""


class SampleNumbers(Sampler[int]):
    """Numbers of the samples from the first batch on, without those of other processes.

    The batches of all processes in turn are those of one process.

    Args:
        first: Batch to begin with.
        batch_size: Samples in a batch of one process.
        team: The processes.

    Examples:
        >>> numbers = SampleNumbers(first=2, batch_size=3)
        >>> list(itertools.islice(numbers, 6))
        [6, 7, 8, 9, 10, 11]
    """

    def __init__(self, first: int, batch_size: int, team: Team = ALONE) -> None:
        self.first = first
        self.batch_size = batch_size
        self.team = team

    def __iter__(self) -> Iterator[int]:
        for batch in itertools.count(self.first):
            begin = (batch * self.team.count + self.team.number) * self.batch_size
            yield from range(begin, begin + self.batch_size)

    def __len__(self) -> int:
        return UNENDING


def batches(
    patches: Patches,
    batch_size: int,
    *,
    first_step: int,
    workers: int,
    device: torch.device,
    team: Team = ALONE,
) -> DataLoader[Any]:
    """The batches of ``first_step`` and all later steps, those of this process of a team."""
    in_others = {}
    if workers:
        in_others = {
            "prefetch_factor": BATCHES_AHEAD,
            "timeout": LONGEST_WAIT,
            "worker_init_fn": begin_worker,
        }
        if not has_shared_memory(patches, batch_size, workers):
            in_others["collate_fn"] = as_arrays
    return DataLoader(
        patches,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=SampleNumbers(first_step, batch_size, team),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        **in_others,  # type: ignore[arg-type]
    )


def allowed_workers(wanted: int) -> int:
    """As many as wanted, but no more than there are processors to run them."""
    processors = num_processors()
    if wanted > processors:
        log.warning("only %d of %d workers, one per processor", processors, wanted)
    return min(wanted, processors)


def has_shared_memory(patches: Patches, batch_size: int, workers: int) -> bool:
    """Whether the batches that lie ready find room in shared memory."""
    if not SHARED_MEMORY.is_dir():
        return True  # not Linux, where it is made otherwise
    sample = patches[0]
    sizes = [value.nbytes for value in sample.values() if isinstance(value, Tensor)]
    needed = sum(sizes) * batch_size * (BATCHES_AHEAD * workers + 2)
    return shutil.disk_usage(SHARED_MEMORY).free > needed


def as_arrays(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch that goes through a pipe as bytes, for want of shared memory."""
    return {
        name: np.stack([sample[name].numpy() for sample in samples])
        if isinstance(first, Tensor)
        else [sample[name] for sample in samples]
        for name, first in samples[0].items()
    }


def cases_in_hand(patches: Patches, batch_size: int, *, step: int, workers: int) -> list[str]:
    """Cases of the batches that workers may be preparing at a step."""
    first = step * batch_size
    numbers = range(first, first + batch_size * BATCHES_AHEAD * max(1, workers))
    return list(dict.fromkeys(patches.case_id(number) for number in numbers))[:8]
