"""A network in the form of another library, compared with the network it was made of."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from medseg3d.inference.backends.registered import UnfitBackendError
from medseg3d.types import Size3

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
        model = converter.convert(network, channels, (i, j, k))
        run = converter.float32(model, threads=1)
        # a second shape, because what follows from the first must not be frozen in
        for window in ((i, j, k), (i + edges[0], j, k + edges[2])):
            expect_equal(network, run, probe(channels, window))
    except (ImportError, MemoryError, UnfitBackendError):
        raise
    except Exception as error:  # converters raise what they like
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnfitBackendError(first[:200]) from error
    return model


def expect_equal(network: nn.Module, run: Run, batch: npt.NDArray[np.float32]) -> float:
    """Largest difference between the logits of ``run`` and torch's, as a part of the largest.

    Raises:
        UnfitBackendError: If it is more than :data:`TOLERANCE`.
    """
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


def traced(network: nn.Module, channels: int, example: Size3) -> Any:
    """The network's operations as torch.jit recorded them, for windows of any shape."""
    batch = torch.from_numpy(probe(channels, example))
    with warnings.catch_warnings(), torch.no_grad(), _Plain():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network, batch, check_trace=False)  # type: ignore[no-untyped-call]


def _normalized_per_channel(
    x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    if groups != x.shape[1]:
        return torch.group_norm(x, groups, weight, bias, eps)
    return torch.instance_norm(x, weight, bias, None, None, True, 0.0, eps, True)


class _Plain(TorchFunctionMode):
    """Spells some operations as other libraries know and compute them best.

    A group norm of single channels is an instance norm: OpenVINO 2026.4 computes that in two
    thirds of the time, and its compiler may crash on the other. Tensors that are split to
    bound the memory are kept whole, because a recorded split has a fixed number of parts.
    Axes are counted from the first one.
    """

    spelled: Mapping[str, Callable[..., Any]] = MappingProxyType(
        {
            "group_norm": _normalized_per_channel,
            "split": lambda x, *_, **__: (x,),
            "movedim": lambda x, source, target: x.permute(_moved(x.dim(), source, target)),
        }
    )

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        arguments: Any = (),
        options: Any = None,
    ) -> Any:
        """Call the function, or what stands for it."""
        plain = self.spelled.get(getattr(function, "__name__", ""), function)
        return plain(*arguments, **(options or {}))


def _moved(num_axes: int, source: int, target: int) -> list[int]:
    """Axes in their new order.

    Examples:
        >>> _moved(5, 2, -1)
        [0, 1, 3, 4, 2]
    """
    axes = [axis for axis in range(num_axes) if axis != source % num_axes]
    axes.insert(target % num_axes, source % num_axes)
    return axes
