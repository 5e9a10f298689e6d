"""What is measured on a training case before anything is planned."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import load_case, nonzero_box
from medseg3d.data.cases import Case
from medseg3d.errors import DataError
from medseg3d.types import Size3, Spacing

SAMPLE = 20_000
"""Foreground voxels kept per case and channel."""

AIR_HU = -900


@dataclass(frozen=True)
class CaseFingerprint:
    """Measured facts of one case in canonical orientation, cropped to its non-zero box.

    Attributes:
        shape: Voxels per axis after the crop.
        spacing: Voxel size in mm.
        foreground: Per channel, intensities of at most ``SAMPLE`` labelled voxels.
        looks_like_ct: Per channel, whether integer values begin at air in Hounsfield units.
    """

    shape: Size3
    spacing: Spacing
    foreground: tuple[npt.NDArray[np.float32], ...]
    looks_like_ct: tuple[bool, ...]


def measure(case: Case) -> CaseFingerprint:
    """Read a labelled case and measure it.

    Raises:
        DataError: If a file cannot be trusted or image and label do not share a grid.
    """
    whole = load_case(case)
    if whole.labels is None:
        raise DataError(f"case {case.id}: has no label map, so there is nothing to learn from it")
    box = nonzero_box(whole.image)
    image, labels = whole.image[(slice(None), *box)], whole.labels[box]
    places = np.flatnonzero(labels)
    step = max(1, -(-places.size // SAMPLE))
    sample = image.reshape(image.shape[0], -1)[:, places[::step]]
    return CaseFingerprint(
        shape=(labels.shape[0], labels.shape[1], labels.shape[2]),
        spacing=whole.grid.spacing,
        foreground=tuple(np.asarray(channel, dtype=np.float32) for channel in sample),
        looks_like_ct=tuple(_looks_like_ct(channel) for channel in image),
    )


def _looks_like_ct(channel: npt.NDArray[np.float32]) -> bool:
    sample = channel[::2, ::2, ::2]
    return bool(sample.min() <= AIR_HU and np.array_equal(sample, np.rint(sample)))
