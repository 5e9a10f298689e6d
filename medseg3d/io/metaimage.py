"""MetaImage, in one file (.mha) or with its voxels beside it (.mhd).

References:
    .. [1] https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.errors import DataError
from medseg3d.io.layout import REMEDY_FOR_TYPES, grid_of, spatial
from medseg3d.io.signatures import GZIP_MAGIC, NUM_BYTES
from medseg3d.io.streams import Packing, Stamp, open_stream, regular_size
from medseg3d.io.text_header import (
    LONGEST_HEADER,
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

NAME = "a MetaImage"
END = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][^\n]*(\n|\Z)", re.IGNORECASE | re.MULTILINE)
MOST_AXES = 10
KIND_OF = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "long": "i4",
    "ulong": "u4",
    "long_long": "i8",
    "ulong_long": "u8",
    "float": "f4",
    "double": "f8",
}
YES = ("true", "t", "1", "yes")
BIG_ENDIAN = ("binarydatabyteordermsb", "elementbyteordermsb")
SPACINGS = ("elementspacing", "elementsize")
DIRECTIONS = ("transformmatrix", "rotation", "orientation")
ORIGINS = ("offset", "position", "origin")


def parse(path: Path) -> tuple[Inspection, Layout, Stamp]:
    """Read the header and check that its voxels are there.

    Raises:
        DataError: If the header is broken or describes no volume.
    """
    text, end, stamp = read_header(path, END, NAME)
    header = _fields(path, text)
    expect_fields(path, header, "ndims", "dimsize", "elementtype", "elementdatafile")
    if header.get("objecttype", "image").lower() != "image":
        raise DataError(f"{path} holds a '{short(header['objecttype'])}'; expected an Image")
    (rank,) = integers(path, "NDims", header["ndims"], 1)
    if not 1 <= rank <= MOST_AXES:
        raise DataError(f"{path} declares {rank} dimensions; expected 1 to {MOST_AXES}")
    dims = integers(path, "DimSize", header["dimsize"], rank)
    shape, volumes = spatial(path, dims)
    (components,) = integers(
        path, "ElementNumberOfChannels", header.get("elementnumberofchannels", "1"), 1
    )
    if components < 1 or (components > 1 and volumes > 1):
        raise DataError(f"{path} holds {volumes} volumes of {components} components; expected one")
    layout = _layout(path, header, dims, components, end)
    expect_voxels(layout)
    notes: list[str] = []
    affine = _affine(path, header, rank, notes)
    grid = grid_of(path, shape, affine)
    inspection = Inspection(grid, components * volumes, Header("MetaImage"), tuple(notes))
    return inspection, layout, stamp


def files(path: Path) -> tuple[Path, ...]:
    """Files that hold the voxels.

    Raises:
        DataError: If the header is broken or names files outside its folder.
    """
    text, end, _ = read_header(path, END, NAME)
    return _files(path, _fields(path, text), end)


def _files(path: Path, header: dict[str, str], end: int) -> tuple[Path, ...]:
    expect_fields(path, header, "elementdatafile")
    named = header["elementdatafile"]
    if named.upper() == "LOCAL":
        return (path,)
    return data_files(path, named, _listed(path, end))


def _fields(path: Path, text: str) -> dict[str, str]:
    """Fields by their name in lower case."""
    header: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.replace(":", "=", 1 if "=" not in line else 0).partition("=")
        key = name.strip().lower()
        if key in header:
            raise DataError(f"{path} gives '{short(name.strip())}' twice; repair the header")
        header[key] = value.strip()
    if not {"ndims", "dimsize"} & header.keys():
        raise no_such_image(path, NAME, text[:NUM_BYTES].encode())
    return header


def _layout(
    path: Path, header: dict[str, str], dims: tuple[int, ...], components: int, end: int
) -> Layout:
    kind = header["elementtype"].lower().removeprefix("met_").removesuffix("_array")
    if kind not in KIND_OF:
        raise DataError(
            f"{path} has the unknown type '{short(header['elementtype'])}'; {REMEDY_FOR_TYPES}"
        )
    is_big = any(header.get(key, "").lower() in YES for key in BIG_ENDIAN)
    dtype: np.dtype[Any] = np.dtype(KIND_OF[kind]).newbyteorder(">" if is_big else "<")
    shape = (components, *dims)
    files = _files(path, header, end)
    expect_present(path, files)
    is_inside = files == (path,)
    text = header.get("binarydata", "true").lower() not in YES
    (skip,) = integers(path, "HeaderSize", header.get("headersize", "0"), 1)
    start = skip if skip > 0 else end if is_inside else 0
    packing: Packing = "raw"
    if header.get("compresseddata", "").lower() in YES:
        with open_stream(files[0], start=start) as stream:
            packing = "gzip" if stream.read(2) == GZIP_MAGIC else "zlib"
    elif skip == -1:
        share = prod(shape) * dtype.itemsize // len(files)
        start = max(0, regular_size(files[0]) - share)
    if skip < -1 or (skip == -1 and packing != "raw"):
        raise DataError(f"{path} has 'HeaderSize = {skip}'; expected 0 or more, or -1 for raw data")
    return Layout(files, dtype, shape, start=start, packing=packing, text=text)


def _listed(path: Path, end: int) -> list[str]:
    """Lines after the header, which name files where it says so."""
    with open_stream(path, start=end) as stream:
        return stream.read(LONGEST_HEADER).decode("utf-8", "replace").splitlines()


def _affine(path: Path, header: dict[str, str], rank: int, notes: list[str]) -> Affine:
    spacing = np.ones(rank)
    key = next((key for key in SPACINGS if key in header), None)
    if key is None:
        notes.append(f"{path} gives no spacing; 1 mm is assumed")
    else:
        spacing = spacing_of(path, numbers(path, key, header[key], rank)[:3])
    axes = np.eye(rank)
    key = next((key for key in DIRECTIONS if key in header), None)
    if key is None:
        notes.append(f"{path} knows no orientation; LPS is assumed")
    else:
        axes = numbers(path, key, header[key], rank * rank).reshape(rank, rank).T
    key = next((key for key in ORIGINS if key in header), None)
    origin = np.zeros(rank) if key is None else numbers(path, key, header[key], rank)
    for name, neutral in (("slope", 1.0), ("offset", 0.0)):
        key = f"elementtointensityfunction{name}"
        if key in header and numbers(path, key, header[key], 1)[0] != neutral:
            notes.append(f"{path} scales its voxels by '{key}', which is ignored as in ITK")
    return affine_of(axes[:3, :3] * spacing[:3], origin[:3])
