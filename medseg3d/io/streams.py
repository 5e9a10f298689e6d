"""Bytes of image files, plain or gzip, of which none is trusted before it is checked."""

import errno
import os
import stat
import string
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from isal import igzip_lib

from medseg3d.errors import DataError

CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
LARGEST_DEFLATE_RATIO = 1032  # https://zlib.net/zlib_tech.html
_IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]


class _Plain:
    """The bytes of a file as they are."""

    has_junk = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read_into(self, buffer: memoryview) -> int:
        """Read some bytes; 0 at the end."""
        return int(self._file.readinto(buffer))  # type: ignore[attr-defined]


class _Gzip(_Plain):
    """The unpacked bytes of all gzip members of a file.

    Unlike the file objects of ``gzip`` and ``isal``, this does not lose what came before
    junk that follows the last member.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._packed = b""
        self._member = _new_member()

    def read_into(self, buffer: memoryview) -> int:
        """Read some bytes; 0 at the end.

        Raises:
            EOFError: If the file ends inside a member.
            IsalError: If a member is damaged or fails its check sum.
        """
        while not self.has_junk:
            if self._member.eof and not self._next_member():
                return 0
            if self._member.needs_input and not self._packed:
                self._packed = self._file.read(CHUNK)
                if not self._packed:
                    raise EOFError
            part = self._member.decompress(self._packed, len(buffer))
            self._packed = b""
            if part:
                buffer[: len(part)] = part
                return len(part)
        return 0

    def _next_member(self) -> bool:
        rest = self._member.unused_data.lstrip(b"\0")
        while len(rest) < len(GZIP_MAGIC):
            more = self._file.read(CHUNK)
            if not more:
                break
            rest = (rest + more).lstrip(b"\0")
        self.has_junk = bool(rest) and not rest.startswith(GZIP_MAGIC)
        if not rest.startswith(GZIP_MAGIC):
            return False
        self._member, self._packed = _new_member(), rest
        return True


def _new_member() -> igzip_lib.IgzipDecompressor:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


class Stream:
    """Reads forward through a file and turns every kind of damage into a data error."""

    def __init__(self, file: _Plain, path: Path, size_on_disk: int) -> None:
        self._file = file
        self._path = path
        self._size_on_disk = size_on_disk
        self.position = 0

    def fill(self, buffer: memoryview) -> int:
        """Read into ``buffer`` until it is full or the file ends; return how much was read."""
        filled = 0
        while filled < len(buffer):
            part = self._read_into(buffer[filled : filled + CHUNK])
            if not part:
                break
            filled += part
        return filled

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer where the file ends."""
        buffer = bytearray(size)
        return bytes(buffer[: self.fill(memoryview(buffer))])

    def skip(self, size: int) -> int:
        """Pass over ``size`` bytes; return how many there were."""
        buffer = memoryview(bytearray(min(size, CHUNK)))
        left = size
        while left > 0 and (part := self.fill(buffer[: min(left, CHUNK)])):
            left -= part
        return size - left

    def finish(self) -> bool:
        """Read to the very end, where gzip keeps its check sums; say if more bytes came."""
        end = self.position
        self.skip(1 << 62)
        return self._file.has_junk or self.position > end

    def _read_into(self, buffer: memoryview) -> int:
        try:
            part = self._file.read_into(buffer)
        except (EOFError, _IsalError) as error:
            raise self._damaged(error) from error
        self.position += part
        return part

    def _damaged(self, error: Exception) -> DataError:
        if isinstance(error, EOFError):
            return DataError(
                f"{self._path} is cut short: its gzip stream breaks off after about "
                f"{self.position} bytes ({self._size_on_disk} on disk); copy it again"
            )
        return DataError(
            f"{self._path} is damaged: its gzip stream fails its own check ({error}); copy it again"
        )


