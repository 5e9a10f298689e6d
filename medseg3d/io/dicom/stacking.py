"""From slices to one volume: which belong together, in what order, how far apart.

Neither file names, nor slice numbers, nor the slice thickness say where a slice lies; its
position along the normal of the slices does.

References:
    .. [1] DICOM PS3.3, C.7.6.2.1.1:
       https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.7.6.2.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, degrees
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io.dicom.grouping import expect_one_per_place, one_block
from medseg3d.io.dicom.headers import Plane, Slice
from medseg3d.io.layout import LARGEST_SHEAR

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNEVEN_NOTED, UNEVEN_REFUSED = 0.02, 0.1
"""Parts of the slice distance by which positions may deviate from even ones."""


@dataclass(frozen=True)
class Stack:
    """The slices of one volume.

    Args:
        slices: In order along the normal.
        grid: Columns, rows, slices; RAS+.
        notes: Oddities that were dealt with, one sentence each.
    """

    slices: tuple[Slice, ...]
    grid: Grid
    notes: tuple[str, ...]


def stack(path: Path, slices: Sequence[Slice], choice: dict[str, str], name: Path) -> Stack:
    """Make one volume of slices, or say what keeps them from being one.

    Args:
        path: Folder or file that they come from.
        slices: All its slices.
        choice: Traits that the wanted slices have.
        name: What the user called the volume, for messages.

    Raises:
        DataError: If there are several volumes, or slices are missing, doubled, uneven or
            tilted.
    """
    notes: list[str] = []
    slices = one_block(path, slices, choice, name, notes)
    plane = slices[0].plane
    if plane is None:
        raise DataError(f"{name}: no slice tells its orientation, pixel spacing and size")
    normal = normal_of(name, plane)
    ordered = sorted(slices, key=lambda each: float(normal @ np.asarray(each.position)))
    expect_one_per_place(path, ordered, normal, plane)
    grid = _grid(name, ordered, plane, normal, notes)
    if any(each.is_inverted for each in ordered):
        notes.append(f"{name} is stored as MONOCHROME1; its values are taken as they are")
    return Stack(tuple(ordered), grid, tuple(notes))


def normal_of(name: Path, plane: Plane) -> npt.NDArray[np.float64]:
    """Unit vector across the slices, LPS.

    Raises:
        DataError: If rows and columns are not at right angles.
    """
    along, down = np.reshape(plane.orientation, (2, 3))
    if abs(np.linalg.norm(along) - 1) > 0.01 or abs(np.linalg.norm(down) - 1) > 0.01:
        raise DataError(f"{name}: its orientation is no pair of directions; repair the header")
    if abs(float(along @ down)) > LARGEST_SHEAR:
        raise DataError(f"{name}: its rows and columns are not at right angles; resample it")
    normal = np.cross(along, down)
    return np.asarray(normal / np.linalg.norm(normal))


def affine_of(
    plane: Plane, first: Sequence[float], step: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Voxel ``(column, row, slice)`` to RAS+ mm.

    Args:
        plane: The grid within a slice.
        first: Position of the first slice, LPS.
        step: From one slice to the next, LPS.
    """
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(plane.orientation[:3]) * plane.spacing[1]
    affine[:3, 1] = np.asarray(plane.orientation[3:]) * plane.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first
    return np.asarray(LPS_TO_RAS @ affine)


def _grid(
    name: Path,
    ordered: Sequence[Slice],
    plane: Plane,
    normal: npt.NDArray[np.float64],
    notes: list[str],
) -> Grid:
    positions = np.array([each.position for each in ordered], dtype=np.float64)
    if len(ordered) == 1:
        step_mm = ordered[0].step_mm
        if not step_mm or step_mm <= 0:
            raise DataError(f"{name} is one slice of unknown thickness; expected a volume")
        notes.append(f"{name} is one slice; its thickness of {step_mm:g} mm is the spacing")
        step = normal * step_mm
    else:
        step = (positions[-1] - positions[0]) / (len(ordered) - 1)
        _expect_even(name, ordered, positions @ normal, notes)
        _expect_straight(name, ordered, positions, step, normal, plane)
    shape = (plane.columns, plane.rows, len(ordered))
    return Grid(shape, affine_of(plane, positions[0].tolist(), step))


def _expect_even(
    name: Path, ordered: Sequence[Slice], heights: npt.NDArray[np.float64], notes: list[str]
) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    widest = int(np.argmax(steps))
    between = f"between {ordered[widest].path.name} and {ordered[widest + 1].path.name}"
    if steps[widest] > 1.5 * usual:
        lost = round(steps[widest] / usual) - 1
        raise DataError(
            f"{name} has a gap of {steps[widest]:.4g} mm {between}, at {heights[widest]:.4g} to "
            f"{heights[widest + 1]:.4g} mm along the normal, where slices are {usual:.4g} mm "
            f"apart: {max(lost, 1)} missing; copy the series again"
        )
    even = heights[0] + np.arange(len(heights)) * (heights[-1] - heights[0]) / len(steps)
    off = float(np.abs(heights - even).max()) / usual
    if max(off, float(np.abs(steps / usual - 1).max())) > UNEVEN_REFUSED:
        raise DataError(
            f"{name} has slices {steps.min():.4g} to {steps.max():.4g} mm apart, the widest "
            f"{between}; expected even steps, resample it"
        )
    if off > UNEVEN_NOTED:
        notes.append(
            f"{name}: slices are {steps.min():.4g} to {steps.max():.4g} mm apart; "
            f"{float(steps.mean()):.4g} mm is taken"
        )


def _expect_straight(
    name: Path,
    ordered: Sequence[Slice],
    positions: npt.NDArray[np.float64],
    step: npt.NDArray[np.float64],
    normal: npt.NDArray[np.float64],
    plane: Plane,
) -> None:
    sideways = step - normal * float(step @ normal)
    tilt = float(np.linalg.norm(sideways) / np.linalg.norm(step))
    if tilt > LARGEST_SHEAR:
        raise DataError(
            f"{name} was scanned with a tilted gantry: its slices shift by "
            f"{degrees(asin(min(tilt, 1.0))):.1f} degrees against their normal; resample it to a "
            "grid without shear, as dcm2niix does"
        )
    expected = positions[0] + np.arange(len(ordered))[:, None] * step
    apart = positions - expected
    apart -= (apart @ normal)[:, None] * normal
    off = np.linalg.norm(apart, axis=1)
    worst = int(np.argmax(off))
    if off[worst] > UNEVEN_REFUSED * 2 * min(plane.spacing):
        raise DataError(
            f"{name}: slice {ordered[worst].path.name} lies {off[worst]:.3g} mm beside the line "
            "of the others; expected one block of slices"
        )
