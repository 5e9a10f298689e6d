"""NRRD, MetaImage and GIPL through SimpleITK, after a check that the data are all there.

SimpleITK's own readers fill what a cut file lacks with whatever was in memory.

References:
    .. [1] https://teem.sourceforge.net/nrrd/format.html
    .. [2] https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

import re
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.io.atomic import atomic
from medseg3d.io.layout import channels_first, grid_of, spatial
from medseg3d.io.streams import CHUNK, expect_room, looks_like, regular_size
from medseg3d.io.volume import Header, Inspection, Stored
from medseg3d.types import Affine

LONGEST_HEADER = 1 << 20
FLIP_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
GIPL_HEADER = 256


def inspect(path: Path) -> Inspection:
    """Read the header only."""
    return _inspect(path)[0]


def read(path: Path) -> Stored:
    """Read voxels ``(C, I, J, K)``.

    Raises:
        DataError: If the file is cut short, its data file is missing, or it is no volume.
    """
    sitk = _simpleitk()

    inspection, needed = _inspect(path)
    _expect_data(path, needed)
    try:
        image = _reader(path).Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    stored = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        stored = np.moveaxis(stored, -1, 0)
    return Stored(inspection, channels_first(stored.T, inspection.grid.shape, inspection.channels))


def write(path: Path, array: npt.NDArray[Any], grid: Grid, header: Header, *, labels: bool) -> None:
    """Write ``(C, I, J, K)``, compressed; the target appears whole or not at all.

    Raises:
        DataError: For formats that spread over two files.
        RunError: If the target cannot be written.
    """
    sitk = _simpleitk()

    del header, labels
    if path.suffix.lower() in (".mhd", ".nhdr"):
        raise DataError(
            f"{path.name} would need a second file; write .mha, .nrrd or .nii.gz instead"
        )
    channels = array.shape[0]
    voxels = np.moveaxis(array, 0, -1).transpose(2, 1, 0, 3)
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(voxels if channels > 1 else voxels[..., 0]), isVector=channels > 1
    )
    world = FLIP_LPS_RAS @ grid.affine
    image.SetSpacing(grid.spacing)
    image.SetOrigin(world[:3, 3].tolist())
    image.SetDirection((world[:3, :3] / grid.spacing).ravel().tolist())
    with atomic(path) as beside:
        try:
            sitk.WriteImage(image, str(beside), useCompression=True)
        except RuntimeError as error:
            raise RunError(f"{path} cannot be written: {_last_line(error)}") from error


def sources(path: Path) -> tuple[Path, ...]:
    """The file and, where its header points elsewhere, the data; a list may be the whole folder."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return (path,)
    with path.open("rb") as file:
        data = _data_file(path, _text_header(path, file.read(LONGEST_HEADER)))
    if data is not None:
        return (path, data)
    return (path, *sorted(beside for beside in path.parent.iterdir() if beside.is_file()))


def _simpleitk() -> Any:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    return SimpleITK


def _reader(path: Path) -> Any:
    sitk = _simpleitk()

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    return reader


