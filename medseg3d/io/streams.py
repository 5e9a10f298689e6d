"""Bytes of image files, plain or packed, of which none is trusted before it is checked."""

import bz2
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from isal import igzip_lib

from medseg3d.errors import DataError
from medseg3d.io.signatures import GZIP_MAGIC, NUM_BYTES, looks_like
from medseg3d.machine import in_words

CHUNK = 1 << 18
FEED = 1 << 17
MOST_MEMBERS = 200_000
"""Parts of one packed file; each costs time even where it holds nothing."""

SURPLUS = 64 << 20
"""Bytes that may follow the voxels in any packed file; beyond, as many as there are voxels."""

Packing = Literal["raw", "gzip", "zlib", "bzip2"]
_IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]


class Stamp(NamedTuple):
    """Tells whether a file was changed since."""

    size: int
    mtime_ns: int


class _Plain:
    """The bytes of a file as they are."""

    has_junk = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read_into(self, buffer: memoryview) -> int:
        """Read some bytes; 0 at the end."""
        return int(self._file.readinto(buffer))  # type: ignore[attr-defined]


class _Packed(_Plain):
    """The unpacked bytes of all members of a file.

    Unlike the file objects of ``gzip`` and ``isal``, this does not lose what came before
    junk that follows the last member.
    """

    def __init__(self, file: BinaryIO, new_member: Callable[[], Any], magic: bytes) -> None:
        super().__init__(file)
        self._packed = b""
        self._new_member = new_member
        self._member = new_member()
        self._magic = magic
        self._num_members = 1

    def read_into(self, buffer: memoryview) -> int:
        """Read some bytes; 0 at the end.

        Raises:
            EOFError: If the file ends inside a member.
            IsalError, OSError: If a member is damaged or fails its check sum.
        """
        while not self.has_junk:
            if self._member.eof and not self._next_member():
                return 0
            if self._member.needs_input and not self._packed:
                self._packed = self._file.read(FEED)
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
        while len(rest) < max(1, len(self._magic)):
            more = self._file.read(FEED)
            if not more:
                break
            rest = (rest + more).lstrip(b"\0")
        is_next = bool(self._magic) and rest.startswith(self._magic)
        self.has_junk = bool(rest) and not is_next
        if not is_next:
            return False
        self._num_members += 1
        if self._num_members > MOST_MEMBERS:
            raise _IsalError(f"more than {MOST_MEMBERS} parts")
        self._member, self._packed = self._new_member(), rest
        return True


def _unpacked(file: BinaryIO, packing: Packing) -> _Plain:
    if packing == "gzip":
        return _Packed(
            file, lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), GZIP_MAGIC
        )
    if packing == "zlib":
        return _Packed(file, lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_ZLIB), b"")
    if packing == "bzip2":
        return _Packed(file, bz2.BZ2Decompressor, b"BZh")
    return _Plain(file)


