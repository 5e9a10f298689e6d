"""NRRD, in one file or with its voxels beside it.

References:
    .. [1] https://teem.sourceforge.net/nrrd/format.html
"""

import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.io.layout import REMEDY_FOR_TYPES, grid_of, spatial
from medseg3d.io.signatures import NUM_BYTES
from medseg3d.io.streams import FEED, Packing, Stamp, open_stream, regular_size
from medseg3d.io.text_header import (
    FLIP_LPS_RAS,
    affine_of,
    data_files,
    expect_fields,
    expect_present,
    integers,
    no_such_image,
    numbers,
    read_header,
    short,
    spacing_of,
)
from medseg3d.io.volume import Header, Inspection
from medseg3d.io.voxels import Layout, expect_voxels
from medseg3d.types import Affine

NAME = "an NRRD image"
END = re.compile(rb"\r?\n\r?\n")
MOST_AXES = 16
TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
KIND_OF = {name: kind for kind, names in TYPES.items() for name in names}
PACKINGS: dict[str, Packing] = {
    **dict.fromkeys(("raw", "txt", "text", "ascii", "hex"), "raw"),
    **dict.fromkeys(("gz", "gzip"), "gzip"),
    **dict.fromkeys(("bz2", "bzip2"), "bzip2"),
}
SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras", "rast"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las", "last"), np.diag([-1.0, 1.0, 1.0, 1.0])),
    **dict.fromkeys(("left-posterior-superior", "lps", "lpst"), FLIP_LPS_RAS),
}
WITHOUT_ANATOMY = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
SPACE_FIELDS = ("space", "spacedimension", "spacedirections", "spaceorigin")
SPATIAL_KINDS = ("domain", "space", "???", "none", "")
COLORS = ("rgb-color", "hsv-color", "xyz-color", "rgba-color", "3-color", "4-color")
MM = ("mm", "millimeter", "millimetre", "millimeters", "millimetres", "")


def parse(path: Path) -> tuple[Inspection, Layout, Stamp, tuple[int, ...]]:
    """Read the header and check that its voxels are there.

    Returns:
        Grid and channels, where the voxels are, the state of the header's file, and the
        stored axis that becomes each of I, J, K and then the channels.

    Raises:
        DataError: If the header is broken or describes no volume.
    """
    text, end, stamp = read_header(path, END, NAME)
    header, listed = _fields(path, text)
    expect_fields(path, header, "type", "dimension", "sizes", "encoding")
    (rank,) = integers(path, "dimension", header["dimension"], 1)
    if not 1 <= rank <= MOST_AXES:
        raise DataError(f"{path} declares {rank} dimensions; expected 1 to {MOST_AXES}")
    sizes = integers(path, "sizes", header["sizes"], rank)
    notes: list[str] = []
    vectors = _vectors(path, header, rank)
    order = _order(path, header, rank, vectors)
    shape, channels = spatial(path, tuple(sizes[axis] for axis in order))
    layout = _layout(path, header, listed, sizes, end)
    expect_voxels(layout)
    affine = _affine(path, header, order[:3], vectors, notes)
    inspection = Inspection(grid_of(path, shape, affine), channels, Header("NRRD"), tuple(notes))
    return inspection, layout, stamp, order


def files(path: Path) -> tuple[Path, ...]:
    """Files that hold the voxels.

    Raises:
        DataError: If the header is broken or names files outside its folder.
    """
    text, _, _ = read_header(path, END, NAME)
    return _files(path, *_fields(path, text))


def _files(path: Path, header: dict[str, str], listed: list[str]) -> tuple[Path, ...]:
    return data_files(path, header["datafile"], listed) if "datafile" in header else (path,)


def _fields(path: Path, text: str) -> tuple[dict[str, str], list[str]]:
    """Fields by name without spaces, and the lines after ``data file: LIST``."""
    lines = text.splitlines()
    if not re.fullmatch(r"NRRD\d{4}", lines[0] if lines else ""):
        raise no_such_image(path, NAME, text[:NUM_BYTES].encode())
    header: dict[str, str] = {}
    for place, line in enumerate(lines[1:], start=2):
        name, found, value = line.partition(":")
        if line.startswith("#") or not found or value.startswith("="):
            continue  # comments and free entries
        key = name.strip().lower().replace(" ", "")
        if key in header:
            raise DataError(f"{path} gives '{short(name)}' twice; repair the header")
        header[key] = value.strip()
        if key == "datafile" and value.split()[:1] == ["LIST"]:
            return header, lines[place:]
    return header, []


