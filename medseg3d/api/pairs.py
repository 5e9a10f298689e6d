"""Score one pair of label maps from their files, here or in a worker."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg3d.data.canonical import labels_on
from medseg3d.errors import DataError
from medseg3d.io import LabelVolume, read_labels
from medseg3d.scoring import Row, score_case
from medseg3d.types import LabelMap

log = logging.getLogger("medseg3d")

MOST_LABELS = 1000
"""Without names for them, more labels in a case than any atlas has mean that it is an image."""

SHOWN = 10


@dataclass(frozen=True)
class Pair:
    """One case to score.

    Attributes:
        case: Its id.
        prediction: Predicted label map.
        reference: Label map by an expert.
    """

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Rules:
    """What is the same for all cases.

    Attributes:
        names: Labels that are known, with their names.
        all_named: Whether no others count.
        tolerance_mm: Accepted surface distance of surface Dice.
        border_is_surface: Whether voxels at the border of the volume are surface.
    """

    names: Mapping[int, str]
    all_named: bool
    tolerance_mm: float
    border_is_surface: bool


def score_pair(rules: Rules, pair: Pair) -> list[Row]:
    """Scores of every label of one case.

    Raises:
        DataError: If a file cannot be read, or the label maps lie on different grids.
    """
    prediction, reference = _read(pair)
    names = rules.names if rules.all_named else _named(rules.names, prediction, reference.labels)
    return score_case(
        pair.case,
        prediction,
        reference.labels,
        reference.grid,
        labels=names,
        tolerance_mm=rules.tolerance_mm,
        border_is_surface=rules.border_is_surface,
    )


def _read(pair: Pair) -> tuple[LabelMap, LabelVolume]:
    """Predicted labels in the voxel order of the reference, and the reference."""
    prediction, reference = read_labels(pair.prediction), read_labels(pair.reference)
    for volume in (prediction, reference):
        for note in volume.notes:
            log.warning("%s", note)
    try:
        return labels_on(prediction, reference.grid), reference
    except DataError:
        raise DataError(
            f"{pair.prediction} and {pair.reference} lie on different grids: "
            f"{reference.grid.difference(prediction.grid)}; predict again on the image that the "
            "reference was drawn on"
        ) from None


def _named(known: Mapping[int, str], *label_maps: LabelMap) -> dict[int, str]:
    """Names of the labels that are known or found, in ascending order."""
    values = set(known).union(*(np.unique(labels).tolist() for labels in label_maps)) - {0}
    if len(values) > MOST_LABELS:
        some = ", ".join(map(str, sorted(values)[:SHOWN]))
        raise DataError(
            f"{len(values)} different labels found ({some}, ...), as many as in an image; name "
            "the label map, or the labels with --set labels="
        )
    return {value: known.get(value, f"label {value}") for value in sorted(values)}
