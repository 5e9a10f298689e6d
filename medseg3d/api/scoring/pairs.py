"""Score one pair of label maps from their files, here or in a worker."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.annotation import only_annotated
from medseg3d.data.canonical import labels_on
from medseg3d.data.regions import region_mask
from medseg3d.data.regrid import is_transposed
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import LabelVolume, read_labels, sources
from medseg3d.io.digests import sha256_of
from medseg3d.io.volume import CROP_TOLERANCE
from medseg3d.metrics.confusion import confusion_matrix
from medseg3d.metrics.distances import SurfaceKind
from medseg3d.scoring import Column, Row, score_case
from medseg3d.types import LabelMap

log = logging.getLogger("medseg3d")

MOST_LABELS = 1000
"""Without names for them, more labels in a case than any atlas has mean that it is an image."""

SHOWN = 10
PART = 1 << 20
"""Voxels that are looked at in one go."""

TOLERANCE = 1e-3
"""Voxels at any corner by which two grids count as one (:meth:`Grid.same_as`)."""


@dataclass(frozen=True)
class Pair:
    """One prediction to score.

    Attributes:
        case: Its id.
        prediction: Predicted label map.
        reference: Label map by an expert.
        model: What made the prediction, where there are several.
        patient: Whom the case is of.
    """

    case: str
    prediction: Path
    reference: Path
    model: str = ""
    patient: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Tells it from all others."""
        return self.case, self.model

    def absolute(self) -> "Pair":
        """The same files, wherever the current folder is."""
        prediction, reference = self.prediction.absolute(), self.reference.absolute()
        return Pair(self.case, prediction, reference, self.model, self.patient)


