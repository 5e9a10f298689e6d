"""Score one case: every label's metrics, volumes and status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from medseg3d.data.threads import in_threads
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.metrics.distances import SurfaceKind
from medseg3d.metrics.masks import Counts, MaskPair
from medseg3d.scoring.columns import Column
from medseg3d.scoring.columns import columns as usual_columns
from medseg3d.scoring.counting import Box, Extent, extents
from medseg3d.types import LabelMap

Status: TypeAlias = Literal["ok", "missed", "spurious", "both_empty"]
"""``missed``: only the reference has the label; ``spurious``: only the prediction has."""


@dataclass(frozen=True)
class Row:
    """Scores of one label in one case.

    ``both_empty`` leaves most scores undefined (``nan``). For ``missed`` and ``spurious`` ratios
    such as Dice are 0 and each distance is the diagonal of the image, the worst there is: such a
    case stays in every mean.

    Attributes:
        case: Identifier of the case.
        label: Its value in the label maps.
        name: Name of the label.
        scores: Values by name of the column.
        prediction_ml: Volume of the label in the prediction, in mL.
        reference_ml: Volume of the label in the reference, in mL.
        status: Which of the two label maps have the label.
        patient: Whom the case shows, where that is known.
        model: What made the prediction, where several are compared.
    """

    case: str
    label: int
    name: str
    scores: Mapping[str, float]
    prediction_ml: float
    reference_ml: float
    status: Status
    patient: str = ""
    model: str = ""


def score_case(
    case_id: str,
    prediction: LabelMap,
    reference: LabelMap,
    grid: Grid,
    *,
    labels: Mapping[int, str],
    columns: Sequence[Column] | None = None,
    border_is_surface: bool = True,
    surface: SurfaceKind = "voxel",
    num_ignored: int = 0,
    patient: str = "",
    model: str = "",
    threads: int = 1,
) -> list[Row]:
    """Compare two label maps of one case that lie on one grid.

    Args:
        case_id: Identifier of the case.
        prediction: Predicted labels, ``(I, J, K)``.
        reference: Reference labels, same grid; that they lie on it is the caller's check.
        grid: Their grid: spacing for distances, ``|det|`` of its affine for volumes.
        labels: Names by label, in the order of the rows; background (0) is left out. Voxels of
            labels that are not named here belong to no row.
        columns: Metrics with their options; by default the usual ones.
        border_is_surface: Whether voxels at the border of the volume count as surface.
        surface: Whether surfaces are made of voxels, each counting the same, or of the pieces of
            a mesh, weighted by their area.
        num_ignored: Voxels that nobody annotated, which are background in both label maps: they
            are no agreement on the background.
        patient: Whom the case shows.
        model: What made the prediction.
        threads: How many labels to work on at once.

    Returns:
        One row per label.

    Raises:
        DataError: If an array is not of integers or has not the shape of the grid.
        ConfigError: If an option of a metric cannot be used.
    """
    wanted = _checked(case_id, prediction, reference, grid, labels)
    chosen = usual_columns() if columns is None else columns
    # files are read with I running fastest; no score depends on the order of the axes
    order = tuple(np.argsort(np.abs(reference.strides))[::-1].tolist())
    predicted, expected = (
        np.ascontiguousarray(array.transpose(order)) for array in (prediction, reference)
    )
    turned = _reordered(grid, order)
    found = dict(zip(wanted, extents(predicted, expected, wanted, threads=threads), strict=True))

    def row(label: int) -> Row:
        extent = found[label]
        agreeing = extent.counts.true_negatives - num_ignored
        counts = replace(extent.counts, true_negatives=agreeing)
        around = 1 if counts.union and not border_is_surface else 0
        box = _with_margin(extent.box, around)
        masks = MaskPair(
            predicted[box] == label,
            expected[box] == label,
            turned.spacing,
            image_shape=predicted.shape,
            voxel_volume_mm3=turned.voxel_volume_ml * 1000.0,
            known_counts=counts,
        )
        return Row(
            case=case_id,
            label=label,
            name=labels[label],
            scores={
                column.name: _exported(
                    column,
                    column.score(masks, surface=surface, border=border_is_surface),
                    turned,
                )
                for column in chosen
            },
            prediction_ml=counts.predicted * turned.voxel_volume_ml,
            reference_ml=counts.expected * turned.voxel_volume_ml,
            status=_status(counts),
            patient=patient,
            model=model,
        )

    if threads <= 1 or len(wanted) < 2:
        return [row(label) for label in wanted]
    largest_first = sorted(wanted, key=lambda label: -_size(found[label]))
    rows = dict(zip(largest_first, in_threads(row, largest_first, threads=threads), strict=True))
    return [rows[label] for label in wanted]


def _checked(
    case_id: str,
    prediction: LabelMap,
    reference: LabelMap,
    grid: Grid,
    labels: Mapping[int, str],
) -> list[int]:
    """Labels that get a row, if the label maps can be compared."""
    for role, array in (("prediction", prediction), ("reference", reference)):
        if not (np.issubdtype(array.dtype, np.integer) and array.shape == grid.shape):
            raise DataError(
                f"case {case_id}: {role} has shape {array.shape} and type {array.dtype}; "
                f"expected whole-number labels of shape {grid.shape}"
            )
    wanted = [label for label in labels if label != 0]
    if min(wanted, default=1) < 0:
        raise DataError(f"case {case_id}: label {min(wanted)} is negative; labels count from 0")
    return wanted


def _reordered(grid: Grid, order: Sequence[int]) -> Grid:
    """The same grid with its voxel axes in another order."""
    i, j, k = (grid.shape[axis] for axis in order)
    return Grid((i, j, k), grid.affine[:, [*order, 3]])


def _with_margin(box: Box, margin: int) -> Box:
    """The box and a margin around it, as far as the image goes."""
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)


def _size(extent: Extent) -> int:
    size = 1
    for side in extent.box:
        size *= side.stop - side.start
    return size


def _exported(column: Column, value: float, grid: Grid) -> float:
    """The worst distance there is in place of an infinite one."""
    if not np.isinf(value) or column.unit != "mm":
        return value
    return float(np.linalg.norm(np.multiply(grid.shape, grid.spacing)))


def _status(counts: Counts) -> Status:
    if counts.predicted:
        return "ok" if counts.expected else "spurious"
    return "missed" if counts.expected else "both_empty"
