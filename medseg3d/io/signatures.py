"""What a file is, whatever its name says, told by its first bytes."""

import string
from collections.abc import Callable

GZIP_MAGIC = b"\x1f\x8b"
NUM_BYTES = 1024
"""As many first bytes as every signature here needs."""

RENAMED = (
    (b"NRRD000", "an NRRD image; rename it to .nrrd"),
    (b"ObjectType", "a MetaImage; rename it to .mha"),
    (b"NDims", "a MetaImage; rename it to .mha"),
)
FOREIGN = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF", "an HDF5 file, perhaps MINC"),
    (b"CDF\x01", "a NetCDF file, perhaps MINC"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"MATLAB", "a MATLAB file"),
    (b"BZh", "bzip2 data; unpack it"),
    (b"\xfd7zXZ", "xz data; unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstd data; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)
GIPL_MAGICS = (b"\xef\xff\xe9\xb0", b"\x2a\xe3\x89\xb8")


def looks_like(head: bytes) -> str | None:
    r"""What a file that begins with ``head`` is, and what to do with it where that is known.

    Examples:
        >>> looks_like(b"NRRD0004\n")
        'an NRRD image; rename it to .nrrd'
        >>> looks_like(b"\x00\x01\x02") is None
        True
    """
    for magic, name in RENAMED + FOREIGN:
        if head.startswith(magic):
            return name
    if head.startswith(GZIP_MAGIC):
        return "gzip data"
    return next((name for is_it, name in STRUCTURES if is_it(head)), None)


def _is_dicom(head: bytes) -> bool:
    # without its preamble a file begins with an element of group 2 or 8 of a known kind
    bare = head[:4] in (b"\x02\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
    return head[128:132] == b"DICM" or (bare and head[4:6].isalpha())


def _is_web_page(head: bytes) -> bool:
    return _text(head).startswith((b"<!doctype html", b"<html", b"<?xml"))


def _is_volume(head: bytes) -> bool:
    """Whether this is FreeSurfer's version 1, four lengths and a known number type."""
    if len(head) < 28 or head[:4] != b"\0\0\0\1":
        return False
    lengths = [int.from_bytes(head[place : place + 4], "big") for place in (4, 8, 12, 16)]
    return all(0 < length < 1 << 20 for length in lengths)


def _is_plain_text(head: bytes) -> bool:
    return bool(head) and all(chr(byte) in string.printable for byte in head)


def _text(head: bytes) -> bytes:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()


STRUCTURES: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (_is_dicom, "DICOM; give the folder of the series or rename it"),
    (
        lambda head: _text(head).startswith(b"version https://git-lfs"),
        "a Git LFS pointer; fetch the file with 'git lfs pull'",
    ),
    (_is_web_page, "a web page, perhaps a failed download"),
    (
        lambda head: head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0",
        "an uncompressed NIfTI image; rename it to .nii",
    ),
    (
        lambda head: head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0",
        "the header of a NIfTI pair; rename it to .hdr",
    ),
    (_is_volume, "a FreeSurfer volume; rename it to .mgh"),
    (lambda head: head[252:256] in GIPL_MAGICS, "a GIPL image; rename it to .gipl"),
    (
        lambda head: len(head) == 348 and head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"),
        "an ANALYZE header; rename it to .hdr",
    ),
    (lambda head: len(head) > 64 and not any(head), "nothing but zeros"),
    (_is_plain_text, "text"),
)
"""Tests in their order, the surest first."""
