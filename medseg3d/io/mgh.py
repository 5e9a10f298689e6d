"""FreeSurfer volumes, .mgh and .mgz: header by nibabel, voxels read and checked here."""

from collections.abc import Mapping
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
from medseg3d.io.layout import REMEDY_FOR_TYPES, channels_first, grid_of, plain_dtype, spatial
from medseg3d.io.signatures import NUM_BYTES, looks_like
from medseg3d.io.streams import Packing, Stamp, expect_unchanged, open_stream
from medseg3d.io.volume import Header, Inspection, Stored
from medseg3d.io.voxels import Layout, expect_voxels, read_voxels

HEADER_SIZE = 284
HAS_GEOMETRY = slice(28, 30)


def inspect(path: Path) -> Inspection:
    """Read the header only."""
    return _parse(path)[0]


def read(path: Path) -> Stored:
    """Read voxels ``(C, I, J, K)``.

    Raises:
        DataError: If the file is damaged, cut short, or no volume.
    """
    inspection, layout, stamp = _parse(path)
    # scan parameters follow the voxels as a matter of course, so a surplus says nothing
    voxels, _ = read_voxels(layout)
    expect_unchanged(path, stamp)
    return Stored(inspection, channels_first(voxels, inspection.grid.shape, inspection.channels))


def write(
    path: Path,
    array: npt.NDArray[Any],
    grid: Grid,
    header: Header,
    *,
    labels: bool,
    names: Mapping[int, str] | None = None,
) -> None:
    """Write ``(C, I, J, K)``; the format stores 8, 16 and 32 bit integers and float32."""
    del header, labels, names  # the grid says it all
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


def _parse(path: Path) -> tuple[Inspection, Layout, Stamp]:
    packing: Packing = "gzip" if _is_gzip(path) else "raw"
    with open_stream(path, packing) as stream:
        head, stamp = stream.read(NUM_BYTES), stream.stamp
    if len(head) < HEADER_SIZE or int.from_bytes(head[:4], "big") != 1:
        hint = looks_like(head) or "something else"
        raise DataError(f"{path} is not a FreeSurfer volume; it looks like {hint}")
    fields: Any = MGHHeader(head[:HEADER_SIZE], check=False)  # type: ignore[no-untyped-call]
    dims = tuple(int(length) for length in fields["dims"])
    shape, channels = spatial(path, dims)
    try:
        dtype = plain_dtype(path, np.dtype(fields.get_data_dtype()))
    except (HeaderDataError, KeyError) as error:
        raise DataError(
            f"{path} has the unknown data type {int(fields['type'])}; {REMEDY_FOR_TYPES}"
        ) from error
    layout = Layout((path,), dtype.newbyteorder(">"), dims, offset=HEADER_SIZE, packing=packing)
    expect_voxels(layout)
    spacing = [float(length) for length in fields["delta"]]
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise DataError(f"{path} has the spacing {spacing}; repair the header")
    notes = []
    if not int.from_bytes(head[HAS_GEOMETRY], "big"):
        notes.append(
            f"{path} says nothing of its geometry; 1 mm and the orientation LIA are assumed"
        )
    with np.errstate(all="ignore"):  # what is not finite is refused with the grid
        affine = np.asarray(fields.get_affine())
    grid = grid_of(path, shape, affine)
    return Inspection(grid, channels, Header("FreeSurfer"), tuple(notes)), layout, stamp
