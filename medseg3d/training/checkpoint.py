"""Checkpoints: everything that training needs to go on exactly, and the one before it.

A checkpoint is a safetensors file. Its header holds the facts as JSON and a SHA-256 of facts and
tensors, so that a damaged file is known as such; reading one runs no code.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medseg3d.errors import RunError
from medseg3d.io import atomic

log = logging.getLogger("medseg3d")

LAST = "last.safetensors"
PREVIOUS = "previous.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What lies in a file.

    Attributes:
        tensors: By name, on the CPU.
        facts: Whatever JSON can hold.
        is_last: Whether it is the last one, and not the one before it.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    is_last: bool


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write beside and rename; the checkpoint so far becomes the previous one.

    Raises:
        RunError: If the disk is full or cannot be written to; the older checkpoints stay.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    last = folder / LAST
    with atomic(last) as partial:
        try:
            save_file(stored, partial, {"facts": text, "sha256": digest(stored, text)})
        except SafetensorError as error:  # an OSError that has gone through another language
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else 0, str(error)) from error
        with partial.open("rb+") as file:  # what is safe makes way for nothing that is not
            os.fsync(file.fileno())
        if last.exists():
            last.replace(folder / PREVIOUS)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to go on from, if it is sound."""
    return any((folder / name).is_file() for name in (LAST, PREVIOUS))


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The last checkpoint, or the previous one if that is damaged, or None if there is none.

    Raises:
        RunError: If there are checkpoints, but none of them is sound.
    """
    found = [path for name in (LAST, PREVIOUS) if (path := folder / name).is_file()]
    for path in found:
        try:
            return _read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is damaged (%s); trying the one before it", path, error)
    if not found:
        return None
    raise RunError(
        f"no checkpoint in {folder} can be read, {' and '.join(path.name for path in found)} are "
        "damaged; delete them to begin the training of this run anew, or start another run"
    )


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the facts and of every tensor's name, type, shape and bytes."""
    sha256 = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    if digest(tensors, header["facts"]) != header["sha256"]:
        raise ValueError("its SHA-256 differs")
    return Checkpoint(tensors, json.loads(header["facts"]), path.name == LAST)