@dataclass(frozen=True)
class Rules:
    """What is the same for all cases.

    Attributes:
        names: Labels that are known, with their names.
        all_named: Whether no others count.
        columns: Metrics with their options, of labels and of whole label maps.
        surface: What surfaces are made of.
        border_is_surface: Whether voxels at the border of the volume are surface.
        resample: Whether a prediction may lie on another grid.
        threads: For each case.
        ignore_label: Value in references that marks voxels that nobody annotated.
        regions: Unions of label values that are scored too, by name.
    """

    names: Mapping[int, str]
    all_named: bool
    columns: Sequence[Column]
    surface: SurfaceKind = "voxel"
    border_is_surface: bool = True
    resample: bool = False
    threads: int = 1
    ignore_label: int | None = None
    regions: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What came of one pair.

    Attributes:
        rows: One per label.
        prediction: SHA-256 of each of its files, by name.
        reference: Likewise.
        is_resampled: Whether the prediction was brought onto another grid.
        regions: One per region, numbered from 0.
        of_case: Values of the metrics of whole label maps, by name of the column.
    """

    rows: tuple[Row, ...]
    prediction: Mapping[str, str]
    reference: Mapping[str, str]
    is_resampled: bool = False
    regions: tuple[Row, ...] = ()
    of_case: Mapping[str, float] = field(default_factory=dict)


def score_pair(rules: Rules, pair: Pair) -> Scored:
    """Scores of every label of one case.

    Raises:
        DataError: If a file cannot be read, or the label maps lie on different grids.
    """
    stored, reference = read_labels(pair.prediction), read_labels(pair.reference)
    digests = _digests(pair.prediction), _digests(pair.reference)
    for volume in (stored, reference):
        for note in volume.notes:
            log.warning("%s", note)
    crop, reference = reference, _filled(reference, stored, resample=rules.resample)
    prediction = _on_grid(stored, reference)
    is_resampled = prediction is None
    if prediction is None:
        prediction = _resampled(
            pair.case, stored, crop, onto=reference.grid, allowed=rules.resample
        )
    ignored = rules.ignore_label
    prediction, expected = only_annotated(prediction, reference.labels, ignored)
    num_ignored = 0 if ignored is None else int(np.count_nonzero(reference.labels == ignored))
    names = rules.names if rules.all_named else _named(rules.names, prediction, expected)
    scored = partial(
        score_case,
        pair.case,
        grid=reference.grid,
        columns=[column for column in rules.columns if not column.is_of_case],
        border_is_surface=rules.border_is_surface,
        surface=rules.surface,
        num_ignored=num_ignored,
        patient=pair.patient,
        model=pair.model,
        threads=rules.threads,
    )
    rows = scored(prediction, expected, labels=names)
    regions: list[Row] = []
    for number, (name, values) in enumerate(rules.regions.items()):
        masks = (region_mask(each, values) for each in (prediction, expected))
        regions += [replace(row, label=number) for row in scored(*masks, labels={1: name})]
    of_case: dict[str, float] = {}
    if whole := [column for column in rules.columns if column.is_of_case]:
        counts = _confusion(prediction, expected, names)
        counts[0, 0] -= num_ignored
        of_case = {column.name: column.score(counts) for column in whole}
    return Scored(tuple(rows), *digests, is_resampled, tuple(regions), of_case)


def nearest_on(labels: LabelMap, source: Grid, target: Grid) -> LabelMap:
    """The label of the nearest voxel, and background where ``source`` does not reach.

    Args:
        labels: ``(I, J, K)`` on ``source``.
        source: Where the labels lie.
        target: Where they are wanted.

    Returns:
        Labels of the same type on ``target``.

    Examples:
        >>> labels = np.array([4, 7], np.uint8).reshape(2, 1, 1)
        >>> affine = np.diag([0.5, 1.0, 1.0, 1.0])
        >>> affine[0, 3] = -0.25
        >>> fine = Grid((6, 1, 1), affine)
        >>> nearest_on(labels, Grid((2, 1, 1), np.eye(4)), fine).ravel().tolist()
        [4, 4, 7, 7, 0, 0]
    """
    from scipy import ndimage

    steps = np.linalg.solve(source.affine, target.affine)
    out = np.empty(target.shape, labels.dtype)
    ndimage.affine_transform(
        labels,
        steps[:3, :3],
        steps[:3, 3],
        output_shape=target.shape,
        output=out,
        order=0,
        mode="grid-constant",
        prefilter=False,
    )
    return out


def _filled(reference: LabelVolume, stored: LabelVolume, *, resample: bool) -> LabelVolume:
    """A cropped reference with background as far as the prediction reaches; others as they are."""
    filled = reference.filled(stored.grid)
    if filled.grid.same_as(stored.grid) or not (stored.is_cropped or resample):
        return filled
    return reference.filled(_covering(reference.grid, stored.grid))


def _covering(grid: Grid, other: Grid) -> Grid:
    """The grid with as many more voxels at its sides as it takes to cover ``other``."""
    edges = np.array(list(product(*((-0.5, length - 0.5) for length in other.shape))))
    steps = np.linalg.solve(grid.affine, other.affine)
    places = edges @ steps[:3, :3].T + steps[:3, 3]
    low = np.floor(places.min(axis=0) + 0.5 + CROP_TOLERANCE).clip(max=0)
    high = np.ceil(places.max(axis=0) + 0.5 - CROP_TOLERANCE).clip(min=grid.shape)
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ low
    i, j, k = (high - low).astype(int).tolist()
    return Grid((i, j, k), affine)


def _on_grid(stored: LabelVolume, reference: LabelVolume) -> LabelMap | None:
    """Predicted labels in the voxel order of the reference, None if they lie elsewhere."""
    try:
        return labels_on(stored, reference.grid)
    except DataError:
        return None


def _resampled(
    case_id: str, stored: LabelVolume, reference: LabelVolume, *, onto: Grid, allowed: bool
) -> LabelMap:
    difference = (
        f"{stored.path} and {reference.path} lie on different grids: "
        f"{reference.grid.difference(stored.grid)}"
    )
    if not allowed:
        raise DataError(
            f"{difference}, where {TOLERANCE:g} voxels are accepted; predict again on the image "
            "that the reference was drawn on, or give --resample"
        )
    if is_transposed(stored.grid, reference.grid):
        raise DataError(
            f"{difference}; one of the two was written with its axes mixed up, which resampling "
            "does not mend"
        )
    log.info("case %s: %s is resampled onto the grid of its reference", case_id, stored.path)
    labels = nearest_on(stored.labels, stored.grid, onto)
    if stored.labels.any() and not labels.any():
        log.warning("case %s: no label of %s lies where its reference is", case_id, stored.path)
    return labels


def _confusion(
    prediction: LabelMap, reference: LabelMap, names: Iterable[int]
) -> npt.NDArray[np.int64]:
    """Confusion matrix of the labels that have rows and the background, which holds all others."""
    labels = sorted({0, *names})
    ours, theirs = (np.where(np.isin(each, labels), each, 0) for each in (prediction, reference))
    return confusion_matrix(ours, theirs, labels)


def _named(known: Mapping[int, str], *label_maps: LabelMap) -> dict[int, str]:
    """Names of the labels that are known or found, in ascending order."""
    values = set(known).union(*map(_values, label_maps)) - {0}
    if len(values) > MOST_LABELS:
        some = ", ".join(map(str, sorted(values)[:SHOWN]))
        raise DataError(
            f"{len(values)} different labels found ({some}, ...), as many as in an image; name "
            "the label map, or the labels with --set labels="
        )
    return {value: known.get(value, f"label {value}") for value in sorted(values)}


def _values(labels: LabelMap) -> list[int]:
    """Values that occur; without sorting the voxels where a value has few bits."""
    if labels.dtype.itemsize > 2:
        found: npt.NDArray[np.integer[Any]] = np.unique(labels)
        return [int(value) for value in found]
    seen = np.zeros(1 << 8 * labels.dtype.itemsize, np.bool_)
    flat = labels.ravel(order="K")
    for first in range(0, flat.size, PART):
        seen[flat[first : first + PART]] = True
    return [int(value) for value in np.flatnonzero(seen)]


def _digests(path: Path) -> dict[str, str]:
    """SHA-256 of each file that a label map is read from."""
    return {source.name: sha256_of(source) for source in sources(path)}
