"""The bytes of a bundle around its members: a stored zip in one fixed layout.

::

    manifest.json        format, and size and SHA-256 of the other members
    model.json           the description
    weights.safetensors  the weights
    central directory, end record

They follow from the names, sizes and CRCs alone: equal content gives equal files, and a reader
can compute what must be there instead of interpreting what is.

Reference:
    PKWARE, APPNOTE.TXT, .ZIP File Format Specification, version 6.3.10.
"""

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from medseg3d.bundle.refusal import UnfitError
from medseg3d.bundle.strict_json import parse_object

FORMAT = 2
MANIFEST = "manifest.json"
DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"
NAMES = (MANIFEST, DESCRIPTION, WEIGHTS)
LARGEST = (1 << 32) - 1
LARGEST_MANIFEST = 4096

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
_VERSION = 10
_MADE_BY_UNIX = 3 << 8 | _VERSION
_STORED = _PLAIN = _MIDNIGHT = 0
_FIRST_OF_1980 = 1 << 5 | 1
_REGULAR_FILE = 0o100644 << 16

TAIL = sum(CENTRAL.size + len(name) for name in NAMES) + END.size
OVERHEAD = sum(LOCAL.size + len(name) for name in NAMES) + TAIL
"""Bytes of a bundle that belong to no member."""


@dataclass(frozen=True)
class Member:
    """One file in the zip.

    Attributes:
        name: Its name.
        size: Bytes of its content.
        crc: CRC-32 of its content.
        sha256: Hexadecimal digest of its content, as the manifest says.
        start: Where its content begins in the zip.
    """

    name: str
    size: int
    crc: int
    sha256: str = ""
    start: int = 0


def frame(members: Sequence[Member]) -> tuple[list[bytes], bytes]:
    r"""Local header of each member, and all that comes after the last one.

    Examples:
        >>> headers, tail = frame([Member("model.json", size=2, crc=0x12345678)])
        >>> headers[0][:4], len(headers[0]), tail[:4]
        (b'PK\x03\x04', 40, b'PK\x01\x02')
    """
    headers, directory, place = [], b"", 0
    for member in members:
        name = member.name.encode("ascii")
        kind = (_VERSION, _PLAIN, _STORED, _MIDNIGHT, _FIRST_OF_1980)
        size = (member.crc, member.size, member.size, len(name), 0)
        entry = (_MADE_BY_UNIX, *kind, *size, 0, 0, 0, _REGULAR_FILE, place)
        headers.append(LOCAL.pack(b"PK\x03\x04", *kind, *size) + name)
        directory += CENTRAL.pack(b"PK\x01\x02", *entry) + name
        place += len(headers[-1]) + member.size
    count = len(members)
    end = END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), place, 0)
    return headers, directory + end


def manifest(members: Sequence[Member]) -> bytes:
    """The text of the manifest."""
    listed = {each.name: {"size": each.size, "sha256": each.sha256} for each in members}
    return json.dumps({"format": FORMAT, "members": listed}, indent=1).encode()


def read_manifest(data: bytes) -> dict[str, tuple[int, str]]:
    """Size and digest of the members that a manifest lists.

    Raises:
        UnfitError: If it is of another format, or not what :func:`manifest` writes.
    """
    values = parse_object(data, where=MANIFEST)
    found = values.get("format")
    if type(found) is int and found > FORMAT:
        raise UnfitError(
            f"bundle format {found}, this medseg3d reads format {FORMAT}", "update medseg3d"
        )
    listed = {}
    for name in (DESCRIPTION, WEIGHTS):
        try:
            size, sha256 = values["members"][name]["size"], values["members"][name]["sha256"]
        except (KeyError, TypeError):
            raise UnfitError(f"{MANIFEST} does not list {name}") from None
        if type(size) is not int or size < 0 or not re.fullmatch("[0-9a-f]{64}", str(sha256)):
            raise UnfitError(f"{MANIFEST} has no size and SHA-256 of {name}")
        listed[name] = (size, str(sha256))
    if data != manifest([Member(name, size, 0, sha) for name, (size, sha) in listed.items()]):
        raise UnfitError(f"{MANIFEST} is not written as medseg3d writes it")
    return listed
