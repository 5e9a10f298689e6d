"""Label maps written as DICOM segmentations that refer to the series they were made from.

References:
    .. [1] DICOM PS3.3, C.8.20:
       https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.8.20.html
    .. [2] Bridge et al., J. Digit. Imaging 35, 2022. https://doi.org/10.1007/s10278-022-00683-y
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import numpy.typing as npt
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.uid import ExplicitVRLittleEndian

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io.atomic import atomic
from medseg3d.io.dicom.headers import Slice, read_header, slices_of
from medseg3d.io.dicom.stacking import stack
from medseg3d.io.dicom.values import frames_of
from medseg3d.io.terms import Code, term_for
from medseg3d.io.volume import Header
from medseg3d.types import LabelMap

NEEDED = (
    *("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"),
    "FrameOfReferenceUID",
)
OPTIONAL = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime"),
)
"""What a segmentation takes over from the series; it may be empty, but not absent."""

FRAMES = "PerFrameFunctionalGroupsSequence"
SERIES_NUMBER = 1000
MOST_SEGMENTS = 65535
MAKER = "medseg3d"
LEARNED: Code = ("123110", "Artificial Intelligence")


def write(
    path: Path,
    labels: LabelMap,
    grid: Grid,
    header: Header,
    names: Mapping[int, str],
) -> None:
    """Write labels ``(I, J, K)``, one segment for each value that occurs.

    Args:
        path: Target.
        labels: On the grid of the series.
        grid: Of the series.
        header: Of the image, with the files and frames that it was made of.
        names: What each label is called.

    Raises:
        DataError: If a file of the series is gone or lacks an identifier, or the labels are not on
            its grid.
        RunError: If the target cannot be written.
    """
    files = header.sources
    images, order = _source(path, grid, header)
    present = sorted({*np.unique(labels).tolist()} - {0})
    values = present or sorted({*names} - {0}) or [1]
    if len(values) > MOST_SEGMENTS:
        raise DataError(f"{path}: {len(values)} labels given; a segmentation holds {MOST_SEGMENTS}")
    planes = _numbered(labels, values)
    marks = _mark_ends(planes)
    try:
        made = _segmentation(images, order, planes, grid, _descriptions(values, names))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # not quoted, since the reason may hold what the header says of the patient
        raise DataError(
            f"{path}: the headers of the series in {files[0].parent} do not make a valid "
            "segmentation; choose another format, such as nii.gz"
        ) from error
    _clear(made, marks, planes.shape)
    _refer_to_frames(made, order)
    with atomic(path) as beside:
        made.save_as(beside)


def _source(path: Path, grid: Grid, header: Header) -> tuple[list[Any], tuple[Slice, ...]]:
    """Headers of the series in the order of its files, and its slices in theirs."""
    files, frames = header.sources, {*header.frames}
    slices = [each for file in files for each in slices_of(file)]
    slices = [each for each in slices if each.frame is None or (each.path, each.frame) in frames]
    ordered = stack(files[0], slices, {}, files[0].parent)
    if not ordered.grid.same_as(grid):
        raise DataError(
            f"{path}: the labels are not on the grid of the series in {files[0].parent}: "
            f"{ordered.grid.difference(grid)}"
        )
    images = expect_identified(files)
    for image in images:
        for name in OPTIONAL:
            if name not in image:
                setattr(image, name, None)
    return images, ordered.slices


def expect_identified(files: Sequence[Path]) -> list[Any]:
    """Headers of a series that a segmentation can refer to.

    Raises:
        DataError: If one lacks an identifier, or several hold several slices each.
    """
    images = [read_header(file) for file in files]
    for file, image in zip(files, images, strict=True):
        absent = [name for name in NEEDED if not image.get(name)]
        if absent:
            raise DataError(
                f"a DICOM segmentation must refer to its series, but {file} has no {absent[0]}; "
                "choose another format, such as nii.gz"
            )
    if len(images) > 1 and any(FRAMES in image for image in images):
        raise DataError(
            f"a DICOM segmentation can refer to a single multi-frame file, but {files[0].parent} "
            f"has {len(files)}; choose another format, such as nii.gz"
        )
    return images


def _numbered(labels: LabelMap, values: Sequence[int]) -> npt.NDArray[Any]:
    """Planes of rows by columns with the numbers of segments, which run from 1."""
    planes = np.zeros(labels.shape[::-1], np.uint8 if len(values) < 256 else np.uint16)
    for place, plane in enumerate(planes):
        plane[:] = np.searchsorted([0, *values], labels[..., place].T)
    return planes


def _mark_ends(planes: npt.NDArray[Any]) -> list[int]:
    """Put one voxel into an empty first or last plane, so that its frame is not left out.

    Without these frames nothing in the file would tell how far the grid reaches.
    """
    ends = [place for place in {0, len(planes) - 1} if not planes[place].any()]
    for place in ends:
        planes[place, 0, 0] = 1
    return ends


def _clear(made: Any, marks: Sequence[int], shape: tuple[int, ...]) -> None:
    """Take the marks out of the packed pixels again."""
    if not marks:
        return
    frames = list(frames_of(made))
    normal = np.cross(*np.reshape(frames[0]["ImageOrientationPatient"], (2, 3)).astype(float))
    heights = [float(normal @ np.array(f["ImagePositionPatient"], float)) for f in frames]
    pixels = bytearray(made.PixelData)
    for place in marks:
        frame = int(np.argmin(heights) if place == 0 else np.argmax(heights))
        bit = frame * shape[1] * shape[2]
        pixels[bit >> 3] &= ~(1 << (bit & 7)) & 0xFF
    made.PixelData = bytes(pixels)


def _refer_to_frames(made: Any, order: Sequence[Slice]) -> None:
    """Leave out references to other frames of a multi-frame file in the same places."""
    chosen = {each.frame + 1 for each in order if each.frame is not None}
    for values in made.PerFrameFunctionalGroupsSequence:
        for derivation in values.get("DerivationImageSequence") or ():
            sources = derivation.SourceImageSequence
            ours = [each for each in sources if each.get("ReferencedFrameNumber") in chosen]
            derivation.SourceImageSequence = ours or sources


def _segmentation(
    images: list[Any],
    order: Sequence[Slice],
    planes: npt.NDArray[Any],
    grid: Grid,
    descriptions: list[SegmentDescription],
) -> Any:
    from medseg3d import __version__

    plane = order[0].plane
    assert plane is not None
    step_mm = grid.spacing[2]
    system = highdicom.CoordinateSystemNames.PATIENT
    return Segmentation(
        source_images=images,
        pixel_array=planes,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number="0",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="SEGMENTATION",
        content_description="Automatic segmentation",
        content_creator_name=None,
        pixel_measures=highdicom.PixelMeasuresSequence(
            pixel_spacing=plane.spacing, slice_thickness=step_mm, spacing_between_slices=step_mm
        ),
        plane_orientation=highdicom.PlaneOrientationSequence(system, plane.orientation),
        plane_positions=[
            highdicom.PlanePositionSequence(system, each.position or ()) for each in order
        ],
        omit_empty_frames=True,
        specific_character_set="ISO_IR 192",
    )


def _descriptions(values: Sequence[int], names: Mapping[int, str]) -> list[SegmentDescription]:
    from medseg3d import __version__

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, version=__version__, family=_concept(LEARNED, "DCM")
    )
    found = []
    for segment, value in enumerate(values, start=1):
        name = names.get(value, f"label {value}")
        term = term_for(name)
        described = SegmentDescription(
            segment_number=segment,
            segment_label=name[:64],
            segmented_property_category=_concept(term.category),
            segmented_property_type=_concept(term.kind),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        described.SegmentDescription = f"Label value {value}"
        if term.side:
            kind = described.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(term.side)]
        found.append(described)
    return found


def _concept(code: Code, scheme: str = "SCT") -> CodedConcept:
    return CodedConcept(code[0], scheme, code[1])
