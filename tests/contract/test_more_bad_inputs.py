"""Broken and awkward files of every format, beyond those that ``bad_inputs.py`` makes.

Each is read right, or refused in one sentence that says what was found, by the command that
would use it: within 5 s and 2 GiB of memory, and with nothing written.
"""

import bz2
import gzip
import os
import re
import resource
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from typer.testing import CliRunner

from medseg3d import cli
from medseg3d.io import read_image, read_labels
from tests.limits import limited

SECONDS, BYTES = 5.0, 2 << 30

SHAPE = (6, 5, 4)
VOXELS = np.random.default_rng(0).integers(-300, 300, SHAPE).astype(np.int16)
LABELS = (VOXELS > 0).astype(np.uint8)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
RAW = VOXELS.tobytes(order="F")
ZEROS = gzip.compress(bytes(1 << 24), 9)
"""A gzip member of 16 MiB; several of them are one file."""


class Kind(NamedTuple):
    """A file to make, and what a command must do with it.

    Args:
        name: What it is.
        make: Writes it into an empty folder and returns its path.
        says: Pattern that the error, or the warning if one is due, must fit; empty where the
            file is fine and holds VOXELS.
        warns: Whether ``says`` is a warning.
        labels: Whether it is a label map.
    """

    name: str
    make: Callable[[Path], Path]
    says: str = ""
    warns: bool = False
    labels: bool = False


def nifti(
    *edits: tuple[int, str, Any], suffix: str = ".nii.gz", kind: Any = nib.Nifti1Image
) -> Any:
    """A NIfTI file with header bytes replaced: (offset, struct format, value)."""

    def make(folder: Path) -> Path:
        content = bytearray(kind(VOXELS, AFFINE).to_bytes())
        for place, code, value in edits:
            values = value if isinstance(value, tuple) else (value,)
            struct.pack_into(code, content, place, *values)
        return put(folder / f"a{suffix}", packed(bytes(content), suffix))

    return make


def array(values: Any, suffix: str = ".nii.gz", **header: Any) -> Any:
    def make(folder: Path) -> Path:
        image = nib.Nifti1Image(values, AFFINE, dtype=values.dtype)
        if "slope" in header:
            image.header.set_slope_inter(header["slope"], header.get("inter", 0))
        nib.save(image, folder / f"a{suffix}")
        return folder / f"a{suffix}"

    return make


def content(data: bytes, name: str = "a.nii.gz") -> Any:
    return lambda folder: put(folder / name, data)


def nrrd(data: bytes | None = RAW, *, name: str = "a.nrrd", drop: str = "", **fields: str) -> Any:
    """An NRRD file; None for ``data`` ends the header with nothing behind it."""
    header = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "6 5 4",
        "space directions": "(1,0,0) (0,1,0) (0,0,2)",
        "encoding": "raw",
        "endian": "little",
    } | {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key}: {value}" for key, value in header.items() if key != drop]
    text = "\n".join(["NRRD0004", *lines, ""])
    return content(text.encode() + b"\n" + (data or b""), name)


def meta(data: bytes | None = RAW, *, name: str = "a.mha", drop: str = "", **fields: str) -> Any:
    """A MetaImage file."""
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "DimSize": "6 5 4",
        "ElementType": "MET_SHORT",
        "ElementSpacing": "1 1 2",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "ElementDataFile": "LOCAL",
    } | fields
    header["ElementDataFile"] = header.pop("ElementDataFile")  # the last, as it must be
    lines = [f"{key} = {value}" for key, value in header.items() if key != drop]
    return content(("\n".join(lines) + "\n").encode() + (data or b""), name)


def mgh(*edits: tuple[int, str, Any], suffix: str = ".mgz", cut: int | None = None) -> Any:
    def make(folder: Path) -> Path:
        data = bytearray(nib.MGHImage(VOXELS, AFFINE).to_bytes())
        for place, code, value in edits:
            struct.pack_into(code, data, place, value)
        return put(folder / f"a{suffix}", packed(bytes(data[:cut]), suffix))

    return make