def _vectors(
    path: Path, header: dict[str, str], rank: int
) -> list[npt.NDArray[np.float64] | None] | None:
    """Step along each axis, None for axes that are not in space; None where nothing is said."""
    if "spacedirections" not in header:
        return None
    words = re.findall(r"none|\([^()]*\)|[^\s()]+", header["spacedirections"])
    if len(words) != rank:
        raise DataError(f"{path} has {len(words)} space directions for {rank} axes")
    vectors: list[npt.NDArray[np.float64] | None] = []
    for word in words:
        vector = None if word == "none" else _vector(path, "space directions", word)
        if vector is not None and vector.size == 4:
            if vector[3] and vector[:3].any():
                raise DataError(f"{path} has the space direction {short(word)}, across time")
            vector = None if vector[3] else vector[:3]
        vectors.append(vector)
    return vectors


def _vector(path: Path, key: str, word: str) -> npt.NDArray[np.float64]:
    """Three numbers in parentheses, or four where time is the fourth axis of the space."""
    inside = word.strip().strip("()").replace(",", " ")
    return numbers(path, key, inside, 4 if len(inside.split()) == 4 else 3)


def _order(
    path: Path,
    header: dict[str, str],
    rank: int,
    vectors: list[npt.NDArray[np.float64] | None] | None,
) -> tuple[int, ...]:
    """Axes in space, then the others."""
    kinds = header.get("kinds", "").lower().split() or [""] * rank
    if len(kinds) != rank:
        raise DataError(f"{path} has {len(kinds)} kinds for {rank} axes")
    if color := next((kind for kind in kinds if kind in COLORS), None):
        raise DataError(
            f"{path} holds colors ({color}), expected one number per voxel; "
            "save it with one gray value or label per voxel"
        )
    if "complex" in kinds:
        raise DataError(f"{path} holds complex numbers; expected real ones, such as the magnitude")
    if vectors is not None:
        inside = [axis for axis, vector in enumerate(vectors) if vector is not None]
        if len(inside) > 3:
            raise DataError(f"{path} has {len(inside)} axes in space; expected three")
    else:
        inside = [axis for axis, kind in enumerate(kinds) if kind in SPATIAL_KINDS]
    outside = [axis for axis in range(rank) if axis not in inside[:3]]
    if len(inside) < 3:
        lengths = tuple(integers(path, "sizes", header["sizes"], rank)[axis] for axis in inside)
        raise DataError(
            f"{path} is a {len(inside)}D image of shape {lengths}; expected a 3D volume"
        )
    return (*inside[:3], *outside)


def _layout(
    path: Path, header: dict[str, str], listed: list[str], sizes: tuple[int, ...], end: int
) -> Layout:
    if header["type"].lower() not in KIND_OF:
        raise DataError(
            f"{path} has the unknown data type '{short(header['type'])}'; {REMEDY_FOR_TYPES}"
        )
    dtype: np.dtype[Any] = np.dtype(KIND_OF[header["type"].lower()])
    encoding = header["encoding"].lower()
    if encoding not in PACKINGS:
        raise DataError(
            f"{path} has the unknown encoding '{short(encoding)}'; save it with raw or gzip"
        )
    text = encoding in ("txt", "text", "ascii")
    if dtype.itemsize > 1 and not text:
        endian = header.get("endian", "").lower()
        if endian not in ("little", "big"):
            raise DataError(f"{path} does not say whether its voxels are little or big endian")
        dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    files = _files(path, header, listed)
    expect_present(path, files)
    start = end if "datafile" not in header else 0
    (lines,) = integers(path, "line skip", header.get("lineskip", "0"), 1)
    (skip,) = integers(path, "byte skip", header.get("byteskip", "0"), 1)
    packing = PACKINGS[encoding]
    if lines > 0:
        start = _after_lines(files[0], start, lines)
    if skip < 0:
        if packing != "raw" or encoding != "raw":
            raise DataError(f"{path} counts bytes from the end of packed voxels, which none can")
        share = prod(sizes) * dtype.itemsize // len(files)
        skip = max(0, regular_size(files[0]) - start - share - (-skip - 1))
    return Layout(
        files,
        dtype,
        sizes,
        start=start,
        offset=skip,
        packing=packing,
        text=text,
        hexadecimal=encoding == "hex",
    )


