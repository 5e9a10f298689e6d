"""DICOM segmentations read as label maps.

A file leaves out the slices in which nothing was found, so its grid may be smaller than that
of the image; what lies outside is background.

References:
    .. [1] DICOM PS3.3, C.8.20:
       https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.8.20.html
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError, MedSeg3DError
from medseg3d.geometry.grid import Grid
from medseg3d.io.dicom.headers import Plane, plane_of, read_header
from medseg3d.io.dicom.pixels import expect_room, frame_of, read_pixels
from medseg3d.io.dicom.stacking import affine_of, normal_of
from medseg3d.io.dicom.values import frames_of, number, numbers
from medseg3d.io.volume import Header, Inspection, Stored

TAGS = (
    *("SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SegmentationType", "SegmentSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SamplesPerPixel"),
    "SegmentsOverlap",
)
VALUE = re.compile(r"Label value (\d+)")
"""How this package notes the value of a segment, whose number must run from 1."""

OFF_STEP = 0.02
"""Part of the slice distance by which a frame may be off a whole number of steps."""


@dataclass(frozen=True)
class _Frames:
    """Where the frames of a file lie and what they stand for.

    Args:
        grid: Columns, rows, slices from the first to the last frame; RAS+.
        places: Slice of each frame.
        segments: Segment of each frame, 0 where the pixels tell.
        values: Label value by segment number.
        names: What each label value is called.
    """

    grid: Grid
    places: tuple[int, ...]
    segments: tuple[int, ...]
    values: dict[int, int]
    names: dict[int, str]


def inspect(path: Path) -> Inspection:
    """Read the header only.

    Raises:
        DataError: If the file is no label map: probabilities, or frames that do not stack.
    """
    return _inspection(_frames(path))


def read(path: Path) -> Stored:
    """Read labels ``(1, I, J, K)``, the number of the segment as value.

    Raises:
        DataError: If segments overlap, the file is cut short, or it is no label map.
    """
    frames = _frames(path)
    columns, rows, depth = frames.grid.shape
    highest = max(frames.values.values(), default=1)
    dtype = np.uint8 if highest < 256 else np.uint16 if highest < 65536 else np.uint32
    expect_room(path, frames.grid.shape, np.dtype(dtype).itemsize)
    content = read_pixels(path)
    labels = np.zeros((depth, rows, columns), dtype)
    for index, (place, segment) in enumerate(zip(frames.places, frames.segments, strict=True)):
        stored = frame_of(path, content, index)
        if segment == 0:
            labels[place] = _mapped(path, stored, frames.values)
        else:
            _put(path, labels[place], stored != 0, frames.values[segment])
    return Stored(_inspection(frames), labels.T[None])


def _inspection(frames: _Frames) -> Inspection:
    header = Header("DICOM segmentation", is_cropped=True)
    return Inspection(frames.grid, 1, header, names=frames.names)


def _frames(path: Path) -> _Frames:
    header = read_header(path, TAGS)
    try:
        return _parse(path, header)
    except MedSeg3DError:
        raise
    except Exception as error:  # pydicom converts values late and lets anything through
        raise DataError(
            f"{path} is a DICOM segmentation that cannot be understood; export it again"
        ) from error


def _parse(path: Path, header: Any) -> _Frames:
    kind = str(header.get("SegmentationType"))
    if kind not in ("BINARY", "LABELMAP"):
        raise DataError(
            f"{path} is a {kind.lower()} segmentation, whose voxels belong to labels by parts; "
            "threshold it to a binary one"
        )
    all_values, count = list(frames_of(header)), int(header.get("NumberOfFrames") or 1)
    if len(all_values) != count:
        raise DataError(
            f"{path} declares {count} frames but describes {len(all_values)}; export it again"
        )
    planes = [plane_of(values) for values in all_values]
    positions = [numbers(values, "ImagePositionPatient", 3) for values in all_values]
    plane = planes[0]
    if plane is None or any(place is None for place in positions):
        raise DataError(f"{path} does not tell where its frames lie; export it again")
    if any(other is None or not other.same_as(plane) for other in planes):
        raise DataError(f"{path} has frames of several orientations; expected one block of slices")
    told = number(all_values[0], "SpacingBetweenSlices")
    thickness = number(all_values[0], "SliceThickness")
    placed = np.asarray(positions, dtype=np.float64)
    grid, places = _stacked(path, plane, placed, told, thickness)
    numbered = [int(values.get("ReferencedSegmentNumber") or 0) for values in all_values]
    segments = numbered if kind == "BINARY" else [0] * len(numbered)
    described = header.get("SegmentSequence") or ()
    values = _values(described)
    names = {
        values[int(each.SegmentNumber)]: str(each.get("SegmentLabel") or "") for each in described
    }
    unknown = {*segments} - {*values, 0}
    if unknown or (kind == "BINARY" and 0 in segments):
        raise DataError(f"{path} has frames of segments that it does not describe; export it again")
    return _Frames(grid, tuple(places), tuple(segments), values, names)


def _stacked(
    path: Path,
    plane: Plane,
    positions: npt.NDArray[np.float64],
    told: float | None,
    thickness: float | None,
) -> tuple[Grid, list[int]]:
    normal = normal_of(path, plane)
    heights = positions @ normal
    first, last = positions[heights.argmin()], positions[heights.argmax()]
    apart = np.diff(np.unique(heights.round(3)))
    step_mm = _step(path, heights, apart, told, thickness)
    places = np.rint((heights - heights.min()) / step_mm).astype(int)
    depth = int(places.max()) + 1
    # from the positions themselves, which are more exact than a rounded distance
    step = (last - first) / (depth - 1) if depth > 1 else normal * step_mm
    sideways = np.abs(positions - (first + places[:, None] * step)).max()
    if sideways > 0.2 * min(*plane.spacing, step_mm):
        raise DataError(f"{path} has frames {sideways:.3g} mm beside the others; resample it")
    return Grid((plane.columns, plane.rows, depth), affine_of(plane, first.tolist(), step)), (
        places.tolist()
    )


def _step(
    path: Path,
    heights: npt.NDArray[np.float64],
    apart: npt.NDArray[np.float64],
    told: float | None,
    thickness: float | None,
) -> float:
    """Distance of slices of which some may be absent."""
    if not apart.size:
        step_mm = told or thickness
        if not step_mm or step_mm <= 0:
            raise DataError(f"{path} is one slice of unknown thickness; expected a volume")
        return step_mm
    for step_mm in (told, float(apart.min())):
        if not step_mm or step_mm <= 0:
            continue
        steps = (heights - heights.min()) / step_mm
        if np.abs(steps - np.rint(steps)).max() <= OFF_STEP * max(1.0, float(steps.max()) / 10):
            return step_mm
    raise DataError(f"{path} has frames at uneven distances; resample it to even slices")


def _values(segments: Sequence[Any]) -> dict[int, int]:
    """Label value of each segment: its number, or the value that this package noted."""
    noted = {
        int(each.SegmentNumber): VALUE.fullmatch(str(each.get("SegmentDescription") or ""))
        for each in segments
    }
    found = {place: int(match[1]) for place, match in noted.items() if match}
    if len(found) == len(noted) == len({*found.values()}):
        return found
    return {place: place for place in noted}


def _mapped(path: Path, stored: npt.NDArray[Any], values: dict[int, int]) -> npt.NDArray[Any]:
    strange = sorted({*np.unique(stored).tolist()} - {*values, 0})
    if strange:
        raise DataError(f"{path} holds segment {strange[0]}, which it does not describe")
    return stored


def _put(path: Path, labels: npt.NDArray[Any], mask: npt.NDArray[np.bool_], value: int) -> None:
    taken = np.unique(labels[mask])
    others = taken[(taken != 0) & (taken != value)].tolist()
    if others:
        count = int(np.count_nonzero((labels != 0) & mask))
        raise DataError(
            f"{path} is not one label map: segments {others[0]} and {value} overlap in {count} "
            "voxels of a slice; separate them into one file each"
        )
    labels[mask] = value
