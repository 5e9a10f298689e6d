"""A case for the page: image and label maps in RAS+ order, few enough voxels for a browser."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.annotation import only_annotated
from medseg3d.data.canonical import labels_on
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.geometry.orientation import Reorientation
from medseg3d.io import Volume, read_image, read_labels, write_image, write_scaled
from medseg3d.review.blocks import block_for, grid_of_blocks, label_of_blocks, mean_of_blocks
from medseg3d.review.display import Modality, modality_of, stored, window_of
from medseg3d.review.slices import Slice
from medseg3d.types import LabelMap, Size3, Spacing

RIGHT, FALSE_POSITIVE, FALSE_NEGATIVE, WRONG_LABEL = 1, 2, 3, 4
"""Values of the map of errors."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        id: Its name.
        images: One file per channel, or one with all channels.
        prediction: Predicted label map.
        reference: Label map by an expert, or None.
        uncertainty: Entropy that was written beside the prediction, or None.
        patient: Whom it is of.
    """

    id: str
    images: tuple[Path, ...]
    prediction: Path
    reference: Path | None = None
    uncertainty: Path | None = None
    patient: str = ""


@dataclass(frozen=True, eq=False)
class CaseVolumes:
    """A case in RAS+ order; every array is ``(I, J, K)`` on the grid.

    Attributes:
        image: Intensities of the channel that is shown.
        prediction: Predicted labels.
        reference: Labels by an expert, or None.
        uncertainty: Entropy of the prediction in [0, 1], or None.
        grid: Their grid.
        stored: Grid of the image as its file holds it.
    """

    image: npt.NDArray[Any]
    prediction: LabelMap
    reference: LabelMap | None
    uncertainty: npt.NDArray[np.float32] | None
    grid: Grid
    stored: Grid

    def annotated(self, ignored: int | None) -> "CaseVolumes":
        """The case with background wherever its reference has the value ``ignored``."""
        if self.reference is None:
            return self
        prediction, reference = only_annotated(self.prediction, self.reference, ignored)
        return replace(self, prediction=prediction, reference=reference)


@dataclass(frozen=True, eq=False)
class PageVolumes:
    """What the page shows of a case, on a grid that may have fewer voxels.

    Attributes:
        case: The case with at most ``MOST_VOXELS`` voxels.
        block: Voxels of the original along each axis that became one.
        original: Grid of the original in RAS+ order.
        modality: Kind of the image.
        window: Intensities shown black and white at first.
    """

    case: CaseVolumes
    block: Size3
    original: Grid
    modality: Modality
    window: tuple[float, float]


def load(files: CaseFiles, *, channel: int = 0) -> CaseVolumes:
    """Read a case and turn it to RAS+ order.

    Voxels of the image without a number become 0, since they are only looked at.

    Args:
        files: Where it lies.
        channel: Which channel of the image.

    Raises:
        DataError: If a file cannot be read, the channel does not exist, or a label map does not
            lie on the image's grid.
    """
    volume, channel = _image(files, channel)
    turn = Reorientation.to_canonical(volume.grid)

    def labels(path: Path) -> LabelMap:
        return turn.apply(labels_on(read_labels(path), volume.grid, of=f"image {volume.path}"))

    return CaseVolumes(
        image=turn.apply(volume.array[channel]),
        prediction=labels(files.prediction),
        reference=None if files.reference is None else labels(files.reference),
        uncertainty=_uncertainty(files, turn),
        grid=turn.grid,
        stored=volume.grid,
    )


def for_page(case: CaseVolumes, *, channel_name: str = "") -> PageVolumes:
    """The case with as many voxels as the page shows, and how to show it.

    Args:
        case: The whole case.
        channel_name: What the data set calls the channel, to tell CT from MR.
    """
    modality = modality_of(case.image, channel_name)
    labeled = case.prediction if case.reference is None else case.reference
    window = window_of(case.image, labeled, modality)
    original = case.grid
    block = block_for(original.shape, original.spacing)
    if block != (1, 1, 1):
        case = CaseVolumes(
            mean_of_blocks(case.image, block),
            label_of_blocks(case.prediction, block),
            None if case.reference is None else label_of_blocks(case.reference, block),
            None,
            grid_of_blocks(original, block),
            case.stored,
        )
    return PageVolumes(case, block, original, modality, window)


def error_map(prediction: LabelMap, reference: LabelMap) -> npt.NDArray[np.uint8]:
    """Where prediction and reference agree on a label, and how they differ elsewhere.

    Returns:
        0 where both are background, 1 where both have the same label, 2 where only the
        prediction has one (false positive), 3 where only the reference has one (false
        negative), 4 where the labels differ.

    Examples:
        >>> error_map(np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 2])).tolist()
        [0, 1, 2, 3, 4]
    """
    ours, theirs = prediction > 0, reference > 0
    errors = FALSE_POSITIVE * ours.astype(np.uint8) + FALSE_NEGATIVE * theirs.astype(np.uint8)
    both = ours & theirs
    errors[both] = np.where(prediction[both] == reference[both], RIGHT, WRONG_LABEL)
    return errors


def script_of(case_id: str, page: PageVolumes, worst: Mapping[int, Slice]) -> dict[str, Any]:
    """What the script of a case holds, for ``window.REVIEW_CASE``.

    The volumes are packed as if their axes were those of the patient, since the viewer would
    turn strongly oblique ones its own way; where voxels truly lie is told beside them.

    Args:
        case_id: Name of the case.
        page: Its volumes.
        worst: Slices to look at first, in voxels of the original.
    """
    case, grid = page.case, page.case.grid
    kept = stored(case.image, page.modality)
    errors = None if case.reference is None else error_map(case.prediction, case.reference)
    return {
        "id": case_id,
        "modality": page.modality,
        "window": list(page.window),
        "image": packed(kept.array, grid.spacing, slope=kept.slope),
        "prediction": packed(_narrow(case.prediction), grid.spacing),
        "reference": (
            None if case.reference is None else packed(_narrow(case.reference), grid.spacing)
        ),
        "errors": None if errors is None else packed(errors, grid.spacing),
        "worst": {str(label): _place(found, page) for label, found in worst.items()},
        "reduced": page.block != (1, 1, 1),
        "original_shape": list(page.original.shape),
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing),
        "voxel_to_mm": grid.affine[:3].tolist(),
        "voxel_to_file": _to_file(page).tolist(),
    }


def packed(array: npt.NDArray[Any], spacing: Spacing, *, slope: float = 1.0) -> str:
    """A gzipped NIfTI file of ``(I, J, K)`` in RAS order as base64.

    Args:
        array: Small integers.
        spacing: Of the voxels in mm.
        slope: What readers multiply them by.
    """
    like = Volume.from_array(array[None], Grid(array.shape, np.diag([*spacing, 1.0])))
    with TemporaryDirectory(prefix="medseg3d-") as folder:
        path = Path(folder) / "volume.nii.gz"
        if slope == 1.0:
            write_image(path, array, like)
        else:
            write_scaled(path, array, like, slope=slope)
        return base64.b64encode(path.read_bytes()).decode("ascii")


def _image(files: CaseFiles, channel: int) -> tuple[Volume, int]:
    """The file with the channel, and its number in it."""
    one_each = len(files.images) > 1
    if not one_each or channel < len(files.images):
        path, place = (files.images[channel], 0) if one_each else (files.images[0], channel)
        volume = read_image(path, replace_nonfinite=0.0)
        if place < len(volume.array):
            return volume, place
    num_channels = len(files.images) if one_each else len(volume.array)
    raise DataError(
        f"{files.images[0]} has {num_channels} channels, so there is no channel {channel}; they "
        "are counted from 0"
    )


def _uncertainty(files: CaseFiles, turn: Reorientation) -> npt.NDArray[np.float32] | None:
    if files.uncertainty is None:
        return None
    volume = read_image(files.uncertainty, replace_nonfinite=0.0)
    if not volume.grid.same_as(turn.source):
        raise DataError(
            f"{files.uncertainty} is not on the grid of its image: "
            f"{turn.source.difference(volume.grid)}; remove it, or predict again with "
            "--uncertainty"
        )
    return turn.apply(volume.image[0])


def _narrow(labels: LabelMap) -> LabelMap:
    """The labels in the smallest type that the page reads."""
    highest = int(labels.max())
    fitting = [kind for kind in (np.uint8, np.uint16) if highest <= np.iinfo(kind).max]
    return labels.astype(fitting[0] if fitting else np.int32, copy=False)


def _place(found: Slice, page: PageVolumes) -> dict[str, Any]:
    """A slice as the page understands it: with a voxel among those that are shown."""
    return {
        "axis": found.axis,
        "voxel": [at // joined for at, joined in zip(found.voxel, page.block, strict=True)],
        "error_voxels": found.error_voxels,
    }


def _to_file(page: PageVolumes) -> npt.NDArray[np.int64]:
    """From a voxel that is shown to the first one in the file that it stands for, ``(3, 4)``."""
    turned = np.linalg.solve(page.case.stored.affine, page.original.affine)
    steps: npt.NDArray[np.int64] = np.rint(turned @ np.diag([*page.block, 1])).astype(np.int64)
    return steps[:3]
