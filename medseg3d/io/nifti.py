"""NIfTI-1, NIfTI-2 and ANALYZE 7.5: header by nibabel, voxels read and checked here.

References:
    .. [1] https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    .. [2] https://nifti.nimh.nih.gov/pub/dist/doc/nifti2.h
"""

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.analyze import AnalyzeHeader
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io.atomic import atomic
from medseg3d.io.layout import REMEDY_FOR_TYPES, channels_first, grid_of, plain_dtype, spatial
from medseg3d.io.packing import Sink, gzipped
from medseg3d.io.signatures import NUM_BYTES, looks_like
from medseg3d.io.streams import Packing, Stamp, expect_unchanged, open_stream
from medseg3d.io.volume import Header, Inspection, Stored
from medseg3d.io.voxels import Layout, expect_voxels, read_voxels
from medseg3d.types import Affine, Size3

SIZE_1, SIZE_2 = 348, 540
EXTENSION_FLAG = 4
"""Bytes after the header that say whether extensions follow."""

LABEL_INTENT = 1002
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres per spatial unit, by the lowest three bits of ``xyzt_units``."""

UNITS = {1: "meters", 3: "microns"}

FINEST = 0.01
"""Voxel size in mm below which lengths in microns are likely to be in mm."""

UNSUPPORTED = {
    0: "unknown",
    1: "binary, no numbers",
    255: "all",
    1536: "float128",
    2048: "complex256",
}
"""Data types that have a code, but no numbers that every machine can read."""

GEOMETRY = (
    *("xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
"""Header fields that travel from a source to its outputs, with ``pixdim[:4]``."""

EXACT_FLOAT32 = 2**24
FLOAT32_MAX = float(np.finfo(np.float32).max)
PART = 1 << 20
WRITTEN_AT_ONCE = 16 << 20
"""Bytes of voxels that are put in the order of the file at a time."""


@dataclass(frozen=True)
class _Parsed:
    inspection: Inspection
    layout: Layout
    header_path: Path
    stamp: Stamp
    slope: float
    inter: float


def inspect(path: Path) -> Inspection:
    """Read the header only."""
    return _parse(path).inspection


def read(path: Path) -> Stored:
    """Read voxels ``(C, I, J, K)``, scaled by slope and intercept where the header has them.

    Raises:
        DataError: If the file is damaged, cut short, or no volume.
    """
    parsed = _parse(path)
    voxels, surplus = read_voxels(parsed.layout)
    expect_unchanged(parsed.header_path, parsed.stamp)
    inspection = parsed.inspection
    if surplus:
        note = f"{parsed.layout.files[0]} has bytes after its voxels; they are ignored"
        inspection = Inspection(
            inspection.grid, inspection.channels, inspection.header, (*inspection.notes, note)
        )
    voxels = _scaled(voxels, parsed.slope, parsed.inter)
    array = channels_first(voxels, inspection.grid.shape, inspection.channels)
    return Stored(inspection, array)


def write(
    path: Path,
    array: npt.NDArray[Any],
    grid: Grid,
    header: Header,
    *,
    labels: bool,
    names: Mapping[int, str] | None = None,
    slope: float = 1.0,
) -> None:
    """Write ``(C, I, J, K)`` with the geometry of ``header`` if it is NIfTI, else of ``grid``.

    The target appears whole or not at all; equal voxels give equal bytes. Readers multiply the
    voxels by ``slope``.
    """
    del names  # a label map in this format has values only
    single = path.suffix.lower() not in (".hdr", ".img")
    fields = _output_fields(array, grid, header, single=single, labels=labels)
    fields["scl_slope"] = slope
    block = bytes(fields.binaryblock)
    if single:
        with atomic(path) as beside, _sink(beside) as file:
            file.write(block + bytes(4))
            _write_voxels(file, array)
        return
    header_path, data_path = _pair(path)
    with atomic(data_path) as data_beside, atomic(header_path) as header_beside:
        with data_beside.open("wb") as data:
            _write_voxels(data, array)
        header_beside.write_bytes(block + bytes(4))


def sources(path: Path) -> tuple[Path, ...]:
    """The file, or both files of a pair."""
    return _pair(path) if path.suffix.lower() in (".hdr", ".img") else (path,)


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _pair(path: Path) -> tuple[Path, Path]:
    """Both files of a pair, whichever is given; letter case follows the given one."""
    upper = path.suffix.isupper()
    header, data = (path.with_suffix(s.upper() if upper else s) for s in (".hdr", ".img"))
    return header, data


def _parse(path: Path) -> _Parsed:
    header_path, data_path = path, path
    if path.suffix.lower() in (".hdr", ".img"):
        header_path, data_path = _pair(path)
        for part in (header_path, data_path):
            if not part.exists():
                raise DataError(f"{path} needs its other half {part.name}, which does not exist")
    packing: Packing = "gzip" if _is_gzip(header_path) else "raw"
    with open_stream(header_path, packing) as stream:
        head, stamp = stream.read(NUM_BYTES), stream.stamp
    notes: list[str] = []
    fields = _fields(path, head, notes)
    dims = _dims(path, fields)
    shape, channels = spatial(path, dims)
    dtype = _dtype(path, fields, notes)
    offset = _offset(path, fields, single=header_path == data_path)
    layout = Layout((data_path,), dtype, dims, offset=offset, packing=packing)
    expect_voxels(layout)
    unit = UNITS.get(_unit_code(fields), "")
    grid = grid_of(path, shape, _affine(path, fields, shape, notes), unit)
    if unit and min(grid.spacing) < FINEST:
        lengths = " x ".join(f"{length:.3g}" for length in grid.spacing)
        notes.append(
            f"{path} gives its lengths in {unit}, which makes voxels of {lengths} mm; "
            "if it means mm, set xyzt_units to 2 in its header"
        )
    header = Header("NIfTI", bytes(_geometry(fields).binaryblock))
    slope, inter = _scaling(path, fields)
    inspection = Inspection(grid, channels, header, tuple(notes))
    return _Parsed(inspection, layout, header_path, stamp, slope, inter)


def _fields(path: Path, head: bytes, notes: list[str]) -> Any:
    """The header as nibabel sees it, of the version that its magic says, unrepaired."""
    if head[4:8] in (b"n+2\0", b"ni2\0") and len(head) >= SIZE_2:
        fields: Any = Nifti2Header(head[:SIZE_2], _endianness(head, SIZE_2), False)  # type: ignore[no-untyped-call]
        size = SIZE_2
    elif head[344:348] in (b"n+1\0", b"ni1\0"):
        fields = Nifti1Header(head[:SIZE_1], _endianness(head, SIZE_1), False)  # type: ignore[no-untyped-call]
        size = SIZE_1
    elif (
        path.suffix.lower() in (".hdr", ".img")
        and len(head) >= SIZE_1
        and SIZE_1 in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    ):
        notes.append(f"{path} is ANALYZE 7.5, which knows no orientation; LAS is assumed")
        fields = AnalyzeHeader(head[:SIZE_1], check=False)  # type: ignore[no-untyped-call]
        factor = float(fields["funused1"])
        if np.isfinite(factor) and factor not in (0, 1):
            notes.append(
                f"{path} has the scale factor {factor:g} in the header, as SPM writes it; "
                "it is ignored"
            )
        return fields
    else:
        hint = looks_like(head)
        raise DataError(
            f"{path} is not a NIfTI image; "
            + (f"it looks like {hint}" if hint else "its header has no NIfTI signature")
        )
    if int(fields["sizeof_hdr"]) != size:
        notes.append(f"{path} gives a header size of {int(fields['sizeof_hdr'])}, not {size}")
    return fields


def _endianness(head: bytes, size: int) -> str | None:
    """Byte order in which the header tells its right size; None leaves the guess to nibabel."""
    fitting = {"<": int.from_bytes(head[:4], "little"), ">": int.from_bytes(head[:4], "big")}
    return next((order for order, told in fitting.items() if told == size), None)


def _dims(path: Path, fields: Any) -> tuple[int, ...]:
    rank = int(fields["dim"][0])
    if not 1 <= rank <= 7:
        raise DataError(f"{path} declares {rank} dimensions; expected 1 to 7")
    return tuple(int(length) for length in fields["dim"][1 : rank + 1])


def _dtype(path: Path, fields: Any, notes: list[str]) -> np.dtype[Any]:
    code = int(fields["datatype"])
    try:
        dtype: np.dtype[Any] = np.dtype(fields.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise DataError(
            f"{path} has the unknown data type code {code}; {REMEDY_FOR_TYPES}"
        ) from error
    if code in UNSUPPORTED or dtype.itemsize == 0:
        raise DataError(
            f"{path} has the unsupported data type code {code} "
            f"({UNSUPPORTED.get(code, 'no numbers')}); {REMEDY_FOR_TYPES}"
        )
    plain_dtype(path, dtype)
    if int(fields["bitpix"]) != 8 * dtype.itemsize:
        notes.append(
            f"{path} gives {int(fields['bitpix'])} bits per voxel for a type of "
            f"{8 * dtype.itemsize}; the type is trusted"
        )
    return dtype


def _offset(path: Path, fields: Any, *, single: bool) -> int:
    offset = float(fields["vox_offset"])
    first = len(fields.binaryblock) + EXTENSION_FLAG if single else 0
    if not np.isfinite(offset) or offset < first:
        raise DataError(f"{path} puts its voxels at byte {offset:g}; expected {first} or later")
    return int(offset)


def _scaling(path: Path, fields: Any) -> tuple[float, float]:
    if "scl_slope" not in fields.keys():  # noqa: SIM118 - a header is no mapping
        return 1.0, 0.0
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0:
        return 1.0, 0.0
    if not np.isfinite([slope, inter]).all():
        raise DataError(f"{path} scales its voxels by {slope:g} and {inter:g}; repair the header")
    return slope, inter


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused by who reads
def _scaled(array: npt.NDArray[Any], slope: float, inter: float) -> npt.NDArray[Any]:
    if (slope, inter) == (1.0, 0.0):
        return array
    # float32 tells whole numbers apart up to 2**24, and labels may be larger
    ends = [float(end.reduce(array, axis=None)) * slope + inter for end in (np.fmin, np.fmax)]
    is_wide = max(map(abs, ends)) > (EXACT_FLOAT32 if array.dtype.kind in "iu" else FLOAT32_MAX)
    scaled = np.empty(array.size, np.float64 if is_wide else np.float32)
    values = array.ravel(order="F")
    for first in range(0, values.size, PART):  # parts, so that float64 stays small
        part = slice(first, first + PART)
        scaled[part] = values[part] * np.float64(slope) + inter
    return scaled.reshape(array.shape, order="F")


def _unit_code(fields: Any) -> int:
    return int(fields["xyzt_units"]) & 7 if type(fields) is not AnalyzeHeader else 0


@np.errstate(all="ignore")  # what is not finite is refused with the grid
def _affine(path: Path, fields: Any, shape: Size3, notes: list[str]) -> Affine:
    """Voxel index to mm: the sform, else the qform, else the spacing alone, as nibabel."""
    fields = fields.copy()
    pixdim = fields["pixdim"]
    spacing = [float(length) for length in pixdim[1:4]]
    usable = all(np.isfinite(spacing)) and min(spacing) > 0
    is_nifti = type(fields) is not AnalyzeHeader
    qform_code = int(fields["qform_code"]) if is_nifti else 0
    sform_code = int(fields["sform_code"]) if is_nifti else 0
    mm = MM_PER_UNIT.get(_unit_code(fields), 1.0)
    to_mm = np.diag([mm, mm, mm, 1.0])
    if not usable and sform_code <= 0:
        raise DataError(f"{path} has the spacing {spacing} and no sform; repair the header")
    if pixdim[0] not in (-1, 1):
        pixdim[0] = 1
    qform = None
    if qform_code > 0 and usable:
        try:
            qform = to_mm @ np.asarray(fields.get_qform())
        except (HeaderDataError, ValueError) as error:
            if sform_code <= 0:
                raise DataError(
                    f"{path} has an impossible qform: its quaternion is longer than 1; "
                    "repair the header"
                ) from error
            notes.append(f"{path} has an impossible qform; the sform is used")
    if sform_code > 0:
        sform = np.asarray(to_mm @ np.asarray(fields.get_sform()))
        if not sform[:3, :3].any():
            rest = "spacing alone" if qform is None else "qform"
            raise DataError(
                f"{path} has an sform of zeros with the sform_code {sform_code}; "
                f"set its sform_code to 0, so that the {rest} counts"
            )
        if not usable:
            notes.append(f"{path} has the spacing {spacing} beside a valid sform, which is used")
        if qform is not None and np.isfinite(sform).all() and np.isfinite(qform).all():
            apart = np.abs(_corners(shape, sform) - _corners(shape, qform)).max()
            if apart > 0.1 * min(spacing) * mm:
                notes.append(
                    f"{path}: sform and qform differ by up to {apart:.3g} mm; the sform is used"
                )
        return sform
    if qform is not None:
        return np.asarray(qform)
    if is_nifti:
        notes.append(f"{path} has neither sform nor qform; LAS is assumed")
    fields["dim"][:4] = 3, *np.minimum(shape, np.iinfo(fields["dim"].dtype).max)
    return np.asarray(to_mm @ fields.get_base_affine())


def _corners(shape: Size3, affine: Affine) -> Affine:
    ends = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape)[:, None] - 1)
    return np.asarray(affine[:3, :3] @ ends + affine[:3, 3:])


def _geometry(fields: Any) -> Any:
    """A fresh header of the same version with the geometry of ``fields`` and nothing else."""
    is_second = len(fields.binaryblock) == SIZE_2
    kind: Any = Nifti2Header if is_second else Nifti1Header
    fresh = kind()
    fresh["pixdim"][:4] = fields["pixdim"][:4]
    if type(fields) is AnalyzeHeader:
        fresh["pixdim"][0] = 1
        return fresh
    for name in GEOMETRY:
        fresh[name] = fields[name]
    return fresh


def _output_fields(
    array: npt.NDArray[Any], grid: Grid, header: Header, *, single: bool, labels: bool
) -> Any:
    channels, *shape = array.shape
    source = _source_geometry(header, grid)
    is_second = max(shape) > 32767 or (source is not None and len(source.binaryblock) == SIZE_2)
    kinds: Any = (Nifti2Header, Nifti2PairHeader) if is_second else (Nifti1Header, Nifti1PairHeader)
    fields: Any = kinds[0 if single else 1]()
    fields.set_data_dtype(array.dtype)
    fields.set_data_shape((*shape, channels) if channels > 1 else tuple(shape))
    if source is None:
        fields.set_qform(grid.affine, code="scanner")
        fields.set_sform(grid.affine, code="scanner")
        fields.set_xyzt_units(xyz="mm")
    else:
        fields["pixdim"][:4] = source["pixdim"][:4]
        for name in GEOMETRY:
            fields[name] = source[name]
        spacing = fields["pixdim"][1:4]
        if not (np.isfinite(spacing).all() and (spacing > 0).all()):
            mm = MM_PER_UNIT.get(int(fields["xyzt_units"]) & 7, 1.0)
            fields["pixdim"][1:4] = np.divide(grid.spacing, mm)
    fields["scl_slope"], fields["scl_inter"] = 1.0, 0.0
    fields["intent_code"] = LABEL_INTENT if labels else 0
    fields["vox_offset"] = len(fields.binaryblock) + EXTENSION_FLAG if single else 0
    return fields


def _source_geometry(header: Header, grid: Grid) -> Any:
    """The source's own header, unless the grid is another one by now."""
    if not header.nifti:
        return None
    kind: Any = Nifti2Header if len(header.nifti) == SIZE_2 else Nifti1Header
    source: Any = kind(header.nifti, check=False)
    affine = _affine(Path(), source, grid.shape, [])
    return source if Grid(grid.shape, affine).same_as(grid) else None


@contextmanager
def _sink(path: Path) -> Iterator[Sink]:
    with path.open("wb") as file:
        if not _is_gzip(path):
            yield file
            return
        with gzipped(file) as packed:
            yield packed


def _write_voxels(file: Sink, array: npt.NDArray[Any]) -> None:
    little = array.dtype.newbyteorder("<")
    for channel in array:
        planes = channel.shape[-1]
        step = max(1, WRITTEN_AT_ONCE * planes // channel.nbytes)
        for k in range(0, planes, step):
            part = np.asarray(channel[..., k : k + step], little)
            file.write(part.ravel(order="F").data)  # a view, as files store it
            _forget(array)


def _forget(array: npt.NDArray[Any]) -> None:
    """Let go of the memory that shows parts of a file on the disk."""
    owner: Any = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if isinstance(owner, mmap.mmap) and not array.flags.writeable and hasattr(owner, "madvise"):
        owner.madvise(mmap.MADV_DONTNEED)  # what was changed in memory alone would be lost
