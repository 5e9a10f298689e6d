"""How much label maps agree, counted in one pass."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Agreement:
    """Two label maps of one case.

    Attributes:
        voxels: Share of all voxels with equal labels.
        foreground: The same among voxels that are labeled in either map.
        dice: Mean Dice over the labels of either map, without the background.
    """

    voxels: float
    foreground: float
    dice: float


def load(path: Path) -> Labels:
    """Labels as stored, as integers even where a file scales them by 1."""
    stored = np.asarray(nib.load(path).dataobj)
    return stored if np.issubdtype(stored.dtype, np.integer) else np.rint(stored).astype(np.int64)


def compare(found: Labels, expected: Labels) -> Agreement:
    """Agreement of two label maps of the same shape.

    Examples:
        >>> a, b = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
        >>> result = compare(a, b)
        >>> result.voxels, round(result.foreground, 3), round(result.dice, 3)
        (0.75, 0.667, 0.833)
    """
    if found.shape != expected.shape:
        raise ValueError(f"label maps of shapes {found.shape} and {expected.shape}")
    num_labels = 1 + max(int(found.max()), int(expected.max()))
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    last = found.ndim - 1
    for plane, other in zip(
        np.moveaxis(found, last, 0), np.moveaxis(expected, last, 0), strict=True
    ):
        pairs = plane.astype(np.int64) * num_labels + other
        counts += np.bincount(pairs.ravel(), minlength=counts.size).reshape(counts.shape)
    equal, total = np.trace(counts), counts.sum()
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    present = np.flatnonzero(sizes[1:]) + 1
    dice = 2 * np.diag(counts)[present] / sizes[present]
    labeled = total - counts[0, 0]
    return Agreement(
        float(equal / total),
        float((equal - counts[0, 0]) / labeled) if labeled else 1.0,
        float(dice.mean()) if present.size else 1.0,
    )