def gipl(*edits: tuple[int, str, Any], suffix: str = ".gipl", cut: int | None = None) -> Any:
    def make(folder: Path) -> Path:
        image = sitk.GetImageFromArray(np.ascontiguousarray(VOXELS.T))
        image.SetSpacing((1.0, 1.0, 2.0))
        sitk.WriteImage(image, str(folder / "whole.gipl"))
        data = bytearray((folder / "whole.gipl").read_bytes())
        (folder / "whole.gipl").unlink()
        for place, code, value in edits:
            struct.pack_into(code, data, place, value)
        return put(folder / f"a{suffix}", packed(bytes(data[:cut]), suffix))

    return make


def beside(make: Any, **files: bytes) -> Any:
    """What ``make`` makes, with other files beside it; ``_`` in a name stands for a dot."""

    def both(folder: Path) -> Path:
        for name, data in files.items():
            put(folder / name.replace("_", "."), data)
        return Path(make(folder))

    return both


def linked(make: Any, name: str, target: str) -> Any:
    """What ``make`` makes, with a link beside it that leads out of the folder."""

    def both(folder: Path) -> Path:
        put(folder.parent / f"{folder.name}_secret.raw", RAW)
        (folder / name).symlink_to(target.format(secret=f"../{folder.name}_secret.raw"))
        return Path(make(folder))

    return both


def special(kind: str, make: Any = None, name: str = "a.nii.gz") -> Any:
    """A pipe, socket or device of an image's name."""

    def build(folder: Path) -> Path:
        path = folder / name
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            here = os.open(folder, os.O_RDONLY)  # the name of a socket must be short
            try:
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(f"/proc/self/fd/{here}/{name}")
            finally:
                os.close(here)
        return Path(make(folder)) if make else path

    return build


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def packed(data: bytes, suffix: str) -> bytes:
    return gzip.compress(data) if suffix.endswith(("gz",)) else data


def rotten(data: bytes, place: float = 0.6) -> bytes:
    """One bit wrong."""
    changed = bytearray(data)
    changed[int(len(data) * place)] ^= 0x10
    return bytes(changed)


def nifti_bytes(shape: tuple[int, ...] = SHAPE, dtype: Any = np.uint8) -> bytes:
    """A header that declares this shape, and the four bytes after it."""
    header = nib.Nifti2Header() if max(shape) > 32767 else nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(AFFINE, 1)
    header["vox_offset"] = len(header.binaryblock) + 4
    header["magic"] = b"n+2" if max(shape) > 32767 else b"n+1"
    return header.binaryblock + bytes(4)


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.nii", "w") as archive:
        archive.writestr("a.nii", RAW)
    return folder / "a.nii"


WHOLE = nib.Nifti1Image(VOXELS, AFFINE).to_bytes()
PAIR = nib.Nifti1Pair(VOXELS, AFFINE)
PAIR_HEADER = PAIR.header.binaryblock + bytes(4)
TEXT = " ".join(str(value) for value in VOXELS.ravel(order="F")).encode()
SLICES = {f"s{k}_raw": VOXELS[..., k].tobytes(order="F") for k in range(SHAPE[2])}
LIST = "\n".join(f"s{k}.raw" for k in range(SHAPE[2])).encode() + b"\n"
NRRD_TEXT = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\n\n"
META_TEXT = b"NDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
MGH = nib.MGHImage(VOXELS, AFFINE).to_bytes()

