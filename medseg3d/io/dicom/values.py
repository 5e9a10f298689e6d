"""Values of DICOM data sets: numbers that may be absent, functional groups, quiet reading."""

import math
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pydicom.config

from medseg3d.errors import DataError
from medseg3d.machine import in_words, memory_limit

Values = Mapping[str, Any]

DEFLATED = b"1.2.840.10008.1.2.1.99"
LONGEST_META = 1024
META_LENGTH_AT = 140
CHUNK = 1 << 20
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "AccessionNumber")
"""What must not be said."""

SHORTEST_PART = 3
"""Characters of a name or number that give it away."""


def hush() -> None:
    """Keep pydicom from warning, since it quotes values that may be personal."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?|highdicom(\..*)?")


def expect_inflatable(file: Path) -> None:
    """Refuse a deflated data set that does not fit in memory, before it is inflated whole.

    Raises:
        DataError: With the limit.
    """
    try:
        with file.open("rb") as stream:
            if DEFLATED not in stream.read(LONGEST_META):
                return
            stream.seek(META_LENGTH_AT)
            stream.seek(META_LENGTH_AT + 4 + int.from_bytes(stream.read(4), "little"))
            found = sum(_inflated(stream))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except zlib.error as error:
        raise DataError(f"{file} is damaged: {error}; copy it again") from error
    if found > memory_limit():
        raise DataError(
            f"{file} unpacks to {in_words(found)}; this process has {in_words(memory_limit())}"
        )


def _inflated(stream: BinaryIO) -> Iterator[int]:
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    while not unpack.eof and (part := unpack.unconsumed_tail or stream.read(CHUNK)):
        yield len(unpack.decompress(part, 8 * CHUNK))


def number(values: Values, keyword: str, default: float | None = None) -> float | None:
    """A number, ``default`` where there is none, None where it is not finite."""
    value = values.get(keyword)
    if value is None or value == "":
        return default
    found = float(value)
    return found if math.isfinite(found) else None


def numbers(values: Values, keyword: str, count: int) -> tuple[float, ...] | None:
    """That many finite numbers, or None."""
    value = values.get(keyword)
    if value is None or isinstance(value, str) or len(value) != count:
        return None
    found = tuple(float(item) for item in value)
    return found if all(map(math.isfinite, found)) else None


def frames_of(header: Any) -> Iterator[Values]:
    """What holds for each frame: its own groups above the shared ones above the top level."""
    top = _flat(header)
    shared = _groups(header.get("SharedFunctionalGroupsSequence"))
    own = header.get("PerFrameFunctionalGroupsSequence")
    if own is None:
        yield top | shared
        return
    for item in own:
        yield top | shared | _groups([item])


def description_of(header: Any) -> str:
    """What the scanner calls the series, empty where that holds a part of a patient's data."""
    text = str(header.get("SeriesDescription") or "").strip()
    said = (text.casefold(), re.sub(r"[\W_]", "", text.casefold()))
    parts = {
        part
        for keyword in PATIENT
        for part in re.split(r"[\W_]+", str(header.get(keyword) or "").casefold())
        if len(part) >= SHORTEST_PART
    }
    is_safe = text.isprintable() and not any(part in each for part in parts for each in said)
    return text if is_safe else ""


def _flat(item: Any) -> dict[str, Any]:
    return {each.keyword: each.value for each in item if each.keyword and each.VR != "SQ"}


def _groups(items: Any) -> dict[str, Any]:
    """The values of all functional groups of one frame, as if they stood at the top."""
    flat: dict[str, Any] = {}
    for group in items[0] if items else ():
        if group.VR == "SQ" and len(group.value):
            flat |= _flat(group.value[0])
    return flat
