"""Telling DICOM files apart by their first bytes, without any library.

References:
    .. [1] DICOM PS3.10, 7.1: https://dicom.nema.org/medical/dicom/current/output/chtml/part10
    .. [2] DICOM PS3.4, B.5: https://dicom.nema.org/medical/dicom/current/output/chtml/part04
"""

import struct
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

MAGIC = b"DICM"
MAGIC_AT = 128
LONGEST_START = 4096
LONG_FORM = (b"OB", b"OW", b"UN", b"SQ", b"UT", b"OD", b"OF", b"OL", b"UC", b"UR")
SOP_CLASS = b"\x08\x00\x16\x00"
STORAGE = "1.2.840.10008.5.1.4.1.1."


class Kind(Enum):
    """What a DICOM file holds, as far as volumes are concerned."""

    SLICE = "slice"
    FRAMES = "multi-frame image"
    SEGMENTATION = "segmentation"
    OTHER = "something else"


KINDS = {
    Kind.SLICE: ("2", "4", "128", "7"),
    Kind.FRAMES: (
        *("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130", "7.2", "7.3", "30"),
        *("13.1.1", "13.1.2", "13.1.3", "6.2"),
    ),
    Kind.SEGMENTATION: ("66.4", "66.7"),
}
"""Ends of the storage classes of each kind."""

BY_CLASS = {f"{STORAGE}{end}": kind for kind, ends in KINDS.items() for end in ends}


def sop_class(path: Path) -> str | None:
    """What the file says it stores: a SOP class, empty if it keeps that to itself.

    Returns:
        None if ``path`` is no readable regular file of DICOM.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(LONGEST_START)
    except OSError:
        return None
    if start[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC:
        return _meta_class(start) or _found_class(start) or ""
    # without the magic, a first element of group 2 or 8 and a class after it leave no doubt
    if start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\0":
        return _found_class(start)
    return None


def kind_of(path: Path) -> Kind | None:
    """What kind of DICOM file this is, None if it is none."""
    uid = sop_class(path)
    if uid is None:
        return None
    return Kind.SLICE if uid == "" else BY_CLASS.get(uid, Kind.OTHER)


def why_none(path: Path) -> str:
    """Why a file that should be DICOM is of no kind, to be said after its name."""
    try:
        if path.stat().st_size == 0:
            return "is empty"
        with path.open("rb"):
            return "holds no DICOM"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def files_in(folder: Path) -> Iterator[Path]:
    """Regular files directly inside a folder, by name, without hidden ones.

    Raises:
        OSError: If the folder cannot be listed.
    """
    for entry in sorted(folder.iterdir()):
        try:
            if not entry.name.startswith(".") and entry.is_file():
                yield entry
        except OSError:
            continue


def holds_volume(folder: Path) -> bool:
    """Whether the DICOM files directly inside a folder make a volume: slices or one file."""
    try:
        kinds = [kind for file in files_in(folder) if (kind := kind_of(file))]
    except OSError:
        return False
    whole = sum(kind in (Kind.FRAMES, Kind.SEGMENTATION) for kind in kinds)
    return Kind.SLICE in kinds or whole == 1


def segmentation_in(folder: Path) -> Path | None:
    """The segmentation that a folder holds, if no image lies beside it."""
    found = None
    try:
        for file in files_in(folder):
            kind = kind_of(file)
            if kind in (Kind.SLICE, Kind.FRAMES):
                return None
            found = found or (file if kind is Kind.SEGMENTATION else None)
    except OSError:
        return None
    return found


def _meta_class(start: bytes) -> str | None:
    """Value of (0002,0002), whose group is always written little-endian with types."""
    place = MAGIC_AT + len(MAGIC)
    while place + 8 <= len(start):
        group, element, form = struct.unpack_from("<HH2s", start, place)
        if group != 2:
            return None
        if form in LONG_FORM:
            if place + 12 > len(start):
                return None
            head, length = 12, struct.unpack_from("<I", start, place + 8)[0]
        else:
            head, length = 8, struct.unpack_from("<H", start, place + 6)[0]
        if element == 2:
            return _uid(start[place + head : place + head + length])
        place += head + length
    return None


def _found_class(start: bytes) -> str | None:
    """Value of (0008,0016) near the start, with or without types."""
    place = start.find(SOP_CLASS)
    if place < 0 or place + 8 > len(start):
        return None
    typed = start[place + 4 : place + 6] == b"UI"
    form, offset = ("<H", 6) if typed else ("<I", 4)
    length = struct.unpack_from(form, start, place + offset)[0]
    return _uid(start[place + 8 : place + 8 + length]) if length <= 64 else None


def _uid(value: bytes) -> str | None:
    text = value.decode("ascii", "replace").strip("\0 ")
    return text if text and all(part.isdigit() for part in text.split(".")) else None