KINDS = (
    # NIfTI: streams
    Kind("gz_bit_rot", content(rotten(gzip.compress(WHOLE, 1))), "damaged|cut short"),
    Kind("gz_bit_rot_stored", content(rotten(gzip.compress(WHOLE, 0), 0.9)), "damaged"),
    Kind("gz_cut_in_footer", content(gzip.compress(WHOLE)[:-2]), "cut short"),
    Kind("gz_padded", content(gzip.compress(WHOLE) + bytes(700))),
    Kind(
        "gz_bomb_consistent",
        content(gzip.compress(nifti_bytes((2048, 2048, 600))) + 160 * ZEROS),
        r"needs 1\d\.\d GiB of memory and \d",
    ),
    Kind(
        "gz_bomb_after_the_voxels",
        content(gzip.compress(WHOLE) + 40 * ZEROS),
        "unpacks to more than 6",
    ),
    Kind(
        "gz_of_very_many_members",
        content(gzip.compress(WHOLE) + 250_000 * gzip.compress(b"", 1)),
        "damaged.*parts",
    ),
    Kind("bzip2_renamed", content(bz2.compress(WHOLE)), "bzip2"),
    Kind("zip_renamed", zipped, "zip archive"),
    Kind(
        "lfs_pointer", content(b"version https://git-lfs.github.com/spec/v1\noid", "a.nii"), "LFS"
    ),
    Kind("zeros", content(bytes(5000), "a.nii"), "zeros"),
    # NIfTI: headers
    Kind("vox_offset_nan", nifti((108, "<f", np.nan)), "byte nan"),
    Kind("vox_offset_negative", nifti((108, "<f", -352.0)), "byte -352"),
    Kind("vox_offset_huge", nifti((108, "<f", 3e38)), "byte|bytes"),
    Kind("slope_zero", nifti((112, "<2f", (0.0, 5.0)))),
    Kind("slope_nan", nifti((112, "<2f", (np.nan, 0.0))), "scales its voxels"),
    Kind("inter_inf", nifti((112, "<2f", (2.0, np.inf))), "scales its voxels"),
    Kind("affine_huge", nifti((280, "<12f", (3e38,) * 12)), "affine|voxels of"),
    Kind("affine_tiny", nifti((280, "<12f", (1e-45,) * 12)), "affine|voxels of"),
    Kind(
        "spacing_absurd",
        nifti((280, "<12f", (1e-6, 0, 0, 0, 0, 1e-6, 0, 0, 0, 0, 1e-6, 0))),
        "1e-06",
    ),
    Kind("origin_far_away", nifti((292, "<f", 1e9)), "from the origin"),
    Kind("quaternion_nan", nifti((252, "<2h", (1, 0)), (256, "<f", np.nan)), "qform|affine"),
    Kind(
        "quaternion_too_long", nifti((252, "<2h", (1, 0)), (256, "<3f", (3.0, 3.0, 3.0))), "qform"
    ),
    Kind("eight_dimensions", nifti((40, "<h", 8)), "8 dimensions"),
    Kind("five_axes", nifti((40, "<8h", (5, 3, 2, 5, 2, 2, 1, 1))), "5 axes|volumes|channels"),
    Kind("one_bit_per_voxel", nifti((70, "<2h", (1, 1))), "no numbers"),
    Kind("complex256", nifti((70, "<2h", (2048, 256))), "complex|no numbers"),
    Kind("rgba", nifti((70, "<2h", (2304, 32))), "colors"),
    Kind(
        "nifti2_dims_overflow",
        nifti((16, "<4q", (3, 1 << 40, 1 << 40, 1)), kind=nib.Nifti2Image),
        "declares",
    ),
    Kind(
        "nifti2_dims_negative",
        nifti((16, "<2q", (3, -(1 << 62))), kind=nib.Nifti2Image),
        "dimensions",
    ),
    Kind(
        "nifti2_cut_header",
        content(nib.Nifti2Image(VOXELS, AFFINE).to_bytes()[:400], "a.nii"),
        "not a NIfTI",
    ),
    Kind("extension_of_absurd_size", nifti((348, "<4B", (1, 0, 0, 0)))),
    Kind("pair_data_short", beside(content(PAIR_HEADER, "a.hdr"), a_img=RAW[:-1]), "cut short"),
    Kind("pair_data_pipe", special("pipe", content(PAIR_HEADER, "a.hdr"), "a.img"), "regular file"),
    Kind("pair_named_nii", content(PAIR_HEADER + RAW, "a.nii"), "NIfTI pair|byte 0"),
    # one format named as another
    Kind("nrrd_named_nii", content(NRRD_TEXT + RAW, "a.nii"), "NRRD.*rename"),
    Kind("nrrd_named_mha", content(NRRD_TEXT + RAW, "a.mha"), "NRRD.*rename"),
    Kind("nrrd_named_mgz", content(gzip.compress(NRRD_TEXT + RAW), "a.mgz"), "NRRD.*rename"),
    Kind(
        "mha_named_nrrd",
        content(b"ObjectType = Image\n" + META_TEXT + RAW, "a.nrrd"),
        "MetaImage.*rename",
    ),
    Kind("mha_named_nii_gz", content(META_TEXT + RAW), "MetaImage"),
    Kind("mgh_named_nii", content(MGH, "a.nii"), "FreeSurfer.*rename"),
    Kind("mgh_named_mha", content(MGH, "a.mha"), "FreeSurfer.*rename"),
    Kind("mgz_named_nii", content(gzip.compress(MGH), "a.nii"), "gzip.*FreeSurfer"),
    Kind("nii_named_nrrd", content(WHOLE, "a.nrrd"), "NIfTI.*rename"),
    Kind("nii_named_mgh", content(WHOLE, "a.mgh"), "NIfTI.*rename"),
    Kind("nii_named_gipl", content(WHOLE, "a.gipl"), "NIfTI.*rename"),
    Kind("nii_gz_named_mha", content(gzip.compress(WHOLE), "a.mha"), "gzip.*NIfTI"),
    Kind("gipl_named_mgh", lambda folder: gipl()(folder).rename(folder / "a.mgh"), "GIPL.*rename"),
    # NRRD
    Kind("nrrd_whole", nrrd()),
    Kind("nrrd_big_endian", nrrd(VOXELS.astype(">i2").tobytes(order="F"), endian="big")),
    Kind("nrrd_gzip", nrrd(gzip.compress(RAW), encoding="gzip")),
    Kind("nrrd_gzip_rot", nrrd(rotten(gzip.compress(RAW)), encoding="gzip"), "damaged|cut short"),
    Kind("nrrd_bzip2", nrrd(bz2.compress(RAW), encoding="bzip2")),
    Kind("nrrd_bzip2_rot", nrrd(rotten(bz2.compress(RAW)), encoding="bzip2"), "damaged"),
    Kind("nrrd_text", nrrd(TEXT, encoding="ascii")),
    Kind("nrrd_text_cut", nrrd(TEXT[:200], encoding="ascii"), "cut short"),
    Kind("nrrd_text_words", nrrd(TEXT[:-6] + b" three", encoding="ascii"), "not all its voxels"),
    Kind("nrrd_text_too_large", nrrd(TEXT[:-4] + b" 40000", encoding="ascii"), "int16 cannot hold"),
    Kind("nrrd_hex", nrrd(RAW.hex().encode(), encoding="hex")),
    Kind("nrrd_sizes_huge", nrrd(sizes="60000 60000 60000"), "declares 432000000000000 bytes"),
    Kind("nrrd_sizes_overflow", nrrd(sizes=f"{1 << 62} 4 {1 << 40}"), "expected 3 integers"),
    Kind("nrrd_sizes_negative", nrrd(sizes="6 -5 4"), "dimensions"),
    Kind("nrrd_sizes_endless", nrrd(sizes="6" * 1_000_000), "expected 3 integers"),
    Kind("nrrd_sizes_twice", nrrd(sizes="6 5 4\nsizes: 4 5 6"), "twice"),
    Kind("nrrd_without_sizes", nrrd(drop="sizes"), "lacks sizes"),
    Kind("nrrd_without_endian", nrrd(drop="endian"), "little or big endian"),
    Kind("nrrd_dimension_99", nrrd(dimension="99"), "99 dimensions"),
    Kind("nrrd_flat", nrrd(dimension="2", sizes="6 20", space_directions="(1,0,0) (0,1,0)"), "2D"),
    Kind("nrrd_type_block", nrrd(type="block"), "unknown data type"),
    Kind("nrrd_encoding_odd", nrrd(encoding="zstd"), "unknown encoding"),
    Kind(
        "nrrd_direction_nan", nrrd(space_directions="(nan,0,0) (0,1,0) (0,0,2)"), "space directions"
    ),
    Kind(
        "nrrd_direction_zero", nrrd(space_directions="(0,0,0) (0,1,0) (0,0,2)"), "space directions"
    ),
    Kind("nrrd_direction_none", nrrd(space_directions="none (0,1,0) (0,0,2)"), "2D image"),
    Kind("nrrd_direction_short", nrrd(space_directions="(1,0) (0,1) (0,2)"), "expected 3 numbers"),
    Kind("nrrd_without_space", nrrd(drop="space"), "no orientation", warns=True),
    Kind("nrrd_spacing_zero", nrrd(drop="space directions", spacings="1 0 2"), "spacing"),
    Kind(
        "nrrd_colors",
        nrrd(
            dimension="4",
            sizes="3 2 5 4",
            kinds="RGB-color domain domain domain",
            space_directions="none (1,0,0) (0,1,0) (0,0,2)",
        ),
        "colors",
    ),
    Kind(
        "nrrd_header_endless",
        content(b"NRRD0004\n" + b"# more\n" * 700_000, "a.nrrd"),
        "not an NRRD",
    ),
    Kind("nrrd_skip_absurd", nrrd(byte_skip=str(1 << 40)), "bytes"),
    Kind("nrrd_skip_from_end", nrrd(bytes(9) + RAW, byte_skip="-1")),
    Kind("nrrd_line_skip", nrrd(b"a\nb\n" + RAW, line_skip="2")),
    Kind("nrrd_line_skip_endless", nrrd(line_skip="9999999"), "fewer than 9999999 lines"),
    Kind(
        "nrrd_list",
        beside(content(NRRD_TEXT[:-1] + b"data file: LIST\n" + LIST, "a.nhdr"), **SLICES),
        "no orientation",
        warns=True,
    ),
    Kind(
        "nrrd_list_missing",
        content(NRRD_TEXT[:-1] + b"data file: LIST\n" + LIST, "a.nhdr"),
        "needs its data file s0.raw and 3 others",
    ),
    Kind("nrrd_pattern", beside(nrrd(None, name="a.nhdr", data_file="s%d.raw 0 3 1"), **SLICES)),
    Kind(
        "nrrd_pattern_endless",
        nrrd(None, name="a.nhdr", data_file="s%03d.raw 0 999999999 1"),
        "1 to 10000",
    ),
    Kind(
        "nrrd_pattern_string",
        nrrd(None, name="a.nhdr", data_file="s%s%n.raw 0 3 1"),
        "does not exist",
    ),
    Kind(
        "nrrd_path_escape",
        nrrd(None, name="a.nhdr", data_file="../../secret.raw"),
        "outside its own folder",
    ),
    Kind(
        "nrrd_path_absolute",
        nrrd(None, name="a.nhdr", data_file="/etc/passwd"),
        "outside its own folder",
    ),
    Kind(
        "nrrd_link_escape",
        linked(nrrd(None, name="a.nhdr", data_file="a.raw"), "a.raw", "{secret}"),
        "outside its own folder",
    ),
    # MetaImage
    Kind("mha_whole", meta()),
    Kind("mha_zlib", meta(zlib.compress(RAW), CompressedData="True")),
    Kind(
        "mha_zlib_rot", meta(rotten(zlib.compress(RAW)), CompressedData="True"), "damaged|cut short"
    ),
    Kind(
        "mha_zlib_bomb",
        meta(zlib.compress(bytes(1 << 22), 9), CompressedData="True", DimSize="9000 9000 9000"),
        "declares",
    ),
    Kind("mha_text", meta(TEXT, BinaryData="False")),
    Kind(
        "mha_big_endian",
        meta(VOXELS.astype(">i2").tobytes(order="F"), BinaryDataByteOrderMSB="True"),
    ),
    Kind("mha_junk_after", meta(RAW + b"junk"), "bytes after its voxels", warns=True),
    Kind("mha_spacing_negative", meta(ElementSpacing="1 -1 2"), "spacing"),
    Kind("mha_spacing_nan", meta(ElementSpacing="1 nan 2"), "spacing"),
    Kind("mha_spacing_none", meta(drop="ElementSpacing"), "no spacing", warns=True),
    Kind("mha_matrix_singular", meta(TransformMatrix="1 0 0 1 0 0 0 0 1"), "singular"),
    Kind("mha_matrix_nan", meta(TransformMatrix="1 0 0 0 nan 0 0 0 1"), "not finite"),
    Kind("mha_matrix_missing", meta(drop="TransformMatrix"), "no orientation", warns=True),
    Kind("mha_ndims_99", meta(NDims="99"), "99 dimensions"),
    Kind("mha_dims_fewer", meta(DimSize="6 5"), "expected 3 integers"),
    Kind("mha_dims_zero", meta(DimSize="6 0 4"), "dimensions"),
    Kind("mha_type_odd", meta(ElementType="MET_STRING"), "unknown type"),
    Kind("mha_mesh", meta(ObjectType="Mesh"), "expected an Image"),
    Kind("mha_header_size_absurd", meta(HeaderSize=str(1 << 50)), "declares"),
    Kind(
        "mha_components_of_volumes",
        meta(
            NDims="4",
            DimSize="3 5 2 2",
            ElementNumberOfChannels="2",
            ElementSpacing="1 1 1 1",
            TransformMatrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        ),
        "components",
    ),
    Kind(
        "mhd_header_size_from_end",
        beside(
            meta(None, name="a.mhd", ElementDataFile="b.raw", HeaderSize="-1"),
            b_raw=bytes(77) + RAW,
        ),
    ),
    Kind("mhd_list", beside(meta(LIST, name="a.mhd", ElementDataFile="LIST"), **SLICES)),
    Kind(
        "mhd_list_missing",
        meta(LIST, name="a.mhd", ElementDataFile="LIST"),
        "needs its data file s0.raw",
    ),
    Kind(
        "mhd_pattern", beside(meta(None, name="a.mhd", ElementDataFile="s%01d.raw 0 3 1"), **SLICES)
    ),
    Kind(
        "mhd_pattern_missing",
        meta(None, name="a.mhd", ElementDataFile="s%03d.raw 1 4 1"),
        "s001.raw",
    ),
    Kind(
        "mhd_part_short",
        beside(meta(LIST, name="a.mhd", ElementDataFile="LIST"), **SLICES | {"s2_raw": RAW[:9]}),
        "s2.raw is cut short",
    ),
    Kind(
        "mhd_parts_uneven",
        beside(meta(b"s0.raw\n" * 7, name="a.mhd", ElementDataFile="LIST"), **SLICES),
        "evenly",
    ),
    Kind(
        "mhd_path_escape",
        meta(None, name="a.mhd", ElementDataFile="../../secret.raw"),
        "outside its own folder",
    ),
    Kind(
        "mhd_path_device",
        meta(None, name="a.mhd", ElementDataFile="/dev/zero"),
        "outside its own folder",
    ),
    Kind(
        "mhd_link_escape",
        linked(meta(None, name="a.mhd", ElementDataFile="b.raw"), "b.raw", "{secret}"),
        "outside its own folder",
    ),
    Kind(
        "mhd_is_its_own_data", meta(None, name="a.mhd", ElementDataFile="a.mhd"), "cut short|bytes"
    ),
    Kind(
        "mhd_data_is_a_pipe",
        special("pipe", meta(None, name="a.mhd", ElementDataFile="b.raw"), "b.raw"),
        "regular",
    ),
    Kind(
        "mhd_data_is_the_folder",
        meta(None, name="a.mhd", ElementDataFile="."),
        "outside its own folder",
    ),
    # FreeSurfer and GIPL
    Kind("mgz_cut", mgh(cut=500), "cut short"),
    Kind("mgh_cut_header", mgh(suffix=".mgh", cut=100), "FreeSurfer"),
    Kind("mgz_dims_huge", mgh((4, ">i", 1 << 30)), "declares"),
    Kind("mgz_dims_negative", mgh((8, ">i", -5)), "dimensions"),
    Kind("mgz_type_odd", mgh((20, ">i", 77)), "unknown data type"),
    Kind("mgz_spacing_zero", mgh((30, ">f", 0.0)), "spacing"),
    Kind("mgz_without_geometry", mgh((28, ">h", 0)), "LIA", warns=True),
    Kind("gipl_whole", gipl(), "no orientation", warns=True),
    Kind("gipl_gz_cut", gipl(suffix=".gipl.gz", cut=300), "cut short"),
    Kind("gipl_dims_zero", gipl((2, ">H", 0)), "dimensions"),
    Kind("gipl_type_odd", gipl((8, ">H", 3)), "unknown data type"),
    Kind("gipl_spacing_nan", gipl((10, ">f", np.nan)), "spacing"),
    Kind("gipl_without_magic", gipl((252, ">I", 0)), "no GIPL signature"),
    # what is no file
    Kind("named_pipe", special("pipe"), "regular file"),
    Kind("named_socket", special("socket"), "regular file"),
    Kind("link_to_a_device", special("device"), "regular file"),
    # labels
    Kind("label_int64_small", array(LABELS.astype(np.int64)), labels=True),
    Kind("label_slightly_negative", array(LABELS - np.float32(4e-4)), labels=True),
    Kind(
        "label_int64_wide", array(np.where(LABELS, 2**53 + 1, 0)), f"label {2**53 + 1}", labels=True
    ),
    Kind(
        "label_uint64_wide",
        array(np.where(LABELS, np.uint64(2**64 - 44), np.uint64(0))),
        f"label {2**64 - 44}",
        labels=True,
    ),
    Kind(
        "label_float_wide",
        array(np.where(LABELS, 1e30, 0.0)),
        "label 1000000000000000",
        labels=True,
    ),
    Kind("label_inf", array(np.where(LABELS, np.inf, 0.0)), "inf", labels=True),
    Kind("label_beyond_rounding", array(LABELS * 1.002), "between labels", labels=True),
    Kind("label_complex", array(LABELS.astype(np.complex64)), "complex", labels=True),
)

