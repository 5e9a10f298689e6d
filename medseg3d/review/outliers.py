"""How strange a prediction is among the others, told without a reference.

Each case is compared with the middle of all: the volume of every label, the number of its
separate parts, and how uncertain the model was. Distances from the median are measured in robust
standard deviations (1.4826 times the median absolute deviation), as in [1]_.

References:
    .. [1] Iglewicz and Hoaglin, "How to Detect and Handle Outliers", ASQC Quality Press, 1993.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.geometry.parts import connected_parts
from medseg3d.review.blocks import values_of
from medseg3d.types import LabelMap

FEWEST = 5
"""With fewer cases nothing is usual."""

SD_OF_MAD = 1.4826
LEAST_SPREAD = {"volume": 0.05, "parts": 1.0, "uncertainty": 0.01}
"""Smallest standard deviations, for sets that hardly vary: 5 % of a volume, one part, 0.01."""

ABSENT = 10.0
"""Distance of a case that lacks what most have."""

TOLD = 3.0
"""Distance from which a reason is given."""

MOST_REASONS = 4
LARGEST_DISTANCE = 99.0

MOST_NUMBERED = 1 << 16
"""Up to this label value, one box per number is affordable."""


@dataclass(frozen=True)
class Measures:
    """What is known of a prediction without a reference.

    Attributes:
        volumes_ml: Volume of each label that is there.
        parts: Number of its separate parts, neighbors over corners included.
        uncertainty: Mean entropy of the labeled voxels in [0, 1], or None.
    """

    volumes_ml: Mapping[int, float]
    parts: Mapping[int, int]
    uncertainty: float | None = None


@dataclass(frozen=True)
class Strangeness:
    """How far a case is from the usual.

    Attributes:
        distance: Robust standard deviations of what is farthest; None among too few cases.
        reasons: What is unusual, in words, the most unusual first.
    """

    distance: float | None = None
    reasons: tuple[str, ...] = ()


class _Remark(NamedTuple):
    distance: float
    reason: str


def measure(
    prediction: LabelMap, voxel_ml: float, uncertainty: npt.NDArray[np.float32] | None = None
) -> Measures:
    """Volumes, parts and mean uncertainty of a predicted label map.

    Args:
        prediction: ``(I, J, K)``.
        voxel_ml: Volume of a voxel in mL.
        uncertainty: Entropy of each voxel, or None.

    Examples:
        >>> labels = np.zeros((4, 4, 4), np.uint8)
        >>> labels[0, 0, 0] = labels[1, 1, 1] = labels[3, 3, 3] = 5
        >>> measure(labels, 0.5)
        Measures(volumes_ml={5: 1.5}, parts={5: 2}, uncertainty=None)
    """
    volumes: dict[int, float] = {}
    parts: dict[int, int] = {}
    values = sorted(values_of(prediction) - {0})
    boxes = _boxes(prediction, values) if values else []
    for value, box in zip(values, boxes, strict=True):
        mask = prediction[box] == value
        volumes[value] = int(np.count_nonzero(mask)) * voxel_ml
        _, parts[value] = connected_parts(mask)
    labeled = None if uncertainty is None or not volumes else uncertainty[prediction > 0]
    return Measures(volumes, parts, None if labeled is None else float(labeled.mean()))


def strangeness(
    measures: Mapping[str, Measures], names: Mapping[int, str]
) -> dict[str, Strangeness]:
    """How strange each case is among all of them.

    Args:
        measures: Of each case.
        names: Name of each label.
    """
    if len(measures) < FEWEST:
        return {case: Strangeness() for case in measures}
    remarks: dict[str, list[_Remark]] = {case: [] for case in measures}
    for label, name in names.items():
        _compare_volumes(label, name, measures, remarks)
        _compare_parts(label, name, measures, remarks)
    _compare_uncertainty(measures, remarks)
    return {case: _judged(found) for case, found in remarks.items()}


def _compare_volumes(
    label: int, name: str, measures: Mapping[str, Measures], remarks: Mapping[str, list[_Remark]]
) -> None:
    volumes = {case: found.volumes_ml.get(label, 0.0) for case, found in measures.items()}
    there = {case: volume for case, volume in volumes.items() if volume > 0}
    if 2 * len(there) > len(volumes):
        for case in volumes.keys() - there.keys():
            told = f"{name}: not found, though in {len(there)} of {len(volumes)} cases"
            remarks[case].append(_Remark(ABSENT, told))
    if len(there) < FEWEST:
        return
    logs = {case: math.log(volume) for case, volume in there.items()}
    usual = math.exp(float(np.median(list(logs.values()))))
    for case, distance in _distances(logs, LEAST_SPREAD["volume"]).items():
        told = f"{name}: {there[case]:.3g} mL, usually {usual:.3g} mL"
        remarks[case].append(_Remark(abs(distance), told))


def _compare_parts(
    label: int, name: str, measures: Mapping[str, Measures], remarks: Mapping[str, list[_Remark]]
) -> None:
    """More parts than usual are strange, fewer are not."""
    parts = {case: found.parts[label] for case, found in measures.items() if label in found.parts}
    if len(parts) < FEWEST:
        return
    usual = float(np.median(list(parts.values())))
    for case, distance in _distances(parts, LEAST_SPREAD["parts"]).items():
        told = f"{name}: in {parts[case]} parts, usually {usual:g}"
        remarks[case].append(_Remark(distance, told))


def _compare_uncertainty(
    measures: Mapping[str, Measures], remarks: Mapping[str, list[_Remark]]
) -> None:
    found = {case: one.uncertainty for case, one in measures.items() if one.uncertainty is not None}
    if len(found) < FEWEST:
        return
    usual = float(np.median(list(found.values())))
    for case, distance in _distances(found, LEAST_SPREAD["uncertainty"]).items():
        told = f"uncertain: mean entropy {found[case]:.2f}, usually {usual:.2f}"
        remarks[case].append(_Remark(distance, told))


def _distances(values: Mapping[str, float], least: float) -> dict[str, float]:
    """Robust standard deviations from the median, signed."""
    table = np.asarray(list(values.values()), dtype=np.float64)
    median = float(np.median(table))
    spread = max(SD_OF_MAD * float(np.median(np.abs(table - median))), least)
    return {case: (value - median) / spread for case, value in values.items()}


def _judged(remarks: Sequence[_Remark]) -> Strangeness:
    ordered = sorted(remarks, key=lambda remark: -remark.distance)
    farthest = max((remark.distance for remark in ordered), default=0.0)
    return Strangeness(
        round(min(max(farthest, 0.0), LARGEST_DISTANCE), 2),
        tuple(one.reason for one in ordered[:MOST_REASONS] if one.distance >= TOLD),
    )


def _boxes(labels: LabelMap, values: Sequence[int]) -> list[tuple[slice, ...]]:
    """The box of each label that is there; ``values`` ascend."""
    if values[-1] > MOST_NUMBERED:
        numbers = np.searchsorted([0, *values], labels)
        return [box for box in ndimage.find_objects(numbers) if box is not None]
    return [box for box in ndimage.find_objects(labels, values[-1]) if box is not None]