@contextmanager
def open_stream(path: Path, *, compressed: bool) -> Iterator[Stream]:
    """Open ``path`` for one pass from start to end.

    Raises:
        DataError: If it is absent, empty, no regular file, or not compressed as its name says.
    """
    size = regular_size(path)
    if size == 0:
        raise DataError(f"{path} is an empty file; copy it again")
    try:
        with path.open("rb") as file:
            begins = file.read(len(GZIP_MAGIC))
            file.seek(0)
            if compressed and begins != GZIP_MAGIC:
                hint = looks_like(file.read(1024)) or "something else"
                raise DataError(
                    f"{path} is not gzip although its name says so; it looks like {hint}"
                )
            if not compressed and begins == GZIP_MAGIC:
                raise DataError(f"{path} is gzip although its name does not end in .gz; rename it")
            yield Stream(_Gzip(file) if compressed else _Plain(file), path, size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def regular_size(path: Path) -> int:
    """Bytes on disk of a regular, readable file.

    Raises:
        DataError: If there is no such file, or it is a folder, a pipe or unreadable.
    """
    try:
        status = path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{path} is a link that leads back to itself; remove it") from error
        if path.is_symlink() and isinstance(error, FileNotFoundError):
            raise DataError(
                f"{path} is a link to {path.readlink()}, which does not exist"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path} does not exist") from error
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder, expected an image file")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file, expected an image file")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read: permission denied")
    return status.st_size


def looks_like(head: bytes) -> str | None:
    """What the first bytes of something that is not an image look like."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head[128:132] == b"DICM":
        return "DICOM; give the folder of the series or rename it"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file with 'git lfs pull'"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, perhaps a failed download"
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        return "an uncompressed NIfTI image; rename it to .nii"
    for magic, name in (
        (GZIP_MAGIC, "gzip data"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"NRRD000", "an NRRD image; rename it to .nrrd"),
        (b"\x89HDF", "an HDF5 file"),
    ):
        if head.startswith(magic):
            return name
    if head and all(chr(byte) in string.printable for byte in head):
        return "text"
    return None


def expect_room(path: Path, needed: int, size_on_disk: int, *, compressed: bool) -> None:
    """Refuse, before anything is allocated, a size that the file or the memory cannot hold.

    Args:
        path: File, for the message.
        needed: Bytes from the start of the file to the end of its voxels, unpacked.
        size_on_disk: Bytes of the file.
        compressed: Whether those are gzip.

    Raises:
        DataError: If the file is too short for what its header declares.
    """
    holds = size_on_disk * LARGEST_DEFLATE_RATIO if compressed else size_on_disk
    if needed > holds:
        raise DataError(
            f"{path} is cut short or its header is wrong: the header declares {needed} bytes, "
            f"the file holds {'at most ' if compressed else ''}{holds}"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise DataError(
            f"{path} needs {needed / 2**30:.1f} GiB, this machine has {memory / 2**30:.1f} GiB"
        )


def read_voxels(
    path: Path,
    *,
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    compressed: bool,
) -> tuple[npt.NDArray[Any], bool]:
    """Read voxels stored with the first axis fastest, and the file to its end.

    Args:
        path: File that holds them.
        offset: Bytes before the first voxel.
        dtype: Stored type with its byte order.
        shape: Stored shape.
        compressed: Whether the file is gzip.

    Returns:
        The voxels in Fortran order and native byte order, and whether bytes follow them.

    Raises:
        DataError: If the file is damaged or shorter than the header declares.
    """
    needed = offset + prod(shape) * dtype.itemsize
    expect_room(path, needed, regular_size(path), compressed=compressed)
    with open_stream(path, compressed=compressed) as stream:
        if stream.skip(offset) == offset:
            voxels = np.empty(prod(shape), dtype)
            stream.fill(voxels.view(np.uint8).data)
        if stream.position < needed:
            raise DataError(
                f"{path} is cut short: it holds {stream.position} of the {needed} bytes "
                "that its header declares; copy it again"
            )
        surplus = stream.finish()
    if not dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return voxels.reshape(shape, order="F"), surplus
