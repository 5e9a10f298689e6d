"""Arithmetic that gives the same numbers each time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medseg3d.errors import RunError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Without it, torch refuses matrix products on a GPU; read when the first one is computed."""


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only, if wanted, and as before afterwards.

    On a CPU nothing that we train with needs it; the order of sums on a GPU does.

    Args:
        wanted: Otherwise nothing is changed.

    Raises:
        RunError: If an operation has no such algorithm.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error) or isinstance(error, RunError):
            raise
        raise RunError(
            f"{str(error).split()[0]} has no deterministic form on this device; choose another "
            "network or loss, or leave out deterministic"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
