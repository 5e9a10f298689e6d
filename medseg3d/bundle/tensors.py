"""Weights as safetensors: a length, a JSON header, and the bytes of all tensors in a row.

The header that is written follows from names, dtypes and shapes alone, and only that one is
accepted. So offsets in a file are never followed, only computed.

Reference:
    Format of safetensors, https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from medseg3d.bundle.archive import Archive, Content
from medseg3d.bundle.layout import WEIGHTS
from medseg3d.bundle.refusal import UnfitError
from medseg3d.bundle.strict_json import parse_object
from medseg3d.errors import ModelError
from medseg3d.machine import in_words, memory_limit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

DTYPES: dict[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "I64": ("int64", 8),
    "F32": ("float32", 4),
    "I32": ("int32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
"""Code in the file, name in torch, bytes."""

LARGEST_HEADER = 1 << 22
MOST_AXES = 8
LENGTH_BYTES = 8


@dataclass(frozen=True)
class Weight:
    """Name, kind and size of one tensor.

    Attributes:
        name: Its name in the network's state.
        code: Its dtype as safetensors write it, such as ``"F32"``.
        shape: Its shape.
    """

    name: str
    code: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * DTYPES[self.code][1]

    def __str__(self) -> str:
        return f"{DTYPES[self.code][0]} {self.shape}"


def serialized(state: "Mapping[str, Tensor]") -> Content:
    """The file's content; the values are not copied, unless they are on a GPU.

    Raises:
        ModelError: If a dtype cannot be stored, or there are too many weights.
    """
    import torch

    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    weights = [described(name, tensor) for name, tensor in tensors.items()]
    pieces: list[bytes | memoryview] = [_header(weights)]
    if len(pieces[0]) > LARGEST_HEADER:
        raise ModelError(f"{len(weights)} weights are too many for a bundle")
    for weight in _ordered(weights):
        pieces.append(tensors[weight.name].flatten().view(torch.uint8).numpy().data)
    return pieces


def described(name: str, tensor: "Tensor") -> Weight:
    """Name, dtype and shape of a tensor.

    Raises:
        ModelError: If its dtype cannot be stored.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    for code, (dtype, _) in DTYPES.items():
        if dtype == kind:
            return Weight(name, code, tuple(tensor.shape))
    raise ModelError(f"weight {name} has dtype {kind}, which a bundle cannot hold")


def read_header(archive: Archive) -> list[Weight]:
    """What the weights member of a bundle holds, in the order of its bytes.

    Raises:
        UnfitError: If the header is not one that medseg3d writes for this size of file.
    """
    size = archive.members[WEIGHTS].size
    start = b"".join(archive.pieces(WEIGHTS, end=LENGTH_BYTES))
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or length > min(LARGEST_HEADER, size - LENGTH_BYTES):
        raise UnfitError(f"the header of {WEIGHTS} is longer than it may be")
    text = b"".join(archive.pieces(WEIGHTS, begin=LENGTH_BYTES, end=LENGTH_BYTES + length))
    values = parse_object(text, where=f"the header of {WEIGHTS}")
    values.pop("__metadata__", None)
    weights = [_weight(name, value) for name, value in values.items()]
    if start + text != _header(weights):
        raise UnfitError(f"the header of {WEIGHTS} is not as medseg3d writes it")
    expected = len(start + text) + sum(weight.num_bytes for weight in weights)
    if expected != size:
        raise UnfitError(f"the header of {WEIGHTS} declares {expected} bytes, it has {size}")
    return weights


def read_weights(archive: Archive, weights: Iterable[Weight]) -> "dict[str, Tensor]":
    """All tensors, in one block of memory that is hashed while it is filled.

    Args:
        archive: An opened bundle.
        weights: What :func:`read_header` found in it.

    Raises:
        UnfitError: If they do not match their digest, are not finite, or need too much memory.
    """
    import torch

    weights = list(weights)
    block = _filled(archive, sum(weight.num_bytes for weight in weights))
    tensors, place = {}, 0
    for weight in weights:
        values = torch.from_numpy(block[place : place + weight.num_bytes])
        tensors[weight.name] = _tensor(weight, values)
        place += weight.num_bytes
    return tensors


def _filled(archive: Archive, total: int) -> "npt.NDArray[np.uint8]":
    """The last ``total`` bytes of the weights member, whose digest is found right."""
    import numpy as np

    if total > memory_limit():
        raise UnfitError(
            f"its weights need {in_words(total)} of {in_words(memory_limit())} of memory",
            "use a machine with more memory",
        )
    try:
        block = np.empty(total, dtype=np.uint8)
    except MemoryError:
        raise UnfitError(
            f"its weights need {in_words(total)} of memory, which is not free", "free some memory"
        ) from None
    begin, digest = archive.members[WEIGHTS].size - total, hashlib.sha256()
    for piece in archive.pieces(WEIGHTS, end=begin):
        digest.update(piece)
    place = 0
    for piece in archive.pieces(WEIGHTS, begin=begin):
        digest.update(piece)
        block[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        place += len(piece)
    archive.refuse_if_changed(WEIGHTS, digest.hexdigest())
    return block


def _tensor(weight: Weight, values: "Tensor") -> "Tensor":
    """Bytes as the tensor they are."""
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[weight.code][0])
    if dtype is torch.bool and values.gt(1).any():
        raise UnfitError(f"weight {weight.name} holds values that are neither true nor false")
    tensor = values.view(dtype).view(weight.shape)
    if dtype.is_floating_point and not _all_finite(tensor):
        raise UnfitError(
            f"weight {weight.name} holds values that are not finite", "train the model again"
        )
    return tensor


def _all_finite(tensor: "Tensor") -> bool:
    """Whether no value is NaN or infinite; the sum tells, but for finite ones that overflow it."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _ordered(weights: Iterable[Weight]) -> list[Weight]:
    """Large dtypes first, so that each tensor begins at a multiple of its item's size."""
    return sorted(weights, key=lambda weight: (-DTYPES[weight.code][1], weight.name))


def _header(weights: Iterable[Weight]) -> bytes:
    values: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for weight in _ordered(weights):
        end = place + weight.num_bytes
        values[weight.name] = {
            "dtype": weight.code,
            "shape": list(weight.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _weight(name: str, value: Any) -> Weight:
    fits = isinstance(value, dict) and isinstance(value.get("shape"), list)
    if not fits or len(value["shape"]) > MOST_AXES:
        raise UnfitError(f"the header of {WEIGHTS} does not describe {name[:80]}")
    code = value.get("dtype")
    if not isinstance(code, str) or code not in DTYPES:
        raise UnfitError(
            f"weight {name[:80]} has dtype {str(code)[:20]}, expected one of {', '.join(DTYPES)}"
        )
    if not all(type(edge) is int and edge >= 0 for edge in value["shape"]):
        raise UnfitError(f"weight {name[:80]} has no possible shape")
    return Weight(name, code, tuple(value["shape"]))
