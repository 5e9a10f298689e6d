"""Scores of a whole label map, from its confusion matrix: per label, and their means.

A label that neither map has is undefined (``nan``) and left out of the means; one that only one of
them has scores 0.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from medseg3d.metrics import METRICS
from medseg3d.metrics.confusion import Confusion, checked

Counts: TypeAlias = npt.NDArray[np.int64]
"""Voxels, per label or per pair of labels."""

PerLabel: TypeAlias = npt.NDArray[np.float64]
"""One value per label, ``(L,)``."""

SURVEY = "Garcia-Garcia et al., 2017. https://doi.org/10.48550/arXiv.1704.06857"
FCN = "Long et al., CVPR 2015. https://doi.org/10.1109/CVPR.2015.7298965"


def precision_per_label(confusion: Confusion) -> PerLabel:
    """Precision of each label, by columns: what is named class pixel accuracy (CPA) by some.

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.

    Returns:
        ``(L,)`` in [0, 1]; ``nan`` for a label that neither map has, 0 if only one has it.

    Raises:
        DataError: If it is not a square matrix of counts.

    Examples:
        >>> precision_per_label(np.array([[3, 0], [1, 2]])).tolist()
        [0.75, 1.0]
    """
    counts = checked(confusion)
    return _ratio(counts, np.diagonal(counts), counts.sum(axis=0))


def recall_per_label(confusion: Confusion) -> PerLabel:
    """Recall of each label, by rows: what is named class accuracy by others.

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.

    Returns:
        ``(L,)`` in [0, 1]; ``nan`` for a label that neither map has, 0 if only one has it.

    Raises:
        DataError: If it is not a square matrix of counts.
    """
    counts = checked(confusion)
    return _ratio(counts, np.diagonal(counts), counts.sum(axis=1))


def iou_per_label(confusion: Confusion) -> PerLabel:
    """Intersection over union of each label.

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.

    Returns:
        ``(L,)`` in [0, 1]; ``nan`` for a label that neither map has, 0 if only one has it.

    Raises:
        DataError: If it is not a square matrix of counts.
    """
    counts = checked(confusion)
    hits = np.diagonal(counts)
    return _ratio(counts, hits, counts.sum(axis=0) + counts.sum(axis=1) - hits)


def dice_per_label(confusion: Confusion) -> PerLabel:
    """Dice coefficient of each label.

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.

    Returns:
        ``(L,)`` in [0, 1]; ``nan`` for a label that neither map has, 0 if only one has it.

    Raises:
        DataError: If it is not a square matrix of counts.
    """
    counts = checked(confusion)
    return _ratio(counts, 2 * np.diagonal(counts), counts.sum(axis=0) + counts.sum(axis=1))


@METRICS.register(
    "pixel_accuracy",
    of="labels",
    unit="1",
    better="higher",
    definition=(
        "share of the voxels whose label is right, background included, which dominates it"
    ),
    source=SURVEY,
    column="pixel_accuracy",
)
def pixel_accuracy(confusion: Confusion) -> float:
    """Share of all voxels, background included, whose label is right.

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.

    Returns:
        Value in [0, 1]; ``nan`` without voxels.

    Raises:
        DataError: If it is not a square matrix of counts.

    References:
        Garcia-Garcia et al., 2017. https://doi.org/10.48550/arXiv.1704.06857
    """
    counts = checked(confusion)
    total = counts.sum()
    return float(np.trace(counts) / total) if total else float("nan")


@METRICS.register(
    "precision_macro",
    of="labels",
    unit="1",
    better="higher",
    definition=(
        "mean over the labels of TP / (TP + FP), a label that only the reference has counting 0 "
        "and one that neither map has not at all"
    ),
    source=SURVEY,
    column="precision_macro",
)
def precision_macro(confusion: Confusion, *, include_background: bool = True) -> float:
    """Mean precision of the labels: the mean pixel accuracy (MPA) of those who read columns.

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.
        include_background: Whether the first label counts.

    Returns:
        Value in [0, 1]; ``nan`` if no label is there.

    Raises:
        DataError: If it is not a square matrix of counts.

    References:
        Garcia-Garcia et al., 2017. https://doi.org/10.48550/arXiv.1704.06857
    """
    return _mean(precision_per_label(confusion), include_background)


@METRICS.register(
    "recall_macro",
    of="labels",
    unit="1",
    better="higher",
    definition=(
        "mean over the labels of TP / (TP + FN), a label that only the prediction has counting 0 "
        "and one that neither map has not at all"
    ),
    source=SURVEY,
    column="recall_macro",
)
def recall_macro(confusion: Confusion, *, include_background: bool = True) -> float:
    """Mean recall of the labels: the mean pixel accuracy (MPA) of those who read rows.

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.
        include_background: Whether the first label counts.

    Returns:
        Value in [0, 1]; ``nan`` if no label is there.

    Raises:
        DataError: If it is not a square matrix of counts.

    References:
        Garcia-Garcia et al., 2017. https://doi.org/10.48550/arXiv.1704.06857
    """
    return _mean(recall_per_label(confusion), include_background)


@METRICS.register(
    "mean_iou",
    of="labels",
    unit="1",
    better="higher",
    definition="mean over the labels of TP / (TP + FP + FN), without those that neither map has",
    source=SURVEY,
    column="mean_iou",
)
def mean_iou(confusion: Confusion, *, include_background: bool = True) -> float:
    """Mean intersection over union of the labels (mIoU).

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.
        include_background: Whether the first label counts.

    Returns:
        Value in [0, 1]; ``nan`` if no label is there.

    Raises:
        DataError: If it is not a square matrix of counts.

    References:
        Garcia-Garcia et al., 2017. https://doi.org/10.48550/arXiv.1704.06857
    """
    return _mean(iou_per_label(confusion), include_background)


@METRICS.register(
    "frequency_weighted_iou",
    of="labels",
    unit="1",
    better="higher",
    definition="mean over the labels of TP / (TP + FP + FN), weighted by their reference voxels",
    source=FCN,
    column="frequency_weighted_iou",
)
def frequency_weighted_iou(confusion: Confusion) -> float:
    """Mean intersection over union, each label weighted by its share of the reference (FWIoU).

    Args:
        confusion: Counts ``(L, L)`` of :func:`confusion_matrix`.

    Returns:
        Value in [0, 1]; ``nan`` without voxels.

    Raises:
        DataError: If it is not a square matrix of counts.

    References:
        Long et al., CVPR 2015. https://doi.org/10.1109/CVPR.2015.7298965
    """
    counts = checked(confusion)
    expected = counts.sum(axis=1)
    total = expected.sum()
    if total == 0:
        return float("nan")
    return float((expected * np.nan_to_num(iou_per_label(counts))).sum() / total)


def _ratio(counts: Counts, part: Counts, whole: Counts) -> PerLabel:
    """``part / whole`` of each label: undefined if neither map has it, 0 if only one has."""
    is_there = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    found = np.where(is_there, 0.0, np.nan)
    return np.divide(part, whole, out=found, where=whole > 0)


def _mean(values: PerLabel, include_background: bool) -> float:
    chosen = values if include_background else values[1:]
    present = chosen[~np.isnan(chosen)]
    return float(present.mean()) if present.size else float("nan")
