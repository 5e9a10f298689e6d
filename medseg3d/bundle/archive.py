"""Writing a bundle's members into a file, and reading them from one that is not trusted.

The reader accepts a file only if all bytes around the members are those of
:mod:`medseg3d.bundle.layout`. So nothing that a zip can also express (compression, encryption,
links, folders, other names, gaps, overlaps, comments, zip64) is ever interpreted, and nothing
is unpacked to the disk. Any zip program can still look into a bundle.
"""

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from medseg3d.bundle.diagnosis import recognized
from medseg3d.bundle.layout import (
    DESCRIPTION,
    LARGEST,
    LARGEST_MANIFEST,
    LOCAL,
    MANIFEST,
    OVERHEAD,
    TAIL,
    WEIGHTS,
    Member,
    frame,
    manifest,
    read_manifest,
)
from medseg3d.bundle.refusal import EXPORT, UnfitError
from medseg3d.errors import ModelError
from medseg3d.io import atomic

CHUNK = 1 << 20

Content = Sequence[bytes | memoryview]
"""A member as pieces of bytes, which can be gone through more than once."""


def write_archive(path: Path, description: Content, weights: Content) -> None:
    """Write a bundle beside the target and rename; equal content gives equal bytes.

    Raises:
        ModelError: If the content is too large.
        RunError: If the file cannot be written.
    """
    listed = [_measured(DESCRIPTION, description), _measured(WEIGHTS, weights)]
    total = sum(member.size for member in listed)
    if total > LARGEST - LARGEST_MANIFEST - OVERHEAD:
        raise ModelError(
            f"{path}: a model of {total} bytes is more than the {LARGEST} that a bundle holds; "
            "train a narrower network"
        )
    first: Content = [manifest(listed)]
    headers, tail = frame([_measured(MANIFEST, first), *listed])
    with atomic(path) as partial, partial.open("wb") as file:
        for header, content in zip(headers, (first, description, weights), strict=True):
            file.write(header)
            for piece in content:
                file.write(piece)
        file.write(tail)


class Archive:
    """An opened bundle whose layout is checked.

    Args:
        file: The file, open for reading.

    Attributes:
        size: Bytes of the whole file.
        members: All members, by name.

    Raises:
        UnfitError: If the file is anything but a complete bundle of this format.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        begin = frame([Member(MANIFEST, 0, 0)])[0][0]
        head = self._at(0, len(begin))
        if not _differ_in_crc_and_size_only(head, begin):
            raise recognized(file, self.size)
        length = LOCAL.unpack_from(head)[7]
        if length > LARGEST_MANIFEST:
            raise UnfitError(f"{MANIFEST} has {length} bytes, which medseg3d never writes")
        data = self._at(len(begin), length)
        if len(data) < length:
            raise UnfitError(f"truncated after {self.size} bytes")
        listed = read_manifest(data)
        expected = OVERHEAD + length + sum(size for size, _ in listed.values())
        if self.size < expected:
            raise UnfitError(f"truncated, {self.size} of {expected} bytes")
        if self.size > expected:
            raise UnfitError(f"{self.size - expected} bytes more than its members need")
        if self.size > LARGEST:
            raise UnfitError(f"{self.size} bytes are more than the {LARGEST} of a bundle")
        self.members = self._placed({MANIFEST: (length, ""), **listed})

    def read(self, name: str, *, at_most: int) -> bytes:
        """Content of a small member that matches its digest.

        Raises:
            UnfitError: If it has more than ``at_most`` bytes, or was changed.
        """
        size = self.members[name].size
        if size > at_most:
            raise UnfitError(f"{name} has {size} bytes, at most {at_most} were expected")
        data = b"".join(self.pieces(name))
        self.refuse_if_changed(name, hashlib.sha256(data).hexdigest())
        return data

    def pieces(self, name: str, *, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Bytes ``begin`` to ``end`` of a member, piece by piece, not compared with its digest."""
        member = self.members[name]
        left = (member.size if end is None else min(end, member.size)) - begin
        self._file.seek(member.start + begin)
        while left > 0:
            piece = self._file.read(min(left, CHUNK))
            if not piece:
                raise UnfitError("truncated while it was read")
            left -= len(piece)
            yield piece

    def sha256(self) -> str:
        """Digest of the whole file."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def refuse_if_changed(self, name: str, sha256: str) -> None:
        """Compare the digest of a member's content with the manifest's.

        Raises:
            UnfitError: If they differ.
        """
        if sha256 != self.members[name].sha256:
            raise UnfitError(f"{name} does not match its SHA-256, the file was damaged or changed")

    def _placed(self, listed: dict[str, tuple[int, str]]) -> dict[str, Member]:
        """The members at the only places where they may be, if all around them is right."""
        members, found, place = [], [], 0
        for name, (size, sha256) in listed.items():
            found.append(self._at(place, LOCAL.size + len(name)))
            crc = LOCAL.unpack_from(found[-1])[6]
            place += len(found[-1])
            members.append(Member(name, size, crc, sha256, start=place))
            place += size
        headers, tail = frame(members)
        if [*found, self._at(place, TAIL)] != [*headers, tail]:
            raise UnfitError("its zip records are not as medseg3d writes them")
        return {member.name: member for member in members}

    def _at(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open a bundle and check its layout; links are followed, devices and pipes not read.

    Raises:
        UnfitError: If it is not a regular file, or not a complete bundle of this format.
    """
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UnfitError("no such model file", EXPORT) from None
    except ValueError:
        raise UnfitError("no possible file name", EXPORT) from None
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a device, pipe or socket"
        raise UnfitError(f"{what}, not a regular file", EXPORT)
    with path.open("rb") as file:
        yield Archive(file)


def _differ_in_crc_and_size_only(head: bytes, begin: bytes) -> bool:
    varying = slice(14, 26)
    return head[: varying.start] + head[varying.stop :] == (
        begin[: varying.start] + begin[varying.stop :]
    )


def _measured(name: str, content: Content) -> Member:
    digest, crc, size = hashlib.sha256(), 0, 0
    for piece in content:
        digest.update(piece)
        crc = zlib.crc32(piece, crc)
        size += len(piece)
    return Member(name, size, crc, digest.hexdigest())