class Stream:
    """Reads forward through a file and turns every kind of damage into a data error."""

    def __init__(self, file: BinaryIO, path: Path, packing: Packing, stamp: Stamp) -> None:
        self._source = file
        self._file = _unpacked(file, packing)
        self._path = path
        self._packing = packing
        self.stamp = stamp
        self.position = 0
        self.declared: int | None = None
        """Unpacked bytes that a header promises, where one has been read."""

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
        if self._packing == "raw":
            here = self._source.tell()
            passed = max(0, min(size, self.stamp.size - here))
            self._source.seek(here + passed)
            self.position += passed
            return passed
        buffer = memoryview(bytearray(min(size, CHUNK)))
        left = size
        while left > 0 and (part := self.fill(buffer[: min(left, CHUNK)])):
            left -= part
        return size - left

    def finish(self) -> bool:
        """Read to the very end, where packed data keep their check sums.

        Returns:
            Whether more bytes came.

        Raises:
            DataError: If a packed file goes on and on.
        """
        end = self.position
        most = max(SURPLUS, end)
        if self.skip(most + 1) > most and self._packing != "raw":
            raise DataError(
                f"{self._path} is damaged: it unpacks to more than {in_words(end + most)}, its "
                f"header declares {in_words(end)}; copy it again"
            )
        return self._file.has_junk or self.position > end

    def _read_into(self, buffer: memoryview) -> int:
        try:
            part = self._file.read_into(buffer)
        except (EOFError, _IsalError) as error:
            raise self._damaged(error) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._damaged(error) from error
        self.position += part
        return part

    def _damaged(self, error: Exception) -> DataError:
        if isinstance(error, EOFError):
            held = f"about {self.position} bytes ({self.stamp.size} on disk)"
            if self.declared is not None and self.position < self.declared:
                held = f"about {self.position} of {self.declared} bytes that its header declares"
            elif self.position == self.declared:
                held = f"all {self.position} bytes that its header declares"
            return DataError(
                f"{self._path} is cut short: its {self._packing} stream breaks off after {held}; "
                "copy it again"
            )
        return DataError(
            f"{self._path} is damaged: its {self._packing} stream fails its own check "
            f"({error}); copy it again"
        )


@contextmanager
def open_stream(path: Path, packing: Packing = "raw", *, start: int = 0) -> Iterator[Stream]:
    """Open ``path`` for one pass from ``start`` to the end.

    Args:
        path: A regular file; a pipe or device is never opened.
        packing: How the bytes from ``start`` are packed.
        start: Bytes at the beginning to leave out.

    Raises:
        DataError: If it is absent, empty, no regular file, not packed as is said, or was
            changed by another program meanwhile.
    """
    if regular_size(path) == 0:
        raise DataError(f"{path} is an empty file; copy it again")
    try:
        # a pipe put there since would make a blocking open wait for ever
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            _expect_regular(path, os.fstat(descriptor))
            stamp = _stamp(os.fstat(descriptor))
            if start == 0:
                _expect_packing(path, file, packing)
            file.seek(start)
            yield Stream(file, path, packing, stamp)
            _expect_same(path, stamp, _stamp(os.fstat(descriptor)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def expect_unchanged(path: Path, stamp: Stamp) -> None:
    """Refuse a file that another program changed or replaced since it was stamped.

    Raises:
        DataError: Also if the file is gone.
    """
    regular_size(path)
    _expect_same(path, stamp, _stamp(path.stat()))


def regular_size(path: Path) -> int:
    """Bytes on disk of a regular, readable file.

    Raises:
        DataError: If there is no such file, or it is a folder, a pipe or unreadable.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):
            raise DataError(f"{str(path)!r} is no name of a file") from error
        if error.errno == errno.ELOOP:
            raise DataError(f"{path} is a link that leads back to itself; remove it") from error
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            raise DataError(
                f"{path} is a link to {path.readlink()}, which does not exist"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path} does not exist") from error
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    _expect_regular(path, status)
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read: permission denied")
    return status.st_size


def _expect_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder, expected an image file")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file, expected an image file")


def _expect_packing(path: Path, file: BinaryIO, packing: Packing) -> None:
    head = file.read(NUM_BYTES)
    if packing == "gzip" and not head.startswith(GZIP_MAGIC):
        hint = looks_like(head) or "something else"
        raise DataError(f"{path} is not gzip although its name says so; it looks like {hint}")
    if packing == "raw" and head.startswith(GZIP_MAGIC):
        try:
            inside = looks_like(
                igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP).decompress(head, NUM_BYTES)
            )
        except (_IsalError, EOFError):
            inside = None
        what = f" and holds {inside.partition(';')[0]}" if inside else ""
        raise DataError(
            f"{path} is gzip although its name does not say so{what}; "
            "rename it, to .nii.gz for NIfTI"
        )


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns)


def _expect_same(path: Path, before: Stamp, after: Stamp) -> None:
    if before != after:
        raise DataError(
            f"{path} was changed while it was being read; start again when it is complete"
        )
