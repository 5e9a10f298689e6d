"""How well probabilities rank and how honest they are: AUROC, AP, Brier score, calibration error.

Each takes probabilities of one structure and whether it is there, of voxels, lesions or cases
alike. Over voxels, the many that are far from any structure flatter all four: restrict the arrays
to a region first.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics import METRICS

Probabilities: TypeAlias = npt.NDArray[np.floating[Any]]
"""Probability of the structure, in [0, 1]; any shape."""

Presence: TypeAlias = npt.NDArray[np.bool_]
"""Whether the structure is there; same shape."""

Counts: TypeAlias = npt.NDArray[np.int64]

ROUNDING = 1e-5
"""How far a probability may lie outside [0, 1]: a softmax in float16 or float32 rounds."""


@METRICS.register(
    "auroc",
    of="probabilities",
    unit="1",
    better="higher",
    definition=(
        "chance that a sample with the structure has the higher probability of two, one with and "
        "one without it, ties counting half"
    ),
    source="Hanley and McNeil, Radiology 143(1), 1982. "
    "https://doi.org/10.1148/radiology.143.1.7063747",
    column="auroc",
)
def auroc(probabilities: Probabilities, reference: Presence) -> float:
    """Area under the receiver operating characteristic curve.

    Args:
        probabilities: Of the structure, in [0, 1], any shape.
        reference: Whether it is there, same shape bool.

    Returns:
        Value in [0, 1], 0.5 by chance; ``nan`` unless there are samples of both kinds.

    Raises:
        DataError: If the arrays do not fit or hold anything else.

    References:
        Hanley and McNeil, Radiology 143(1), 1982.
        https://doi.org/10.1148/radiology.143.1.7063747

    Examples:
        >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        0.75
    """
    hits, alarms = _by_threshold(probabilities, reference)
    positives, negatives = int(hits[-1]), int(alarms[-1])
    if not (positives and negatives):
        return float("nan")
    twice_the_area = int((np.diff(alarms) * (hits[1:] + hits[:-1])).sum())
    return twice_the_area / (2 * positives * negatives)


@METRICS.register(
    "average_precision",
    of="probabilities",
    unit="1",
    better="higher",
    definition=(
        "sum over the thresholds of the precision times the gain in recall, without interpolation"
    ),
    source="Davis and Goadrich, ICML 2006. https://doi.org/10.1145/1143844.1143874",
    column="average_precision",
)
def average_precision(probabilities: Probabilities, reference: Presence) -> float:
    """Area under the precision-recall curve (AP), each step at the precision it arrives at.

    Args:
        probabilities: Of the structure, in [0, 1], any shape.
        reference: Whether it is there, same shape bool.

    Returns:
        Value in [0, 1], the share of positives by chance; ``nan`` without positives.

    Raises:
        DataError: If the arrays do not fit or hold anything else.

    References:
        Davis and Goadrich, ICML 2006 (why it is not interpolated).
        https://doi.org/10.1145/1143844.1143874

    Examples:
        >>> round(average_precision(np.array([0.9, 0.6, 0.2]), np.array([True, False, True])), 6)
        0.833333
    """
    hits, alarms = _by_threshold(probabilities, reference)
    if hits[-1] == 0:
        return float("nan")
    precision = hits[1:] / (hits[1:] + alarms[1:])
    return float((np.diff(hits) * precision).sum() / hits[-1])


@METRICS.register(
    "brier_score",
    of="probabilities",
    unit="1",
    better="lower",
    definition="mean squared difference of the probability and 1 where the structure is, else 0",
    source="Brier, Mon. Weather Rev. 78(1), 1950. "
    "https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2",
    column="brier_score",
)
def brier_score(probabilities: Probabilities, reference: Presence) -> float:
    """Mean squared error of probabilities.

    Args:
        probabilities: Of the structure, in [0, 1], any shape.
        reference: Whether it is there, same shape bool.

    Returns:
        Value in [0, 1]; ``nan`` without samples.

    Raises:
        DataError: If the arrays do not fit or hold anything else.

    References:
        Brier, Mon. Weather Rev. 78(1), 1950.
        https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2

    Examples:
        >>> brier_score(np.array([1.0, 0.5]), np.array([True, False]))
        0.125
    """
    _check(probabilities, reference)
    if probabilities.size == 0:
        return float("nan")
    errors = np.subtract(probabilities, reference, dtype=np.float64)
    return float(np.square(errors, out=errors).mean())


@METRICS.register(
    "expected_calibration_error",
    of="probabilities",
    unit="1",
    better="lower",
    definition=(
        "mean over the samples of |mean probability - share with the structure| in their bin of "
        "probabilities, of equal width"
    ),
    source="Naeini et al., AAAI 2015. https://doi.org/10.1609/aaai.v29i1.9602",
    column="expected_calibration_error",
)
def expected_calibration_error(
    probabilities: Probabilities, reference: Presence, *, bins: int = 10
) -> float:
    """How far probabilities are from the shares of samples that turn out to have the structure.

    A probability on the edge of two bins belongs to the lower one.

    Args:
        probabilities: Of the structure, in [0, 1], any shape.
        reference: Whether it is there, same shape bool.
        bins: Number of bins of equal width.

    Returns:
        Value in [0, 1]; ``nan`` without samples.

    Raises:
        DataError: If the arrays do not fit or hold anything else.
        ConfigError: If there is no bin.

    References:
        Naeini et al., AAAI 2015. https://doi.org/10.1609/aaai.v29i1.9602

    Examples:
        >>> always_half = np.full(4, 0.5)
        >>> expected_calibration_error(always_half, np.array([True, False, False, False]))
        0.25
    """
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    _check(probabilities, reference)
    if probabilities.size == 0:
        return float("nan")
    edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    bin_of = np.searchsorted(edges, probabilities.ravel(), side="left")
    excess = np.subtract(probabilities, reference, dtype=np.float64).ravel()
    return float(np.abs(np.bincount(bin_of, weights=excess)).sum() / probabilities.size)


def _by_threshold(probabilities: Probabilities, reference: Presence) -> tuple[Counts, Counts]:
    """Hits and false alarms of all thresholds from the highest, the first above everything.

    Equal probabilities pass a threshold together.
    """
    _check(probabilities, reference)
    order = np.argsort(probabilities, axis=None)[::-1]
    values = probabilities.ravel()[order]
    hits = np.cumsum(reference.ravel()[order], dtype=np.int64)
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)[: values.size])
    counted = np.concatenate([[0], hits[ends]])
    passed = np.concatenate([[0], ends + 1])
    return counted, passed - counted


def _check(probabilities: Probabilities, reference: Presence) -> None:
    if reference.dtype != np.bool_ or probabilities.dtype.kind != "f":
        raise DataError(
            f"expected probabilities as floating-point numbers and a boolean reference, found "
            f"{probabilities.dtype} and {reference.dtype}"
        )
    if probabilities.shape != reference.shape:
        raise DataError(
            f"probabilities {probabilities.shape} and reference {reference.shape} differ in "
            "shape; give those of one structure, on one grid"
        )
    if probabilities.size and not (
        probabilities.min() >= -ROUNDING and probabilities.max() <= 1.0 + ROUNDING
    ):
        raise DataError(
            f"probabilities must lie in [0, 1], found {probabilities.min():g} to "
            f"{probabilities.max():g}; apply a softmax or sigmoid to logits first"
        )
