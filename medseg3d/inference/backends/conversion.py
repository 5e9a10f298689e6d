"""A network in the form of another library, compared with the network it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from medseg3d.inference.backends.registered import UnfitBackendError
from medseg3d.process import out_of_memory
from medseg3d.types import Size3

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M")
Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""A batch of windows in, logits out."""

TOLERANCE = 5e-3
"""Largest difference of float32 logits, as a part of the largest logit.

Shallow networks differ by 1e-5; a random H-DenseUNet of 170 layers, which amplifies every
rounding, by 4e-4.
"""

LEAST_EDGE = 4
INPUT, OUTPUT = "image", "logits"


class Converter(Protocol[M]):
    """Makes one form of a network, for windows of any shape.

    Attributes:
        name: Name of the form, such as ``onnx``.
        suffixes: Of the files it is stored in, that of the one to open first.
        version: Of the library that computes it; another one may want another conversion.
    """

    name: str
    suffixes: tuple[str, ...]

    @property
    def version(self) -> str:
        """Version of the library."""

    def convert(self, network: nn.Module, channels: int, example: Size3) -> M:
        """Convert, looking at a window of ``example`` voxels."""

    def save(self, model: M, folder: Path, stem: str) -> None:
        """Write the files."""

    def load(self, folder: Path, stem: str) -> M:
        """Read the files."""

    def float32(self, model: M, threads: int) -> Run:
        """The model, ready to compute in float32."""


def convert(converter: Converter[M], network: nn.Module, channels: int) -> M:
    """Convert a network and compare the result with it.

    Args:
        converter: Makes the form that is wanted.
        network: In ``eval()`` mode on the CPU.
        channels: Image channels it takes.

    Raises:
        UnfitBackendError: If it cannot be converted, or does not compute the same.
    """
    edges = getattr(network, "divisor", (1, 1, 1))
    i, j, k = (step * -(-max(2 * step, LEAST_EDGE) // step) for step in edges)
    try:
        # a second shape, because what follows from the first must not be frozen in
        windows = taken(network, channels, [(i, j, k), (i + edges[0], j, k + edges[2])])
        model = converter.convert(network, channels, windows[0])
        run = converter.float32(model, threads=1)
        for window in windows:
            expect_equal(network, run, probe(channels, window))
    except (ImportError, MemoryError, UnfitBackendError):
        raise
    except Exception as error:  # converters raise what they like
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnfitBackendError(first[:200]) from error
    return model


def taken(network: nn.Module, channels: int, windows: Sequence[Size3]) -> list[Size3]:
    """Those of some sizes that a network takes; of one with a fixed size that one, its divisor."""
    import torch

    fitting = []
    for window in windows:
        try:
            with torch.inference_mode():
                network(torch.from_numpy(probe(channels, window)))
        except Exception as error:  # what it takes is what is to be found out
            if out_of_memory(error):
                raise
            continue
        fitting.append(window)
    return fitting or [getattr(network, "divisor", (1, 1, 1))]


def expect_equal(network: nn.Module, run: Run, batch: npt.NDArray[np.float32]) -> float:
    """Largest difference between the logits of ``run`` and torch's, as a part of the largest.

    Raises:
        UnfitBackendError: If it is more than :data:`TOLERANCE`.
    """
    import torch

    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    found = run(batch)
    if found.shape != expected.shape:
        raise UnfitBackendError(f"it makes logits {found.shape}, torch makes {expected.shape}")
    difference = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
    if not difference <= TOLERANCE:
        raise UnfitBackendError(
            f"its logits differ from torch's by up to {difference:.2g} of the largest, in windows "
            f"of {batch.shape[2:]} voxels"
        )
    return float(difference)


def probe(channels: int, window: Size3) -> npt.NDArray[np.float32]:
    """One window ``(1, C, i, j, k)`` of normalized noise, always the same."""
    shape = (1, channels, *window)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)
