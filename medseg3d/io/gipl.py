"""Guy's Image Processing Lab format, .gipl and .gipl.gz: 256 bytes of header, then voxels.

References:
    .. [1] https://mirtk.github.io/formats.html
"""

from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.errors import DataError
from medseg3d.io.layout import REMEDY_FOR_TYPES, grid_of, spatial
from medseg3d.io.signatures import GIPL_MAGICS, NUM_BYTES, looks_like
from medseg3d.io.streams import Packing, Stamp, open_stream
from medseg3d.io.text_header import affine_of, spacing_of
from medseg3d.io.volume import Header, Inspection
from medseg3d.io.voxels import Layout, expect_voxels

FIELDS = np.dtype(
    [
        ("dims", ">u2", 4),
        ("type", ">u2"),
        ("spacing", ">f4", 4),
        ("free", "V178"),
        ("origin", ">f8", 4),
        ("offset", ">f4"),
        ("slope", ">f4"),
        ("gap", ">f4"),
        ("user", ">f4"),
        ("magic", "V4"),
    ]
)
KIND_OF = {7: "i1", 8: "u1", 15: "i2", 16: "u2", 31: "u4", 32: "i4", 64: "f4", 65: "f8"}


def parse(path: Path) -> tuple[Inspection, Layout, Stamp]:
    """Read the header and check that its voxels are there.

    Raises:
        DataError: If the header is broken or describes no volume.
    """
    packing: Packing = "gzip" if path.suffix.lower() == ".gz" else "raw"
    with open_stream(path, packing) as stream:
        head, stamp = stream.read(NUM_BYTES), stream.stamp
    if head[252:256] not in GIPL_MAGICS:
        hint = looks_like(head)
        raise DataError(
            f"{path} is not a GIPL image; "
            + (f"it looks like {hint}" if hint else "its header has no GIPL signature")
        )
    fields: Any = np.frombuffer(head[: FIELDS.itemsize], FIELDS)[0]
    dims = tuple(int(length) for length in fields["dims"])
    shape, channels = spatial(path, dims[:3] if dims[3] == 0 else dims)
    kind = int(fields["type"])
    if kind not in KIND_OF:
        raise DataError(f"{path} has the unknown data type {kind}; {REMEDY_FOR_TYPES}")
    dtype = np.dtype(KIND_OF[kind]).newbyteorder(">")
    layout = Layout((path,), dtype, (*shape, channels), offset=FIELDS.itemsize, packing=packing)
    expect_voxels(layout)
    spacing = spacing_of(path, fields["spacing"][:3].astype(np.float64))
    affine = affine_of(np.diag(spacing), fields["origin"][:3].astype(np.float64))
    notes = (f"{path} is GIPL, which knows no orientation; LPS is assumed",)
    return Inspection(grid_of(path, shape, affine), channels, Header("GIPL"), notes), layout, stamp