def _after_lines(file: Path, start: int, count: int) -> int:
    """Where the bytes after ``count`` lines begin."""
    with open_stream(file, start=start) as stream:
        head = stream.read(FEED)
    place = 0
    for _ in range(min(count, FEED)):
        place = head.find(b"\n", place) + 1
        if place == 0:
            raise DataError(f"{file} has fewer than {count} lines before its voxels")
    return start + place


def _affine(
    path: Path,
    header: dict[str, str],
    axes: tuple[int, ...],
    vectors: list[npt.NDArray[np.float64] | None] | None,
    notes: list[str],
) -> Affine:
    units = re.findall(r'"([^"]*)"', header.get("spaceunits", ""))
    if odd := next((unit for unit in units if unit.lower() not in MM), None):
        notes.append(f"{path} gives lengths in '{short(odd)}'; mm are assumed")
    space = header.get("space", "").lower().removesuffix("-time")
    flips = SPACES.get(space, FLIP_LPS_RAS)
    if space not in SPACES:
        if space and space not in WITHOUT_ANATOMY:
            raise DataError(
                f"{path} has the space '{short(space)}'; expected one of "
                + ", ".join(list(SPACES)[::3])
            )
        notes.append(f"{path} knows no orientation; LPS is assumed")
    rank = integers(path, "dimension", header["dimension"], 1)[0]
    mins = _axis_mins(path, header, axes, rank)
    if vectors is not None:
        steps = np.stack([vector for axis in axes if (vector := vectors[axis]) is not None], axis=1)
        if not np.isfinite(steps).all() or not steps.any(axis=0).all():
            raise DataError(
                f"{path} has the space directions {steps.T.tolist()}; repair the header"
            )
        return affine_of(steps, _origin(path, header), flips)
    if "spacings" not in header:
        notes.append(f"{path} gives no spacing; 1 mm is assumed")
        return affine_of(np.eye(3), _origin(path, header), flips)
    lengths = numbers(path, "spacings", header["spacings"], rank)[list(axes)]
    spacing = spacing_of(path, lengths)
    if mins is None:
        return affine_of(np.diag(spacing), _origin(path, header), flips)
    halves = np.where(_on_nodes(path, header, axes, rank), 0.0, spacing / 2)
    return affine_of(np.diag(spacing), mins + halves, flips)


def _axis_mins(
    path: Path, header: dict[str, str], axes: tuple[int, ...], rank: int
) -> npt.NDArray[np.float64] | None:
    """Where the axes in space begin, None where nothing is said; doubtful places are refused."""
    if "axismins" not in header:
        return None
    mins = numbers(path, "axis mins", header["axismins"], rank)[list(axes)]
    if np.isnan(mins).all():
        return None
    if not np.isfinite(mins).all():
        raise DataError(f"{path} has the axis mins {mins.tolist()}; repair the header")
    if any(key in header for key in SPACE_FIELDS):
        raise DataError(f"{path} has both axis mins and a space; remove one from the header")
    if "spacings" not in header:
        raise DataError(f"{path} has axis mins without spacings; add the spacings to the header")
    if "axismaxs" in header:
        maxs = numbers(path, "axis maxs", header["axismaxs"], rank)[list(axes)]
        if (maxs < mins).any():
            raise DataError(f"{path} has axis maxs below its axis mins; repair the header")
    return mins


def _on_nodes(
    path: Path, header: dict[str, str], axes: tuple[int, ...], rank: int
) -> npt.NDArray[np.bool_]:
    """Whether an axis begins in the middle of its first voxel, not where that begins."""
    named = header.get("centers", header.get("centerings"))
    words = ["cell"] * rank if named is None else named.lower().split()
    if len(words) != rank or not {"cell", "node", "???", "none"}.issuperset(words):
        raise DataError(
            f"{path} has 'centers: {short(named or '')}'; expected cell or node for {rank} axes"
        )
    return np.array([words[axis] == "node" for axis in axes])


def _origin(path: Path, header: dict[str, str]) -> npt.NDArray[np.float64]:
    if "spaceorigin" not in header:
        return np.zeros(3)
    return _vector(path, "space origin", header["spaceorigin"])[:3]
