"""The network as torch runs it, operation by operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from medseg3d.device import Device, Precision, autocast, torch_device, torch_threads
from medseg3d.inference.backends.registered import BACKENDS
from medseg3d.inference.backends.source import Source
from medseg3d.types import Size3

if TYPE_CHECKING:
    import torch
    from torch import nn


@BACKENDS.register(
    "eager",
    title="PyTorch, operation by operation",
    devices=("cpu", "cuda"),
    precisions=("fp32", "bf16", "fp16"),
    speed={"fp32": 1.0, "bf16": 2.2},
    window_bytes={"fp32": 52, "bf16": 18},
    auto=True,
    needs=(),
    extra="",
)
class Eager:
    """A network in memory.

    Args:
        module: The network, in ``eval()`` mode when it is called.
        device: Where to compute; the module is moved there.
        precision: Arithmetic, float32 or torch's automatic mixed precision.
        threads: Processors to compute on; None takes those that torch uses.
    """

    backend = "eager"

    def __init__(
        self,
        module: nn.Module,
        *,
        device: Device | torch.device,
        precision: Precision = "fp32",
        threads: int | None = None,
    ) -> None:
        self.device = torch_device(device)
        self.module = module.to(self.device)
        self.precision: Precision = precision
        self.divisor: Size3 = getattr(module, "divisor", (1, 1, 1))
        self._threads = threads

    @classmethod
    def open(cls, source: Source, *, precision: Precision, device: Device, threads: int) -> Self:
        """Read the weights and move them to the device."""
        return cls(source.network(), device=device, precision=precision, threads=threads)

    def twin(self, precision: Precision) -> Self:
        """The same module in another arithmetic."""
        return type(self)(
            self.module, device=self.device, precision=precision, threads=self._threads
        )

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(B, L, i, j, k)`` of windows ``(B, C, i, j, k)``."""
        import torch

        windows = torch.from_numpy(np.require(batch, requirements="W"))
        arithmetic = autocast(self.device, self.precision)
        with torch_threads(self._threads), torch.inference_mode(), arithmetic:
            logits = self.module(windows.to(self.device))
            return np.asarray(logits.float().cpu().numpy())
