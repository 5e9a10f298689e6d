"""The network compiled to machine code by ``torch.compile``, with its weights frozen in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from medseg3d.device import Device, Precision, autocast, torch_device, torch_threads
from medseg3d.errors import RunError
from medseg3d.inference.backends.registered import BACKENDS
from medseg3d.inference.backends.source import Source
from medseg3d.types import Size3

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger("medseg3d")

MOST_SHAPES = 8
"""Shapes of windows that a network is compiled for: each costs a minute, and the weights again."""

TORCHS_LIMIT = 256
"""Programs that torch may keep of all networks of this process; by default 8, and then it says so
in its own words and goes on without compiling."""


@BACKENDS.register(
    "compile",
    title="torch.compile; needs a C++ compiler, and up to a minute for each of the first "
    f"{MOST_SHAPES} shapes of windows, others being computed by eager",
    devices=("cpu", "cuda"),
    precisions=("fp32", "bf16", "fp16"),
    speed={"fp32": 1.8, "bf16": 3.7},
    window_bytes={"fp32": 32, "bf16": 18},
    auto=False,
    needs=(),
    extra="",
)
class Compiled:
    """A network that is compiled anew for every shape of windows, as long as they are few.

    Args:
        module: The network in ``eval()`` mode; the weights must not change any more.
        device: Where to compute; the module is moved there.
        precision: Arithmetic, float32 or torch's automatic mixed precision.
        threads: Processors to compute on.

    Attributes:
        backend: ``compile``, or ``compile, eager`` once there were too many shapes.
    """

    backend = "compile"

    def __init__(
        self,
        module: nn.Module,
        *,
        device: Device | torch.device,
        precision: Precision,
        threads: int,
    ) -> None:
        import torch

        self.device = torch_device(device)
        self.module = module.to(self.device)
        self.precision: Precision = precision
        self.divisor: Size3 = getattr(module, "divisor", (1, 1, 1))
        self._threads = threads
        self._shapes: set[tuple[int, ...]] = set()
        # a plain function: modules are compiled in place, and a twin would share the result
        # and one program per shape, because torch 2.13 fails to freeze weights for any shape
        self._compiled = torch.compile(lambda windows: self.module(windows), dynamic=False)

    @classmethod
    def open(cls, source: Source, *, precision: Precision, device: Device, threads: int) -> Self:
        """Compile for the window of the plan, so that a missing compiler is told at the start.

        Raises:
            RunError: If torch cannot compile here.
        """
        ready = cls(source.network(), device=device, precision=precision, threads=threads)
        ready._warm_up(source.bundle.channels, source.bundle.plan.window)
        return ready

    def twin(self, precision: Precision) -> Self:
        """The same module, compiled in another arithmetic."""
        return type(self)(
            self.module, device=self.device, precision=precision, threads=self._threads
        )

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(B, L, i, j, k)`` of windows ``(B, C, i, j, k)``."""
        import torch
        from torch._dynamo import config as tracing
        from torch._inductor import config

        windows = torch.from_numpy(np.require(batch, requirements="W")).to(self.device)
        # freezing is only there without gradients, and not in inference mode
        arithmetic, frozen = autocast(self.device, self.precision), config.patch(freezing=True)
        limit = tracing.patch(cache_size_limit=TORCHS_LIMIT)  # its name in torch 2.6 and later
        with torch_threads(self._threads), torch.no_grad(), arithmetic, frozen, limit:
            logits = self._network_for(batch.shape)(windows)
            return np.asarray(logits.float().cpu().numpy())

    def _network_for(self, shape: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Compiled, or the module itself if too many other shapes were compiled before."""
        if shape in self._shapes:
            return self._compiled
        edges = " x ".join(map(str, shape[2:]))
        if len(self._shapes) < MOST_SHAPES:
            self._shapes.add(shape)
            log.info("compiling the network for windows of %s, which takes up to a minute", edges)
            return self._compiled
        if self.backend != (both := "compile, eager"):
            self.backend = both
            log.warning(
                "windows of %s and of further shapes are computed by eager, since the network was "
                "compiled for %d shapes already; --backend auto is faster for images of many sizes",
                *(edges, MOST_SHAPES),
            )
        return self.module

    def _warm_up(self, channels: int, window: Size3) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self(np.zeros((1, channels, *window), dtype=np.float32))
        except Exception as error:  # the compilers of torch raise what they like
            raise RunError(_told(error)) from error


def _told(error: Any) -> str:
    """One sentence about a failed compilation."""
    while error is not None:
        if type(error).__name__ in ("InvalidCxxCompiler", "FileNotFoundError"):
            return (
                "--backend compile needs a C++ compiler, and torch found none; install g++, or "
                "use --backend auto"
            )
        told, error = error, error.__cause__ or getattr(error, "inner_exception", None)
    lines = str(told).strip().splitlines() or [type(told).__name__]
    return f"torch cannot compile this network here ({lines[0][:200]}); use --backend auto"
