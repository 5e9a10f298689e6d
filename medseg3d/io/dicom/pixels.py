"""Stored values of DICOM files: decoded, checked for completeness and scaled slice by slice.

References:
    .. [1] DICOM PS3.5, 8: https://dicom.nema.org/medical/dicom/current/output/chtml/part05
    .. [2] DICOM PS3.3, C.7.6.3: the photometric interpretation says how values are shown,
       not what they are.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medseg3d.errors import DataError, MedSeg3DError
from medseg3d.io.dicom.headers import Slice
from medseg3d.io.dicom.values import expect_inflatable, hush
from medseg3d.machine import in_words, memory_limit
from medseg3d.types import Size3

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def voxels_of(name: Path, slices: Sequence[Slice], shape: Size3) -> npt.NDArray[Any]:
    """The values of ordered slices.

    Args:
        name: What the user called the volume, for messages.
        slices: In order.
        shape: Columns, rows, slices.

    Returns:
        ``(I, J, K)``: integers where every slice is scaled by one and whole offsets, else
        float32.

    Raises:
        DataError: If a file is cut short or cannot be decoded, or the volume is too large.
    """
    whole = all(s.slope == 1 and s.intercept.is_integer() and s.bits <= 16 for s in slices)
    expect_room(name, shape, 4)
    stacked = np.empty(shape[::-1], dtype=np.int32 if whole else np.float32)
    opened: tuple[Path, Any] | None = None
    for place, each in enumerate(slices):
        if opened is None or opened[0] != each.path:
            opened = each.path, read_pixels(each.path)
        stored = frame_of(*opened, each.frame)
        if stored.shape != stacked.shape[1:]:
            raise DataError(
                f"{each.path} decodes to {stored.shape} pixels, its header says "
                f"{stacked.shape[1:]}; copy it again"
            )
        if whole and stored.dtype.kind != "f":
            stacked[place] = stored.astype(np.int32) + int(each.intercept)
        else:
            stacked = stacked.astype(np.float32, copy=False)
            stacked[place] = stored * np.float64(each.slope) + each.intercept
    return _smallest(stacked).T


def expect_room(name: Path, shape: Sequence[int], itemsize: int) -> None:
    """Refuse a volume that does not fit in memory before any of it is allocated.

    Raises:
        DataError: With the size and the limit.
    """
    needed, limit = prod(shape) * itemsize, memory_limit()
    if needed > limit:
        size = " x ".join(map(str, shape))
        raise DataError(
            f"{name} declares {size} voxels, which need {in_words(needed)}; this process has "
            f"{in_words(limit)}"
        )


def read_pixels(path: Path) -> Any:
    """A data set with its pixels, undecoded but complete.

    Raises:
        DataError: If pixels are absent or cut short, or no codec for them is installed.
    """
    hush()
    expect_inflatable(path)
    try:
        content = pydicom.dcmread(path, force=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or 'it breaks off'}") from error
    except Exception as error:  # whatever a damaged file provokes
        raise DataError(f"{path} breaks off or is damaged; copy it again") from error
    try:
        _expect_pixels(path, content)
    except MedSeg3DError:
        raise
    except Exception as error:  # pydicom converts values late and lets anything through
        raise DataError(f"{path} has pixels that it does not describe; copy it again") from error
    return content


def frame_of(path: Path, content: Any, frame: int | None) -> npt.NDArray[Any]:
    """Stored values of one frame, rows by columns, or of the only one.

    Raises:
        DataError: If they cannot be decoded.
    """
    syntax = content.file_meta.TransferSyntaxUID
    packed = int(content.get("BitsAllocated") or 16) == 1
    if packed and not syntax.is_encapsulated:
        return _unpacked(content, frame or 0)
    is_as_stored = not syntax.is_encapsulated or syntax == RLELossless
    # pydicom would keep the lowest bits, wherever HighBit says that the value lies
    options: dict[str, Any] = {"correct_unused_bits": False} if is_as_stored else {}
    try:
        stored = np.asarray(pixel_array(content, index=frame or 0, **options))
    except Exception as error:  # every codec has its own kinds
        raise DataError(
            f"{path} has pixels ({syntax.name}) that cannot be decoded; copy it again"
        ) from error
    if not is_as_stored or stored.dtype.kind == "f":
        return stored
    return _without_overlay(stored, content)


def _unpacked(content: Any, frame: int) -> npt.NDArray[Any]:
    """One bit per pixel; a frame may begin inside a byte, which pydicom 3.0.2 gets wrong."""
    rows, columns = int(content.Rows), int(content.Columns)
    first, last = frame * rows * columns, (frame + 1) * rows * columns
    held = np.frombuffer(content.PixelData[first // 8 : -(-last // 8)], np.uint8)
    bits = np.unpackbits(held, bitorder="little")
    return bits[first % 8 :][: rows * columns].reshape(rows, columns)


def _without_overlay(stored: npt.NDArray[Any], content: Any) -> npt.NDArray[Any]:
    """Old files keep graphics in the bits that the values leave over."""
    allocated, bits = int(content.BitsAllocated), int(content.BitsStored)
    highest = int(content.get("HighBit", bits - 1))
    if allocated not in (8, 16, 32) or bits >= allocated:
        return stored
    return (stored << (allocated - 1 - highest)) >> (allocated - bits)


def _expect_pixels(path: Path, content: Any) -> None:
    held = [keyword for keyword in PIXELS if keyword in content]
    if not held:
        raise DataError(f"{path} holds no pixels; copy it again")
    syntax = content.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        implicit = content.original_encoding[0]
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        content.file_meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated:
        if not _is_decodable(syntax):
            raise DataError(
                f"{path} is compressed as {syntax.name}, which no installed codec reads; install "
                "'medseg3d[dicom]' or decompress the series"
            )
        return
    bits = int(content.Rows) * int(content.Columns) * int(content.BitsAllocated)
    frames = int(content.get("NumberOfFrames") or 1)
    needed = -(-bits * frames * int(content.get("SamplesPerPixel") or 1) // 8)
    found = len(content[held[0]].value or b"")
    if found < needed:
        raise DataError(
            f"{path} is cut short: it holds {found} of {needed} bytes of pixels; copy it again"
        )
    if found > needed + 1:  # one byte may make the length even
        raise DataError(f"{path} holds {found}, expected {needed} bytes of pixels; copy it again")


def _is_decodable(syntax: Any) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _smallest(stacked: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if stacked.dtype.kind == "f":
        return stacked
    low, high = int(stacked.min()), int(stacked.max())
    for dtype in (np.int16, np.uint16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return stacked.astype(dtype)
    return stacked
