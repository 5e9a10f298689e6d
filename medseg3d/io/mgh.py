"""FreeSurfer volumes, .mgh and .mgz: header by nibabel, voxels read and checked here."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import igzip
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage
from nibabel.spatialimages import HeaderDataError

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io.atomic import atomic
from medseg3d.io.layout import channels_first, grid_of, plain_dtype, spatial
from medseg3d.io.streams import expect_room, looks_like, open_stream, read_voxels, regular_size
from medseg3d.io.volume import Header, Inspection, Stored

HEADER_SIZE = 284


def inspect(path: Path) -> Inspection:
    """Read the header only."""
    return _parse(path)[0]


def read(path: Path) -> Stored:
    """Read voxels ``(C, I, J, K)``.

    Raises:
        DataError: If the file is damaged, cut short, or no volume.
    """
    inspection, dtype = _parse(path)
    # scan parameters follow the voxels as a matter of course, so a surplus says nothing
    voxels, _ = read_voxels(
        path,
        offset=HEADER_SIZE,
        dtype=dtype,
        shape=(*inspection.grid.shape, inspection.channels),
        compressed=_is_gzip(path),
    )
    return Stored(inspection, channels_first(voxels, inspection.grid.shape, inspection.channels))


def write(path: Path, array: npt.NDArray[Any], grid: Grid, header: Header, *, labels: bool) -> None:
    """Write ``(C, I, J, K)``; the format stores 8, 16 and 32 bit integers and float32."""
    del header, labels  # the grid says it all
    if array.dtype == np.uint16:
        array = array.astype(np.int32)
    voxels = np.moveaxis(array, 0, -1)
    image: Any = MGHImage(  # type: ignore[no-untyped-call]
        voxels[..., 0] if array.shape[0] == 1 else voxels, grid.affine
    )
    content = image.to_bytes()
    with atomic(path) as beside:
        beside.write_bytes(igzip.compress(content, 2, mtime=0) if _is_gzip(path) else content)


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".mgz"


def _parse(path: Path) -> tuple[Inspection, np.dtype[Any]]:
    with open_stream(path, compressed=_is_gzip(path)) as stream:
        head = stream.read(HEADER_SIZE)
    if len(head) < HEADER_SIZE or int.from_bytes(head[:4], "big") != 1:
        hint = looks_like(head) or "something else"
        raise DataError(f"{path} is not a FreeSurfer volume; it looks like {hint}")
    fields: Any = MGHHeader(head, check=False)  # type: ignore[no-untyped-call]
    dims = tuple(int(length) for length in fields["dims"])
    shape, channels = spatial(path, dims)
    try:
        dtype = plain_dtype(path, np.dtype(fields.get_data_dtype()))
    except (HeaderDataError, KeyError) as error:
        raise DataError(f"{path} has the unknown data type {int(fields['type'])}") from error
    dtype = dtype.newbyteorder(">")
    needed = HEADER_SIZE + prod(dims) * dtype.itemsize
    expect_room(path, needed, regular_size(path), compressed=_is_gzip(path))
    spacing = [float(length) for length in fields["delta"]]
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise DataError(f"{path} has the spacing {spacing}; repair the header")
    grid = grid_of(path, shape, np.asarray(fields.get_affine()))
    return Inspection(grid, channels, Header("FreeSurfer")), dtype
