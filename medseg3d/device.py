"""Which processor and which arithmetic a command uses."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from medseg3d.errors import ConfigError

Precision = Literal["bf16", "fp16", "fp32"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger("medseg3d")


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes a GPU when there is one.

    Raises:
        ConfigError: If a GPU is asked for that this machine or this torch does not have.
    """
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


def resolve_precision(name: str, device: torch.device) -> Precision:
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


def automatic_precision(device: torch.device) -> Precision:
    """bf16 where there are instructions for it, fp16 on older GPUs, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16") else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Context in which networks compute in that arithmetic."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])