def _inspect(path: Path) -> tuple[Inspection, int]:
    """The header, and the bytes of voxels that it declares."""
    sitk = _simpleitk()

    if regular_size(path) == 0:
        raise DataError(f"{path} is an empty file; copy it again")
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    components = int(reader.GetNumberOfComponents())
    kind = str(sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    bits = re.search(r"(\d+)-bit", kind)
    if bits is None or "complex" in kind or "label" in kind:
        raise DataError(f"{path} holds {kind}; expected real numbers")
    size = tuple(int(length) for length in reader.GetSize())
    needed = prod(size) * components * int(bits[1]) // 8
    shape, volumes = spatial(path, size)
    if components > 1 and volumes > 1:
        raise DataError(f"{path} holds {volumes} volumes of {components} components; expected one")
    affine = _affine(reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin())
    grid = grid_of(path, shape, affine)
    return Inspection(grid, components * volumes, Header("ITK")), needed


def _affine(
    spacing: tuple[float, ...], direction: tuple[float, ...], origin: tuple[float, ...]
) -> Affine:
    rank = len(spacing)
    axes = np.reshape(direction, (rank, rank))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing[:3]
    affine[:3, 3] = origin[:3]
    return np.asarray(FLIP_LPS_RAS @ affine)


def _unreadable(path: Path, error: RuntimeError) -> DataError:
    with path.open("rb") as file:
        head = file.read(1024)
    header = _text_header(path, head)
    data = header and _data_file(path, header)
    if data and not data.exists():
        return DataError(f"{path} needs its data file {data.name}, which does not exist")
    hint = looks_like(head)
    if hint and not header:
        return DataError(f"{path} is not an image of its suffix; it looks like {hint}")
    return DataError(f"{path} cannot be read: {_last_line(error)}")


def _last_line(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "unknown reason"


def _text_header(path: Path, head: bytes) -> dict[str, str]:
    """Keys in lower case and values of a MetaImage or NRRD header; empty for other formats."""
    suffix = path.suffix.lower()
    if suffix in (".mha", ".mhd"):
        lines, mark = head.splitlines(), "="
    elif suffix in (".nrrd", ".nhdr"):
        lines, mark = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].splitlines(), ":"
    else:
        return {}
    header: dict[str, str] = {}
    for line in lines:
        key, found, value = line.decode("utf-8", "replace").partition(mark)
        if found and "elementdatafile" not in header:
            header[key.strip().lower()] = value.strip().lstrip("=")
    return header if {"ndims", "dimension"} & header.keys() else {}


def _data_file(path: Path, header: dict[str, str]) -> Path | None:
    """The one file that holds the voxels apart from the header, if there is one.

    Raises:
        DataError: If it lies outside the header's folder.
    """
    name = header.get("elementdatafile", "")
    if name == "":
        name = header.get("data file", header.get("datafile", ""))
    if name == "" or name.split()[0].upper() in ("LOCAL", "LIST") or "%" in name:
        return None
    inside = (path.parent / name).resolve()
    if not inside.is_relative_to(path.parent.resolve()):
        raise DataError(f"{path} takes its data from {name}, outside its own folder; refused")
    return path.parent / name


def _expect_data(path: Path, needed: int) -> None:
    """Refuse a file that holds fewer bytes of voxels than its header declares."""
    if path.suffix.lower() == ".gipl" or path.name.lower().endswith(".gipl.gz"):
        compressed = path.suffix.lower() == ".gz"
        _expect_bytes(path, 0, needed + GIPL_HEADER, compressed=compressed)
        return
    with path.open("rb") as file:
        head = file.read(LONGEST_HEADER)
    header = _text_header(path, head)
    data = _data_file(path, header)
    if data is not None and not data.exists():
        raise DataError(f"{path} needs its data file {data.name}, which does not exist")
    is_meta = "elementdatafile" in header
    encoding = header.get("encoding", "raw").lower()
    compressed = encoding in ("gzip", "gz") or header.get("compresseddata", "").lower() == "true"
    if data is None:
        if is_meta and header["elementdatafile"].upper() != "LOCAL":
            return  # one file per slice, whose absence SimpleITK does notice
        if "data file" in header or "datafile" in header:
            return
        end = re.search(rb"ElementDataFile\s*=[^\n]*\n" if is_meta else rb"\r?\n\r?\n", head)
        offset = end.end() if end else 0
    else:
        offset = 0
    if not compressed and encoding != "raw":
        return  # text and bzip2, which fail by themselves when cut
    skip = int(header.get("byte skip", header.get("byteskip", header.get("headersize", "0"))))
    _expect_bytes(
        path if data is None else data,
        offset,
        needed + (max(skip, 0) if not compressed else 0),
        compressed=compressed,
    )


def _expect_bytes(path: Path, offset: int, needed: int, *, compressed: bool) -> None:
    size = regular_size(path)
    expect_room(path, needed, size - offset, compressed=compressed)
    if not compressed:
        return
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # zlib or gzip, whichever comes
    found = 0
    with path.open("rb") as file:
        file.seek(offset)
        try:
            while not unpack.eof and (chunk := unpack.unconsumed_tail or file.read(CHUNK)):
                found += len(unpack.decompress(chunk, 8 * CHUNK))
        except zlib.error as error:
            raise DataError(f"{path} is damaged: {error}; copy it again") from error
    if found < needed or not unpack.eof:
        raise DataError(
            f"{path} is cut short: it holds {found} of the {needed} bytes that its header "
            "declares; copy it again"
        )
