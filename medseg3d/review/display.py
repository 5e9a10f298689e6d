"""How the intensities of a case are stored and shown."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg3d.data.fingerprint import AIR_HU, subsample
from medseg3d.drawing import Window, full_window
from medseg3d.types import LabelMap

Modality = Literal["CT", "MR", ""]

LOWEST_HU, HIGHEST_HU = -1024, 3071
"""What 12 bits of a scanner hold."""

SOFT_TISSUE: Window = (-160.0, 240.0)
LUNG: Window = (-1350.0, 150.0)
BONE: Window = (-450.0, 1050.0)
HU_OF_LUNG, HU_OF_BONE = -400.0, 250.0
"""Median of the labeled voxels below and above which these windows are taken."""

LEVELS = 4095
"""Steps in which intensities without a unit are kept, as scanners do; eyes tell fewer apart."""

KEPT = (0.02, 99.98)
"""Percentiles between which such intensities are kept; what lies beyond ends there."""

MR_NAMES = ("mr", "t1", "t2", "flair", "adc", "dwi", "pd")


@dataclass(frozen=True, eq=False)
class Stored:
    """Integers that times ``slope`` are the intensities ``(I, J, K)``."""

    array: npt.NDArray[Any]
    slope: float = 1.0


def modality_of(image: npt.NDArray[Any], name: str = "") -> Modality:
    """What kind of image this is, as far as its name or its intensities tell.

    Args:
        image: ``(I, J, K)``.
        name: What the data set calls the channel.

    Examples:
        >>> modality_of(np.zeros((2, 2, 2)), "T1w"), modality_of(np.full((2, 2, 2), -1000))
        ('MR', 'CT')
    """
    said = name.strip().lower()
    if said == "ct":
        return "CT"
    if said.startswith(MR_NAMES):
        return "MR"
    sample = image[::2, ::2, ::2]
    is_whole = np.array_equal(sample, np.rint(sample))
    return "CT" if sample.min() <= AIR_HU and is_whole else ""


def window_of(image: npt.NDArray[Any], labels: LabelMap, modality: Modality) -> Window:
    """Intensities that are shown black and white at first.

    CT gets the window of lung, bone or soft tissue, whatever is labeled; any other image what
    nearly all of its voxels lie in.

    Args:
        image: ``(I, J, K)``.
        labels: Label map of the same shape.
        modality: Its kind.
    """
    if modality == "CT":
        inside = subsample(image)[subsample(labels) > 0]
        middle = float(np.median(inside)) if inside.size else 0.0
        return LUNG if middle < HU_OF_LUNG else BONE if middle > HU_OF_BONE else SOFT_TISSUE
    return full_window(subsample(image))


def stored(image: npt.NDArray[Any], modality: Modality) -> Stored:
    """The intensities in few bytes.

    CT stays in Hounsfield units, clipped to those of a scanner; small integers stay; anything
    else is kept in 4095 steps from 0 to the largest, but for the few most extreme voxels.
    """
    if modality == "CT":
        clipped = image.clip(LOWEST_HU, HIGHEST_HU)
        return Stored(np.rint(clipped).astype(np.int16))
    for kind in (np.uint8, np.int16):
        if image.dtype.kind in "iu" and np.can_cast(image.dtype, kind):
            return Stored(image.astype(kind))
    ends = np.percentile(subsample(image).astype(np.float64), KEPT)
    slope = float(np.abs(ends).max()) / LEVELS or 1.0
    most = LEVELS * slope
    return Stored(np.rint(image.clip(-most, most) / slope).astype(np.int16), slope)
