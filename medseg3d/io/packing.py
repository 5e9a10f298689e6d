"""Packing voxels into gzip files, blocks of them side by side.

Any number of threads gives the same bytes: one gzip member of blocks of a fixed size, each with
the end of the one before as its dictionary, as pigz does.

References:
    .. [1] RFC 1952, GZIP file format, https://www.rfc-editor.org/rfc/rfc1952
    .. [2] https://zlib.net/pigz/
"""

import struct
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from isal import isal_zlib

from medseg3d.machine import num_processors

LEVEL = 2
"""Of isal's 0 to 3: CT takes 15 % less than at 0 in about the same time; 3 gains 1 % more."""

BLOCK, WINDOW = 1 << 20, 1 << 15
MOST_THREADS = 8
RAW_DEFLATE = -15
HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF])
"""Deflate; no name, no time, no system."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take some bytes."""


class _Packer:
    """Takes bytes and passes them on in packed blocks."""

    def __init__(self, file: Sink, threads: int) -> None:
        self._file = file
        self._most_waiting = 2 * threads
        self._threads = ThreadPoolExecutor(threads)  # starts them with the first block
        self._pending = bytearray()
        self._before = b""
        self._waiting: deque[Future[tuple[bytes, int, int]]] = deque()
        self._check_sum = self._size = 0
        file.write(HEADER)

    def write(self, data: bytes | memoryview) -> int:
        """Take some bytes."""
        rest = memoryview(data).cast("B")
        while len(rest):
            taken = min(len(rest), BLOCK - len(self._pending))
            self._pending += rest[:taken]
            rest = rest[taken:]
            if len(self._pending) == BLOCK:
                block, self._pending = bytes(self._pending), bytearray()
                self._waiting.append(self._threads.submit(_packed, block, self._before))
                self._before = block[-WINDOW:]
                if len(self._waiting) > self._most_waiting:
                    self._pass_on(*self._waiting.popleft().result())
        return len(data)

    def finish(self) -> None:
        """Write what is left and the check sum."""
        while self._waiting:
            self._pass_on(*self._waiting.popleft().result())
        self._pass_on(*_packed(bytes(self._pending), self._before, last=True))
        self._file.write(struct.pack("<II", self._check_sum, self._size & 0xFFFFFFFF))

    def stop(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _pass_on(self, packed: bytes, check_sum: int, size: int) -> None:
        self._file.write(packed)
        self._check_sum = isal_zlib.crc32_combine(self._check_sum, check_sum, size)
        self._size += size


@contextmanager
def gzipped(file: Sink, *, threads: int | None = None) -> Iterator[Sink]:
    """Pack what is written into ``file``; nothing is written after an exception.

    Args:
        file: Takes the packed bytes, in the thread of the caller.
        threads: How many pack, by default as many as there are processors, at most 8.

    Examples:
        >>> import gzip, io
        >>> file = io.BytesIO()
        >>> with gzipped(file) as packed:
        ...     _ = packed.write(b"voxels")
        >>> gzip.decompress(file.getvalue())
        b'voxels'
    """
    packer = _Packer(file, threads or min(MOST_THREADS, num_processors()))
    try:
        yield packer
        packer.finish()
    finally:
        packer.stop()


def _packed(block: bytes, before: bytes, *, last: bool = False) -> tuple[bytes, int, int]:
    """One block, its check sum and its size."""
    packer = isal_zlib.compressobj(LEVEL, wbits=RAW_DEFLATE, zdict=before)
    packed = packer.compress(block)
    packed += packer.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_SYNC_FLUSH)
    return packed, isal_zlib.crc32(block), len(block)
