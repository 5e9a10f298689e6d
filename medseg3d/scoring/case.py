"""Score one case: every label's overlap, surface distances and volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy import ndimage

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.metrics.overlap import overlap
from medseg3d.metrics.surface import surface_distances
from medseg3d.types import LabelMap, Mask

Status: TypeAlias = Literal["ok", "missed", "spurious", "both_empty"]
"""``missed``: only the reference has the label; ``spurious``: only the prediction has."""

Box: TypeAlias = tuple[slice, ...]

MOST_PLACES = 65_535
"""Largest label up to which a place is kept for every label below it."""

NOWHERE: Box = (slice(0, 0),) * 3


@dataclass(frozen=True)
class Row:
    """Scores of one label in one case; the fields are the columns of the table.

    ``both_empty`` leaves overlap and distances undefined (``nan``). For ``missed`` and
    ``spurious`` overlap and surface Dice are 0 and each distance is the diagonal of the image,
    the worst there is: such a case stays in every mean.
    """

    case: str
    label: int
    name: str
    dice: float
    iou: float
    precision: float
    recall: float
    hausdorff_mm: float
    hausdorff_95_mm: float
    assd_mm: float
    surface_dice: float
    prediction_ml: float
    reference_ml: float
    status: Status


def score_case(
    case_id: str,
    prediction: LabelMap,
    reference: LabelMap,
    grid: Grid,
    *,
    labels: Mapping[int, str],
    tolerance_mm: float = 1.0,
    border_is_surface: bool = True,
) -> list[Row]:
    """Compare two label maps of one case that lie on one grid.

    Args:
        case_id: Identifier of the case, the table's first column.
        prediction: Predicted labels, ``(I, J, K)``.
        reference: Reference labels, same grid; that they lie on it is the caller's check.
        grid: Their grid: spacing for distances, ``|det|`` of its affine for volumes.
        labels: Names by label, in the order of the rows; background (0) is left out. Voxels of
            labels that are not named here belong to no row.
        tolerance_mm: Distance within which surface Dice accepts a surface voxel.
        border_is_surface: Whether voxels at the border of the volume count as surface.

    Returns:
        One row per label.

    Raises:
        DataError: If an array is not of integers or has not the shape of the grid.
        ConfigError: If the tolerance is negative or not finite.
    """
    for role, array in (("prediction", prediction), ("reference", reference)):
        if not (np.issubdtype(array.dtype, np.integer) and array.shape == grid.shape):
            raise DataError(
                f"case {case_id}: {role} has shape {array.shape} and type {array.dtype}; "
                f"expected whole-number labels of shape {grid.shape}"
            )
    wanted = [label for label in labels if label != 0]
    if min(wanted, default=1) < 0:
        raise DataError(f"case {case_id}: label {min(wanted)} is negative; labels count from 0")
    # files are read with I running fastest; no score depends on the order of the axes
    order = tuple(np.argsort(np.abs(reference.strides))[::-1].tolist())
    prediction, reference = (
        np.ascontiguousarray(array.transpose(order)) for array in (prediction, reference)
    )
    grid = _reordered(grid, order)
    margin = 0 if border_is_surface else 1
    boxes = _boxes(prediction, reference, wanted, margin)
    return [
        _score_label(
            (case_id, label, labels[label]),
            prediction[box] == label,
            reference[box] == label,
            grid,
            tolerance_mm,
            border_is_surface,
        )
        for label, box in zip(wanted, boxes, strict=True)
    ]


def _reordered(grid: Grid, order: Sequence[int]) -> Grid:
    """The same grid with its voxel axes in another order."""
    i, j, k = (grid.shape[axis] for axis in order)
    return Grid((i, j, k), grid.affine[:, [*order, 3]])


def _score_label(
    key: tuple[str, int, str],
    prediction: Mask,
    reference: Mask,
    grid: Grid,
    tolerance_mm: float,
    border_is_surface: bool,
) -> Row:
    """Row of one label from its masks, cropped to a box around both."""
    counts = overlap(prediction, reference)
    distances = surface_distances(prediction, reference, grid.spacing, border=border_is_surface)
    diagonal_mm = float(np.linalg.norm(np.multiply(grid.shape, grid.spacing)))
    hausdorff_mm, hausdorff_95_mm, assd_mm = (
        diagonal_mm if np.isinf(distance) else distance
        for distance in (distances.hausdorff(), distances.hausdorff(95.0), distances.assd())
    )
    predicted = counts.true_positives + counts.false_positives
    expected = counts.true_positives + counts.false_negatives
    case_id, label, name = key
    return Row(
        case=case_id,
        label=label,
        name=name,
        dice=counts.dice,
        iou=counts.iou,
        precision=counts.precision,
        recall=counts.recall,
        hausdorff_mm=hausdorff_mm,
        hausdorff_95_mm=hausdorff_95_mm,
        assd_mm=assd_mm,
        surface_dice=distances.surface_dice(tolerance_mm),
        prediction_ml=predicted * grid.voxel_volume_ml,
        reference_ml=expected * grid.voxel_volume_ml,
        status=_status(predicted > 0, expected > 0),
    )


def _status(is_predicted: bool, is_expected: bool) -> Status:
    if is_predicted:
        return "ok" if is_expected else "spurious"
    return "missed" if is_expected else "both_empty"


def _boxes(
    prediction: LabelMap, reference: LabelMap, labels: Sequence[int], margin: int
) -> list[Box]:
    """Smallest box around each label in both maps and a margin, in one pass over each map."""
    highest = max(labels, default=0)
    if highest > MOST_PLACES:
        prediction, reference = _numbered(prediction, labels), _numbered(reference, labels)
        highest, labels = len(labels), range(1, len(labels) + 1)
    found = [ndimage.find_objects(array, max_label=highest) for array in (prediction, reference)]
    boxes = []
    for label in labels:
        corners = [objects[label - 1] for objects in found if objects[label - 1] is not None]
        boxes.append(
            tuple(
                slice(
                    max(0, min(side.start for side in axis) - margin),
                    max(side.stop for side in axis) + margin,
                )
                for axis in zip(*corners, strict=True)
            )
            if corners
            else NOWHERE
        )
    return boxes


def _numbered(array: LabelMap, labels: Sequence[int]) -> LabelMap:
    """The map with the ``n``-th of ``labels`` as ``n``, counted from 1, and 0 elsewhere."""
    order = np.argsort(labels)
    values = np.asarray(labels)[order]
    place = np.searchsorted(values, array).clip(max=len(values) - 1)
    return np.where(values[place] == array, order[place] + 1, 0).astype(np.int32)
