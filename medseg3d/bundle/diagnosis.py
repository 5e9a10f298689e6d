"""What a file is that is given for a bundle and is none; it is only looked at, never unpacked."""

import pickletools
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader

from medseg3d.bundle.layout import CENTRAL, END, NAMES
from medseg3d.bundle.refusal import EXPORT, UnfitError

LOOK = 1 << 16
LARGEST_DIRECTORY = 1 << 20
ENCRYPTED = 1
BOMB = 100
MAY_RUN_CODE = "whose loading could run code"
OLD = "use the version that wrote it, or train again"
PICKLE = f"a Python pickle, {MAY_RUN_CODE}"

KINDS: dict[tuple[int, bytes], str] = {
    # how torch.save began before it wrote zips: a pickled magic number
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."): f"a PyTorch checkpoint, {MAY_RUN_CODE}",
    **{(0, bytes([0x80, protocol])): PICKLE for protocol in range(2, 6)},
    (257, b"ustar"): "a tar archive",
    (0, b"\x1f\x8b"): "a gzip file",
    (0, b"BZh"): "a bzip2 file",
    (0, b"\xfd7zXZ\x00"): "an xz file",
    (0, b"\x28\xb5\x2f\xfd"): "a zstandard file",
    (0, b"7z\xbc\xaf\x27\x1c"): "a 7z archive",
    (0, b"Rar!"): "a RAR archive",
    (0, b"\x89HDF"): "an HDF5 file, such as a Keras model",
    (0, b"\x93NUMPY"): "a NumPy array",
    (344, b"n+1\x00"): "a NIfTI image",
    (128, b"DICM"): "a DICOM file",
    (0, b"version https://git-lfs"): "a Git LFS pointer whose content was not downloaded",
}


@dataclass(frozen=True)
class Listed:
    """One entry of a zip's central directory, as it is claimed."""

    name: str
    is_encrypted: bool
    is_link: bool
    size: int


def recognized(file: BufferedReader, size: int) -> UnfitError:
    """Say what a file is that does not begin as a bundle.

    Args:
        file: The file, open for reading; about 1 MiB of it is read at most.
        size: Its bytes.
    """
    file.seek(0)
    head = file.read(LOOK)
    if not head:
        return UnfitError("an empty file")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02")):
        return _zip(file, size, head)
    for (place, start), kind in KINDS.items():
        if head.startswith(start, place):
            return UnfitError(f"{kind}, not a bundle", EXPORT)
    if _is_old_pickle(head, size):
        return UnfitError(f"{PICKLE}, not a bundle", EXPORT)
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and length <= size - 8 and head[8:9] == b"{":
        if b'"medseg3d"' in head:
            return UnfitError(
                "a model file of an earlier medseg3d, which this one cannot read", OLD
            )
        return UnfitError("bare safetensors weights, without plan and labels", EXPORT)
    if head.isascii() and b"\x00" not in head:
        begin = " ".join(head[:200].decode("ascii").split())
        return UnfitError(f"a text that begins {begin[:30]!r}, not a bundle", EXPORT)
    return UnfitError("not a bundle, nor of a kind that is known here", EXPORT)


def _is_old_pickle(head: bytes, size: int) -> bool:
    """Whether a small file is a pickle of protocol 0 or 1, which has no mark; nothing is run."""
    if size > len(head) or not head.endswith(b"."):
        return False
    try:
        last = [place for _, _, place in pickletools.genops(head)][-1]
    except Exception:  # whatever it says of bytes that are no pickle
        return False
    return last == size - 1 > 0


def _zip(file: BufferedReader, size: int, head: bytes) -> UnfitError:
    """Say what is wrong with a zip: the worst first."""
    listed = list(_listed(file, size))
    if not listed:
        return UnfitError("a truncated zip: its central directory is missing")
    if any(each.name.endswith("data.pkl") for each in listed):
        by = "Lightning" if b"pytorch-lightning_version" in head else "PyTorch"
        return UnfitError(f"a {by} checkpoint, {MAY_RUN_CODE}, not a bundle", EXPORT)
    for each in listed:
        fault = _fault(each)
        if fault:
            return UnfitError(f"a zip whose member {each.name[:80]!r} {fault}", EXPORT)
    name, count = Counter(each.name.casefold() for each in listed).most_common(1)[0]
    if count > 1:
        return UnfitError(f"a zip with {count} members that are all called {name[:80]!r}", EXPORT)
    unpacked = sum(each.size for each in listed)
    if unpacked > BOMB * size:
        return UnfitError(
            f"a zip of {size} bytes that says it unpacks to {unpacked}, not a bundle", EXPORT
        )
    others = [each.name for each in listed if each.name not in NAMES]
    if others:
        return UnfitError(f"a zip with the member {others[0][:80]!r}, not a bundle", EXPORT)
    return UnfitError(
        "a zip of a bundle's members that was packed again; only the file as medseg3d wrote it "
        "is trusted"
    )


def _fault(each: Listed) -> str:
    """What makes a member's name or kind unsafe to unpack, if anything does."""
    if each.name.startswith("/") or each.name[1:2] == ":":
        return "has an absolute path"
    if "\\" in each.name:
        return "has a backslash in its path"
    if ".." in each.name.split("/"):
        return "climbs out of its folder"
    if each.is_link:
        return "is a link"
    if each.is_encrypted:
        return "is encrypted"
    if each.name.endswith("/"):
        return "is a folder"
    return ""


def _listed(file: BufferedReader, size: int) -> Iterator[Listed]:
    """Entries of the central directory, as far as they can be read."""
    start = max(0, size - LOOK - END.size)
    file.seek(start)
    last = file.read(LOOK + END.size)
    place = last.rfind(b"PK\x05\x06")
    if place < 0 or place + END.size > len(last):
        return
    length, begin = END.unpack_from(last, place)[5:7]
    file.seek(begin)
    directory = file.read(min(length, LARGEST_DIRECTORY))
    place = 0
    while place + CENTRAL.size <= len(directory) and directory.startswith(b"PK\x01\x02", place):
        entry = CENTRAL.unpack_from(directory, place)
        flags, unpacked, lengths, attributes = entry[3], entry[9], entry[10:13], entry[15]
        name = directory[place + CENTRAL.size :][: lengths[0]].decode("utf-8", "replace")
        yield Listed(
            name=name,
            is_encrypted=bool(flags & ENCRYPTED),
            is_link=stat.S_ISLNK(attributes >> 16),
            size=unpacked,
        )
        place += CENTRAL.size + sum(lengths)
