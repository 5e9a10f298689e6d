"""Whether a case is like those that a model was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import CanonicalCase, nonzero_box
from medseg3d.data.fingerprint import EXTENT, intensity_extent, subsample
from medseg3d.data.intensities import moments
from medseg3d.data.plan import PADDING_HU, Plan

DIRECTIONS = ("left to right", "back to front", "foot to head")

SPACING_FACTOR = 2.5
"""A voxel this many times longer or shorter than any in training. Resampling bridges a factor
of 2, and data sets mix slices of 1 and 2 mm; 0.8 and 5 mm, or a wrong unit, are beyond."""

EXTENT_FACTOR = 0.5
"""A case less than this as long as the shortest in training lacks what surrounds its organs."""

RANGE_MARGIN = 0.25
"""Share of the trained range by which CT intensities may begin or end elsewhere: about 400 HU
if the range runs from air to bone. Values between 0 and 1, or a lost offset of 1024, are beyond."""

LARGEST_STORED = 2.0**32
"""Scanners store integers of at most 32 bits."""

SPREAD = 0.1
"""If nearly all voxels lie within this many standard deviations, a few others decide them."""


def case_warnings(case: CanonicalCase, plan: Plan) -> list[str]:
    """What makes a prediction of this case doubtful.

    Compared are spacing, extent and, for CT, intensities with those of the training cases, as
    far as the plan knows them (plans of earlier versions do not); z-scores take any unit, so
    other channels are only looked at for being constant, huge or ruled by a few voxels.

    Args:
        case: The case in RAS+ order, with as many channels as the plan.
        plan: Plan of the model.

    Returns:
        One clause per doubt, with the numbers and what to check; most cases have none.
    """
    box = nonzero_box(case.image)
    image = case.image[(slice(None), *box)]
    found = _spacing(case.grid.spacing, plan)
    lengths = np.multiply(image.shape[1:], case.grid.spacing)
    found += _extent(tuple(lengths.tolist()), plan)
    for number, channel in enumerate(image):
        found += _intensities(channel, number, plan)
    return found


def _spacing(spacing: tuple[float, ...], plan: Plan) -> list[str]:
    if plan.trained_spacing is None:
        return []
    found = []
    for here, low, high, way in zip(spacing, *plan.trained_spacing, DIRECTIONS, strict=True):
        if not low / SPACING_FACTOR < here < high * SPACING_FACTOR:
            trained = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            found.append(
                f"voxels are {here:g} mm long from {way}, in training {trained} mm; "
                "check the spacing, and the result"
            )
    return found


def _extent(lengths: tuple[float, ...], plan: Plan) -> list[str]:
    if plan.trained_extent is None:
        return []
    return [
        f"the image is {here:.4g} mm long from {way}, in training at least {least:.4g} mm; "
        "check that it is not cut, and the result"
        for here, least, way in zip(lengths, plan.trained_extent, DIRECTIONS, strict=True)
        if here < least * EXTENT_FACTOR
    ]


def _intensities(channel: npt.NDArray[Any], number: int, plan: Plan) -> list[str]:
    """Doubts about one channel ``(I, J, K)``."""
    rule = plan.channels[number]
    name = f"channel {rule.name.removeprefix('channel ')}"
    lowest, highest = float(channel.min()), float(channel.max())
    if lowest == highest:
        return [f"{name} is {lowest:g} in every voxel, so nothing can be seen in it"]
    found = []
    if max(-lowest, highest) > LARGEST_STORED:
        found.append(
            f"{name} has intensities from {lowest:.4g} to {highest:.4g}, more than any scanner "
            "stores; check its scale"
        )
    if rule.scheme != "ct":
        if (usual := _extent_of_most(channel, lowest, highest)) is not None:
            found.append(
                f"{name} lies between {usual[0]:.4g} and {usual[1]:.4g} but for a few voxels, "
                f"which reach from {lowest:.4g} to {highest:.4g} and leave the rest without "
                "contrast; repair those voxels"
            )
    elif plan.trained_lows and plan.trained_highs:
        low, high = intensity_extent(channel)
        low = max(low, PADDING_HU)
        margin = RANGE_MARGIN * (plan.trained_highs[number][1] - plan.trained_lows[number][0])
        ranges = (plan.trained_lows[number], plan.trained_highs[number])
        for end, (least, most) in zip((low, high), ranges, strict=True):
            if not least - margin <= end <= most + margin:
                found.append(
                    f"{name} has intensities from {low:.4g} to {high:.4g}, the training cases "
                    f"from {ranges[0][0]:.4g} to {ranges[1][1]:.4g}; check that they are in "
                    "Hounsfield units and cover the same region"
                )
                break
    return found


def _extent_of_most(
    channel: npt.NDArray[Any], lowest: float, highest: float
) -> tuple[float, float] | None:
    """Where all voxels but a few lie, if these few give the channel its standard deviation."""
    low, high = intensity_extent(channel)
    farthest = max(highest - low, high - lowest)
    if farthest * SPREAD < high - low:  # the standard deviation is smaller still
        return None
    sample = subsample(channel)
    inside = sample[sample != 0]
    if not inside.size:  # too few voxels to be met
        inside = channel[channel != 0]
    low, high = np.percentile(inside.astype(np.float64), EXTENT).tolist()
    return (low, high) if high - low < SPREAD * moments(channel).sd else None