NAMES = (
    "a[1]?*.nii.gz",
    "a b\u00a0c.nii.gz",
    "a;$(touch x)'.nii.gz",
    "a%s%n.nii.gz",
    "a\u0301.NII",
)


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Let this process map no more than BYTES beyond what it has."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_every_kind_is_right_or_refused(kind: Kind, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = kind.make(tmp_path / "in")
    files = [file.name for file in path.parent.iterdir()]
    around = set(tmp_path.rglob("*"))
    if kind.labels:
        words = ("score", path, path, "-o", tmp_path / "out.csv")
    else:
        words = ("predict", path, "-m", tiny_model, "-o", tmp_path / "out.nii.gz")
    with limited(SECONDS):
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
    told = result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    assert re.search(kind.says, result.stderr), told
    if kind.says and not kind.warns:
        assert result.exit_code == 1, told
        assert [line[:11] for line in result.stderr.splitlines()].count(
            "medseg3d " + words[0][:2]
        ) == 1
        assert any(name in result.stderr for name in files), told
        assert len(result.stderr) < 1500 + 5 * len(str(tmp_path)), told
        assert set(tmp_path.rglob("*")) == around
        return
    assert result.exit_code == 0, told
    if kind.warns:
        assert re.search(rf"warning: .*({kind.says})", result.stderr), told
    if kind.labels:
        np.testing.assert_array_equal(read_labels(path).labels, LABELS)
    else:
        np.testing.assert_array_equal(read_image(path).array, VOXELS[None])
        assert nib.load(tmp_path / "out.nii.gz").shape == SHAPE


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_odd_names_are_only_names(name: str, tiny_model: Path, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(VOXELS, AFFINE), tmp_path / "t.nii")
    data = packed((tmp_path / "t.nii").read_bytes(), Path(name).suffix)
    (tmp_path / "t.nii").unlink()
    path = put(tmp_path / name, data)
    result = CliRunner().invoke(cli.app, ["predict", str(path), "-m", str(tiny_model)])
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.iterdir())) == 2


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        folder.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        nifti(suffix="")(folder).rename(folder / name)
        (folder / name).write_bytes(packed((folder / name).read_bytes(), name))
    return folder


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a.nii.gz", "A.nii.gz"), r"A\.nii\.gz and \S*a\.nii\.gz differ by letter case"),
        (("a_0000.nii.gz", "a_0002.nii.gz"), "a_0001"),
        (("a.nii.gz", "._a.nii.gz", ".DS_Store", "a.nii.gz.part", "a.nii.gz~"), ""),
        (("a.nii.gz", "loop"), ""),
    ],
    ids=["ids_differ_by_letter_case", "channel_hole", "junk_next_to_data", "symlink_dir_loop"],
)
def test_folders_of_odd_content(
    names: tuple[str, ...], says: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "in", *(name for name in names if name != "loop"))
    if "loop" in names:
        (folder / "loop").symlink_to("../in")
    out = tmp_path / "out"
    words = ["predict", folder, "-m", tiny_model, "-o", out]
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert re.search(says, result.output)
    assert result.exit_code == int(bool(says)), result.output
    assert out.exists() is not bool(says)
    if not says:
        assert sorted(file.name for file in out.iterdir()) == ["a.nii.gz", "predictions.json"]
