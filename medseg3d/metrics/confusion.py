"""The confusion matrix of two label maps: what was predicted for each label of the reference.

Rows are labels of the reference, columns labels of the prediction, both ``L`` long in the order
they were asked for. Matrices of several cases add up to that of all their voxels.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from medseg3d.errors import ConfigError, DataError
from medseg3d.types import LabelMap

Confusion: TypeAlias = npt.NDArray[np.integer[Any]]
"""Voxel counts ``(L, L)``: reference label, predicted label."""

VOXELS_AT_ONCE = 1 << 18
"""Voxels counted together: their places among the labels stay in the processor's cache."""


def confusion_matrix(
    prediction: LabelMap,
    reference: LabelMap,
    labels: Sequence[int],
    *,
    ignore_label: int | None = None,
) -> npt.NDArray[np.int64]:
    """Count how often each label of the reference was predicted as each label.

    Args:
        prediction: Predicted labels, any shape and integer type.
        reference: Reference labels, same shape.
        labels: Every label of the maps, background included; any whole numbers in any order.
        ignore_label: Voxels that have this label in either map are left out of both.

    Returns:
        Counts ``(L, L)`` int64, rows by reference and columns by prediction.

    Raises:
        DataError: If the maps differ in shape, are not of whole numbers, or hold a label that is
            not among ``labels``.
        ConfigError: If a label is given twice, or the ignored one is among them.

    Examples:
        >>> reference = np.array([0, 0, 5, 5, 255])
        >>> prediction = np.array([0, 5, 5, 5, 0])
        >>> confusion_matrix(prediction, reference, (0, 5), ignore_label=255).tolist()
        [[1, 1], [0, 2]]
    """
    if len(set(labels)) != len(labels) or not labels:
        raise ConfigError(f"labels must be different whole numbers, at least one, got {labels}")
    if ignore_label in labels:
        raise ConfigError(f"label {ignore_label} is to be ignored and counted; choose one of both")
    for role, array in (("prediction", prediction), ("reference", reference)):
        if array.dtype.kind not in "iub":
            raise DataError(f"the {role} must hold whole-number labels, found {array.dtype}")
    if prediction.shape != reference.shape:
        raise DataError(
            f"label maps differ in shape: prediction {prediction.shape}, reference "
            f"{reference.shape}; bring both to one grid first"
        )
    order = np.argsort(np.asarray(labels, dtype=np.int64), kind="stable")
    values = np.asarray(labels, dtype=np.int64)[order]
    layout: Literal["F", "C"] = "F" if reference.flags.f_contiguous else "C"
    predicted, expected = prediction.ravel(layout), reference.ravel(layout)
    counts = np.zeros(len(labels) ** 2, dtype=np.int64)
    for start in range(0, expected.size, VOXELS_AT_ONCE):
        here = slice(start, start + VOXELS_AT_ONCE)
        some_predicted, some_expected = predicted[here], expected[here]
        if ignore_label is not None:
            kept = (some_predicted != ignore_label) & (some_expected != ignore_label)
            some_predicted, some_expected = some_predicted[kept], some_expected[kept]
        row = order[_places(some_expected, values, "reference")]
        column = order[_places(some_predicted, values, "prediction")]
        counts += np.bincount(row * len(labels) + column, minlength=counts.size)
    return counts.reshape(len(labels), len(labels))


def checked(confusion: Confusion) -> npt.NDArray[np.int64]:
    """The matrix with 64-bit counts.

    Raises:
        DataError: If it is not a square matrix of counts.
    """
    counts = np.asarray(confusion)
    is_square = counts.ndim == 2 and counts.shape[0] == counts.shape[1]
    if not is_square or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise DataError(
            f"a confusion matrix holds counts, one row and one column per label; found "
            f"{counts.dtype} of shape {counts.shape}"
        )
    return counts.astype(np.int64, copy=False)


def _places(labels: LabelMap, values: npt.NDArray[np.int64], role: str) -> npt.NDArray[np.int64]:
    """Place of each label among the sorted ``values``."""
    numbers = labels.view(np.uint8) if labels.dtype == np.bool_ else labels
    places = np.searchsorted(values, numbers.astype(np.int64, copy=False))
    places = places.astype(np.int64, copy=False).clip(max=len(values) - 1)
    unknown = values[places] != numbers
    if unknown.any():
        raise DataError(
            f"the {role} holds label {numbers[unknown][0]}, which is none of "
            f"{', '.join(str(value) for value in values)}; name every label, or ignore one"
        )
    return places
