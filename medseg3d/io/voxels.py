"""From where a header says that voxels lie to an array, for every format alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.io.streams import Packing, Stream, open_stream, regular_size
from medseg3d.machine import in_words, memory_room

LARGEST_DEFLATE_RATIO = 1032  # https://zlib.net/zlib_tech.html
MOST_BEFORE_VOXELS = 256 << 20
"""Bytes of header extensions and gaps that a file may have before its voxels."""

SHARE_OF_MEMORY = 0.9
WORKING_SIZE = 4
"""Bytes per voxel of the float32 image or the widest labels made of what is stored."""

MOST_TEXT = 32 << 20
"""Bytes of voxels written as text, which take many times as much to read."""

TEXT_COST = 40


@dataclass(frozen=True)
class Layout:
    """Where the voxels of a volume lie and how they are stored.

    Args:
        files: Files that hold them, equal shares one after the other.
        dtype: Stored type with its byte order.
        shape: Stored shape, the first axis fastest.
        start: Bytes before the packed part of each file.
        offset: Bytes before the first voxel, after unpacking.
        packing: How bytes are packed.
        text: Whether voxels are written as decimal numbers.
        hexadecimal: Whether their bytes are written as pairs of hexadecimal digits.
    """

    files: tuple[Path, ...]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int = 0
    offset: int = 0
    packing: Packing = "raw"
    text: bool = False
    hexadecimal: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of all voxels as they are stored, unpacked."""
        return prod(self.shape) * self.dtype.itemsize


def expect_voxels(layout: Layout) -> None:
    """Refuse, before anything is allocated, what the files or the memory cannot hold.

    Raises:
        DataError: If a file is absent, too short for what the header declares, or the
            volume needs more memory than this process may take.
    """
    if layout.offset > MOST_BEFORE_VOXELS:
        raise DataError(
            f"{layout.files[0]} puts its voxels {layout.offset} bytes after its header; expected "
            f"at most {MOST_BEFORE_VOXELS}"
        )
    count = prod(layout.shape)
    if count % len(layout.files):
        raise DataError(
            f"{layout.files[0]} is one of {len(layout.files)} files for {count} voxels, which "
            "do not divide evenly among them"
        )
    share = layout.num_bytes // len(layout.files)
    for file in layout.files:
        _expect_bytes(file, share, layout)
    expect_memory(layout.files[0], layout.num_bytes + _converted(layout))


def expect_memory(path: Path, needed: int) -> None:
    """Refuse what would take more memory than this process may still have.

    Raises:
        DataError: Giving both numbers.
    """
    room = int(SHARE_OF_MEMORY * memory_room())
    if needed > room:
        raise DataError(
            f"{path} needs {in_words(needed)} of memory and {in_words(room)} are left for it; "
            "crop it or read it where there is more"
        )


@contextmanager
def enough_memory(path: Path) -> Iterator[None]:
    """Turn a lack of memory into a data error about ``path``.

    Raises:
        DataError: In place of a memory error.
    """
    try:
        yield
    except MemoryError as error:
        raise DataError(
            f"{path} needs more memory than is free ({error or 'none is left'}); end other "
            "programs, crop it or read it where there is more"
        ) from error


def read_voxels(layout: Layout) -> tuple[npt.NDArray[Any], bool]:
    """Read the voxels, and every file to its end.

    Returns:
        The voxels in Fortran order and native byte order, and whether bytes follow them.

    Raises:
        DataError: If a file is damaged or shorter than the header declares.
    """
    with enough_memory(layout.files[0]):
        voxels: npt.NDArray[Any] = np.empty(prod(layout.shape), layout.dtype)
        surplus = False
        for file, share in zip(layout.files, np.split(voxels, len(layout.files)), strict=True):
            surplus |= _read_share(layout, file, share)
    if not layout.dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(layout.dtype.newbyteorder("="))
    return voxels.reshape(layout.shape, order="F"), surplus


def _converted(layout: Layout) -> int:
    is_ready = layout.dtype.kind == "f" and layout.dtype.itemsize == WORKING_SIZE
    return 0 if is_ready else WORKING_SIZE * prod(layout.shape)


def _expect_bytes(file: Path, share: int, layout: Layout) -> None:
    size = regular_size(file) - layout.start
    needed = share + layout.offset
    most = {"gzip": LARGEST_DEFLATE_RATIO, "zlib": LARGEST_DEFLATE_RATIO, "raw": 1}
    if layout.text:
        needed = 2 * share // layout.dtype.itemsize - 1  # a digit and a space each
    elif layout.hexadecimal:
        needed = 2 * share
    if layout.packing in most and needed > size * most[layout.packing]:
        limit = "at most " if layout.packing != "raw" else ""
        raise DataError(
            f"{file} is cut short or its header is wrong: the header declares {needed} bytes, "
            f"the file holds {limit}{max(0, size) * most[layout.packing]}"
        )
    if layout.text or layout.hexadecimal:
        if size > MOST_TEXT:
            raise DataError(
                f"{file} holds {in_words(size)} of voxels written as text, expected at most "
                f"{in_words(MOST_TEXT)}; save it with the encoding raw or gzip"
            )
        expect_memory(file, TEXT_COST * size)


def _read_share(layout: Layout, file: Path, share: npt.NDArray[Any]) -> bool:
    """Fill ``share`` from one file; say whether more follows."""
    needed = layout.offset + share.nbytes
    with open_stream(file, layout.packing, start=layout.start) as stream:
        if layout.text or layout.hexadecimal:
            return _read_written(layout, file, stream, share)
        stream.declared = needed
        if stream.skip(layout.offset) == layout.offset:
            stream.fill(share.view(np.uint8).data)
        if stream.position < needed:
            raise DataError(
                f"{file} is cut short: it holds {stream.position} of the {needed} bytes "
                "that its header declares; copy it again"
            )
        return stream.finish()


def _read_written(layout: Layout, file: Path, stream: Stream, share: npt.NDArray[Any]) -> bool:
    """Fill ``share`` from numbers written as text."""
    written = stream.read(stream.stamp.size - layout.start)
    number = float if layout.dtype.kind == "f" else int
    try:
        if layout.hexadecimal:
            values = np.frombuffer(bytes.fromhex(written.decode("ascii")), np.uint8)
            share = share.view(np.uint8)
        else:
            values = np.array([number(word) for word in written.split()], _wide(layout.dtype))
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{file} is damaged: not all its voxels are numbers; copy it again"
        ) from error
    found = values.size
    if found < share.size:
        raise DataError(
            f"{file} is cut short: it holds {found} of the {share.size} numbers that its header "
            "declares; copy it again"
        )
    with np.errstate(over="ignore"):
        share[:] = values[: share.size]
    if layout.text and layout.dtype.kind != "f" and not np.array_equal(share, values[: share.size]):
        raise DataError(f"{file} holds numbers that its type {layout.dtype.name} cannot hold")
    return found > share.size


def _wide(dtype: np.dtype[Any]) -> npt.DTypeLike:
    wide: dict[str, npt.DTypeLike] = {"i": np.int64, "u": np.uint64, "f": np.float64}
    return wide[dtype.kind]
