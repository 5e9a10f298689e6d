"""NRRD, MetaImage and GIPL: read here, byte by byte as checked, and written by SimpleITK.

SimpleITK's own readers fill what a cut file lacks with whatever was in memory, and take a
header at its word before they look at the file.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.io import gipl, metaimage, nrrd
from medseg3d.io.atomic import atomic
from medseg3d.io.layout import channels_first
from medseg3d.io.streams import Stamp, expect_unchanged
from medseg3d.io.text_header import FLIP_LPS_RAS
from medseg3d.io.volume import Header, Inspection, Stored
from medseg3d.io.voxels import Layout, read_voxels
from medseg3d.machine import free_disk

UNTURNED = 1e-6


def inspect(path: Path) -> Inspection:
    """Read the header only."""
    return _parse(path)[0]


def read(path: Path) -> Stored:
    """Read voxels ``(C, I, J, K)``.

    Raises:
        DataError: If the file is cut short, its data file is missing, or it is no volume.
    """
    inspection, layout, stamp, order = _parse(path)
    voxels, surplus = read_voxels(layout)
    expect_unchanged(path, stamp)
    if surplus:
        note = f"{layout.files[-1]} has bytes after its voxels; they are ignored"
        inspection = replace(inspection, notes=(*inspection.notes, note))
    array = channels_first(voxels.transpose(order), inspection.grid.shape, inspection.channels)
    return Stored(inspection, array)


def write(
    path: Path,
    array: npt.NDArray[Any],
    grid: Grid,
    header: Header,
    *,
    labels: bool,
    names: Mapping[int, str] | None = None,
) -> None:
    """Write ``(C, I, J, K)``, compressed; the target appears whole or not at all.

    Raises:
        DataError: For formats that spread over two files.
        RunError: If the target cannot be written.
    """
    del header, labels, names
    if path.suffix.lower() in (".mhd", ".nhdr"):
        raise DataError(
            f"{path.name} would need a second file; write .mha, .nrrd or .nii.gz instead"
        )
    world = FLIP_LPS_RAS @ grid.affine
    direction = world[:3, :3] / grid.spacing
    if _is_gipl(path) and not np.allclose(direction, np.eye(3), atol=UNTURNED):
        raise DataError(f"{path.name} can store no orientation; write .nii.gz instead")
    sitk = _simpleitk()
    channels = array.shape[0]
    voxels = np.moveaxis(array, 0, -1).transpose(2, 1, 0, 3)
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(voxels if channels > 1 else voxels[..., 0]), isVector=channels > 1
    )
    image.SetSpacing(grid.spacing)
    image.SetOrigin(world[:3, 3].tolist())
    image.SetDirection(direction.ravel().tolist())
    with atomic(path) as beside:
        try:
            sitk.WriteImage(image, str(beside), useCompression=True)
        except RuntimeError as error:
            raise RunError(f"{path} cannot be written: {_last_line(error)}") from error
        _expect_whole(path, beside, array)


def sources(path: Path) -> tuple[Path, ...]:
    """The file and, where its header points elsewhere, all files that hold its voxels."""
    if _is_gipl(path):
        return (path,)
    files = (nrrd if _is_nrrd(path) else metaimage).files(path)
    return tuple(dict.fromkeys((path, *files)))


def _parse(path: Path) -> tuple[Inspection, Layout, Stamp, tuple[int, ...]]:
    """What the header says, and the stored axes in the order space, then channels."""
    if _is_nrrd(path):
        return nrrd.parse(path)
    inspection, layout, stamp = (gipl if _is_gipl(path) else metaimage).parse(path)
    axes = tuple(range(len(layout.shape)))
    return inspection, layout, stamp, axes if _is_gipl(path) else (*axes[1:], 0)


def _expect_whole(path: Path, written: Path, array: npt.NDArray[Any]) -> None:
    """Read again what was written, since some of ITK's writers say nothing of a full disk."""
    try:
        stored = read(written).array
        is_whole = np.array_equal(stored, array, equal_nan=array.dtype.kind == "f")
    except DataError:
        is_whole = False
    if not is_whole:
        full = free_disk(path.parent) < written.stat().st_size + array.nbytes
        number = errno.ENOSPC if full else errno.EIO
        raise OSError(number, os.strerror(number), str(path))


def _simpleitk() -> Any:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    return SimpleITK


def _is_nrrd(path: Path) -> bool:
    return path.suffix.lower() in (".nrrd", ".nhdr")


def _is_gipl(path: Path) -> bool:
    return path.name.lower().endswith((".gipl", ".gipl.gz"))


def _last_line(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "unknown reason"
