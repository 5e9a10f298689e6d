"""Which processor and which arithmetic a command uses."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from medseg3d.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["bf16", "fp16", "fp32"]

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Where Linux shows that there may be a GPU."""

CPU_FACTS = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}

log = logging.getLogger("medseg3d")


class Device(Protocol):
    """A processor or GPU: a ``torch.device``, or what stands for one without torch."""

    @property
    def type(self) -> str:
        """``cpu`` or ``cuda``."""


@dataclass(frozen=True)
class Processor:
    """The processor, without loading torch."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


def find_device(name: str) -> Device:
    """Like :func:`resolve_device`, but torch, a second's work, is only loaded for a GPU.

    Raises:
        ConfigError: If a GPU is asked for that this machine or this torch does not have.
    """
    might_be_gpu = sys.platform != "linux" or any(map(_exists, GPU_DRIVERS))
    if name == "cpu" or (name == "auto" and not might_be_gpu):
        return Processor()
    return resolve_device(name)


def torch_device(device: Device) -> torch.device:
    """The device as torch knows it."""
    import torch

    return torch.device(str(device))


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes a GPU when there is one.

    Raises:
        ConfigError: If a GPU is asked for that this machine or this torch does not have.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"--device {name}: torch {torch.__version__} sees {count} GPUs here; "
                "use --device cpu, or install a torch build that matches the driver"
            )
    return device


def resolve_precision(name: str, device: Device) -> Precision:
    """Arithmetic of the network; ``auto`` takes bf16 where the processor computes in it.

    Raises:
        ConfigError: If fp16 is asked for on a CPU, which has no fast fp16 arithmetic.
    """
    if name == "auto":
        return automatic_precision(device)
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if name not in ("bf16", "fp16", "fp32"):
        raise ConfigError(f"unknown precision {name!r}; known: auto, bf16, fp16, fp32")
    return name  # type: ignore[return-value]


def automatic_precision(device: Device) -> Precision:
    """bf16 where there are instructions for it, fp16 on older GPUs, else fp32."""
    if device.type == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if BF16_FLAGS & _processor_flags() else "fp32"


def _processor_flags() -> set[str]:
    """Instructions of the processor, as far as the system tells them."""
    try:
        lines = CPU_FACTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        import torch

        return {name for name, has in torch.cpu.get_capabilities().items() if has}
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(flags.split())
    return set()


def _exists(path: str) -> bool:
    return Path(path).exists()


def autocast(device: Device, precision: Precision) -> AbstractContextManager[object]:
    """Context in which networks compute in that arithmetic."""
    if precision == "fp32":
        return nullcontext()
    import torch

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtype=kinds[precision])


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Have torch compute in ``count`` threads, and in as many as before after it.

    Args:
        count: Threads; None leaves them as they are.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
