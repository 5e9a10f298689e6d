"""Headers of DICOM images: one :class:`Slice` per frame, with what stacking needs and no more.

Only the tags listed here are read. What names the patient is compared with the description
of the series and not kept.

References:
    .. [1] DICOM PS3.3, C.7.6.2 (plane), C.7.6.16 (functional groups):
       https://dicom.nema.org/medical/dicom/current/output/chtml/part03
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom

from medseg3d.errors import DataError, MedSeg3DError
from medseg3d.io.dicom.sniff import Kind, files_in, kind_of, why_none
from medseg3d.io.dicom.values import (
    DEFLATED,
    PATIENT,
    Values,
    description_of,
    expect_inflatable,
    frames_of,
    hush,
    number,
    numbers,
)
from medseg3d.io.streams import regular_size

TRAITS = {
    "b": ("DiffusionBValue",),
    "time": ("TemporalPositionIdentifier", "TemporalPositionIndex"),
    "phase": ("NominalPercentageOfCardiacPhase", "TriggerTime", "NominalCardiacTriggerDelayTime"),
    "echo": ("EchoNumbers", "EffectiveEchoTime", "EchoTime"),
    "type": ("FrameType", "ImageType"),
    "acquisition": ("AcquisitionNumber", "FrameAcquisitionNumber"),
    "kernel": ("ConvolutionKernel",),
}
"""By what the slices of one position may differ, the likeliest first, and where it stands."""

PRIVATE_B_VALUES = {
    (0x0019, 0x100C): (0x0019, 0x0010, "SIEMENS MR HEADER"),
    (0x0043, 0x1039): (0x0043, 0x0010, "GEMS_PARM_01"),
}
"""Private tags of diffusion weightings, with the tag and text of their owner."""

NO_PART_OF_A_CHOICE = re.compile(r"[/,=\\\0]+")
ROUNDING = 1e-4
"""By how much directions and pixel distances of one volume may differ."""

WANTED = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber"),
    *("Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated"),
    *("PhotometricInterpretation", "ImageOrientationPatient", "ImagePositionPatient"),
    *("PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "RescaleSlope"),
    *("RescaleIntercept", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ModalityLUTSequence", "SeriesDescription", *PATIENT),
    *(keyword for keywords in TRAITS.values() for keyword in keywords),
    *PRIVATE_B_VALUES,
    *(owner[:2] for owner in PRIVATE_B_VALUES.values()),
)


@dataclass(frozen=True)
class Plane:
    """The grid within a slice.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        orientation: Direction of increasing column, then of increasing row, LPS.
        spacing: Distance between rows, then between columns, in mm.
    """

    rows: int
    columns: int
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]

    def same_as(self, other: "Plane") -> bool:
        """Whether both agree, directions and distances within rounding."""
        ours, theirs = (
            (each.rows, each.columns, *each.orientation, *each.spacing) for each in (self, other)
        )
        return all(
            math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING)
            for a, b in zip(ours, theirs, strict=True)
        )


@dataclass(frozen=True)
class Slice:
    """One slice of an image.

    Args:
        path: Its file.
        frame: Number of the frame in a multi-frame file, from 0; None in one of a single image.
        uid: Identifier of the file's content.
        series: What keeps it apart from other series.
        plane: The grid within the slice, None if the header does not tell.
        position: Center of the first voxel in LPS mm, None if the header does not tell.
        step_mm: Distance to the next slice as far as the header tells.
        traits: What it may be chosen by, as texts: series, modality, size, plane, b, echo, ...
        is_localizer: Whether it is a scout image.
        is_inverted: Whether low values are meant to be shown white.
        slope: Factor of the stored values.
        intercept: Added to them after that.
        bits: Allocated bits of a stored value.
        description: What the scanner calls its series, empty if that may name the patient.
        fault: Why it can be no part of a volume, empty if it can.
    """

    path: Path
    frame: int | None
    uid: str
    series: str
    plane: Plane | None
    position: tuple[float, ...] | None
    step_mm: float | None
    traits: dict[str, str]
    is_localizer: bool
    is_inverted: bool
    slope: float
    intercept: float
    bits: int
    description: str
    fault: str = ""


def slices_in(folder: Path) -> tuple[list[Slice], list[str]]:
    """All slices directly inside a folder, and the kinds of the other files there.

    Raises:
        DataError: If the folder cannot be listed or a header cannot be understood.
    """
    slices: list[Slice] = []
    others: list[str] = []
    try:
        files = list(files_in(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror})") from error
    for file in files:
        kind = kind_of(file)
        if kind in (Kind.SLICE, Kind.FRAMES):
            slices += slices_of(file)
        elif kind is not None:
            others.append(what_is(file))
        elif (
            file.name.lower().endswith(".dcm")
            or regular_size(file) == 0
            or why_none(file).startswith("cannot")
        ):
            # a slice at the end of a series would not be missed otherwise
            raise DataError(
                f"{file} {why_none(file)}; copy it again, or remove it if it is no slice"
            )
        else:
            others.append("no DICOM")
    return slices, others


def slices_of(file: Path) -> list[Slice]:
    """The slices of one file.

    Raises:
        DataError: If its header breaks off or cannot be understood.
    """
    header, reaches_pixels = _header(file, WANTED)
    if not reaches_pixels:
        raise DataError(f"{file} holds no pixels, or its header breaks off; copy it again")
    try:
        return list(_slices(file, header))
    except MedSeg3DError:
        raise
    except Exception as error:  # pydicom converts values late and lets anything through
        raise _not_understood(file) from error


def read_header(file: Path, tags: Any = None) -> Any:
    """The data set of a file up to its pixels, only ``tags`` if they are given.

    Raises:
        DataError: If it cannot be understood.
    """
    return _header(file, tags)[0]


def _header(file: Path, tags: Any) -> tuple[Any, bool]:
    """The data set, and whether pixels follow it as far as can be told."""
    hush()
    expect_inflatable(file)
    try:
        with file.open("rb") as stream:
            found = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=tags, force=True)
            has_more = bool(stream.read(1))
        return found, has_more or found.file_meta.get("TransferSyntaxUID") == DEFLATED.decode()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or 'it breaks off'}") from error
    except Exception as error:  # whatever a damaged file provokes
        raise _not_understood(file) from error


def what_is(file: Path) -> str:
    """What a DICOM file stores, by the name that the standard gives to it."""
    header = read_header(file, ("SOPClassUID",))
    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
    return str(pydicom.uid.UID(uid).name).removesuffix(" Storage") if uid else "DICOM"


def plane_of(values: Values) -> Plane | None:
    """The grid within a slice, None if it is not told or makes no sense."""
    orientation = numbers(values, "ImageOrientationPatient", 6)
    spacing = numbers(values, "PixelSpacing", 2)
    rows, columns = values.get("Rows"), values.get("Columns")
    if orientation is None or spacing is None or not rows or not columns or min(spacing) <= 0:
        return None
    return Plane(int(rows), int(columns), orientation, spacing)


def _slices(file: Path, header: Any) -> Iterator[Slice]:
    count = int(header.get("NumberOfFrames") or 1)
    own = header.get("PerFrameFunctionalGroupsSequence")
    if own is None and count > 1:
        raise DataError(
            f"{file} holds {count} frames but no position for each; convert it to single slices"
        )
    if own is not None and len(own) != count:
        raise DataError(f"{file} declares {count} frames but describes {len(own)}; copy it again")
    description = description_of(header)
    for place, values in enumerate(frames_of(header)):
        made = _slice(file, place if own is not None else None, values, _b_value(header, values))
        yield replace(made, description=description, fault=_fault(file, header, values))


def _fault(file: Path, header: Any, values: Values) -> str:
    """Why a slice can be no part of a volume, empty if it can."""
    if int(values.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in str(
        values.get("PhotometricInterpretation")
    ):
        return f"{file} holds colors, expected one number per voxel"
    if "ModalityLUTSequence" in header and "RescaleSlope" not in values:
        return (
            f"{file} maps its values by a table (ModalityLUTSequence), expected a slope and an "
            "intercept; convert the series"
        )
    if not number(values, "RescaleSlope", 1.0) or number(values, "RescaleIntercept", 0.0) is None:
        return f"{file} scales its values by zero or no number; repair the header"
    return ""


def _slice(file: Path, frame: int | None, values: Values, b_value: str) -> Slice:
    image_type = [str(part).upper() for part in values.get("ImageType") or ()]
    plane = plane_of(values)
    traits = {
        "series": str(values.get("SeriesNumber") or ""),
        "modality": str(values.get("Modality") or "?"),
        "size": f"{values.get('Columns')}x{values.get('Rows')}",
    }
    if plane is not None:
        traits["plane"] = _plane_name(plane)
    for trait, keywords in TRAITS.items():
        texts = [_text(values[keyword]) for keyword in keywords if values.get(keyword) is not None]
        if text := b_value if trait == "b" else next(iter(texts), ""):
            traits[trait] = NO_PART_OF_A_CHOICE.sub("-", text).strip()
    series = str(values.get("SeriesInstanceUID") or "")
    return Slice(
        path=file,
        frame=frame,
        uid=str(values.get("SOPInstanceUID") or ""),
        series=series or f"{values.get('StudyInstanceUID') or ''}/{traits['series']}",
        plane=plane,
        position=numbers(values, "ImagePositionPatient", 3),
        step_mm=number(values, "SpacingBetweenSlices", number(values, "SliceThickness")),
        traits=traits,
        is_localizer="LOCALIZER" in image_type,
        is_inverted=values.get("PhotometricInterpretation") == "MONOCHROME1",
        slope=number(values, "RescaleSlope", 1.0) or 1.0,
        intercept=number(values, "RescaleIntercept", 0.0) or 0.0,
        bits=int(values.get("BitsAllocated") or 16),
        description="",
    )


def _b_value(header: Any, values: Values) -> str:
    if values.get("DiffusionBValue") is not None:
        return _text(values["DiffusionBValue"])
    for tag, (group, owner, name) in PRIVATE_B_VALUES.items():
        if tag in header and (group, owner) in header and header[group, owner].value == name:
            value = header[tag].value
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
            digits = text.strip("\0 []").partition("\\")[0].partition(",")[0].strip()
            # one maker adds a thousand million to mark the value as such
            return str(int(digits) % 1_000_000_000) if digits.isdigit() else ""
    return ""


def _plane_name(plane: Plane) -> str:
    x, y = plane.orientation[:3], plane.orientation[3:]
    normal = [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]]
    across = max(range(3), key=lambda axis: abs(normal[axis]))
    return ("sagittal", "coronal", "axial")[across]


def _text(value: Any) -> str:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        try:
            return f"{float(value):g}"
        except (TypeError, ValueError):
            return str(value).strip()
    return "-".join(_text(part) for part in value)


def _not_understood(file: Path) -> DataError:
    return DataError(f"{file} has a DICOM header that cannot be understood; copy it again")
