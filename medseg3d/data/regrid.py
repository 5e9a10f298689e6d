"""Resampling onto any other grid, to repair data sets; nothing else needs it."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.geometry.grid import Grid
from medseg3d.types import Image, LabelMap

Scalar = TypeVar("Scalar", bound=np.generic)


def labels_onto(labels: LabelMap, source: Grid, target: Grid) -> LabelMap:
    """Resample a label map: every label linearly, then the largest share wins.

    Args:
        labels: ``(I, J, K)`` on ``source``.
        source: Where the labels lie.
        target: Where they are wanted.

    Returns:
        Labels of the same type on ``target``; background where ``source`` does not reach.

    Examples:
        >>> labels = np.array([0, 7, 7, 0], np.uint8).reshape(4, 1, 1)
        >>> shifted = np.eye(4)
        >>> shifted[0, 3] = 1.0
        >>> onto = Grid((4, 1, 1), shifted)
        >>> labels_onto(labels, Grid((4, 1, 1), np.eye(4)), onto).ravel().tolist()
        [7, 7, 0, 0]
    """
    out = np.zeros(target.shape, labels.dtype)
    best = _sampled((labels == 0).astype(np.float32), source, target, outside=1.0)
    for label in np.unique(labels[labels != 0]):
        share = _sampled((labels == label).astype(np.float32), source, target, outside=0.0)
        wins = share > best
        out[wins] = label
        best[wins] = share[wins]
    return out


def is_transposed(source: Grid, target: Grid) -> bool:
    """Whether the shapes fit only with the axes in another order than the headers say.

    Such an array was written with its axes mixed up: resampling would follow a header that is
    wrong, and what comes out looks like a label map.

    Examples:
        >>> grid = Grid((4, 5, 6), np.eye(4))
        >>> is_transposed(Grid((6, 5, 4), np.eye(4)), grid)
        True
        >>> is_transposed(Grid((6, 5, 4), np.eye(4)[:, [2, 1, 0, 3]]), grid)
        False
    """
    ours, theirs = source.canonical().shape, target.canonical().shape
    return ours != theirs and sorted(ours) == sorted(theirs)


def image_onto(image: Image, source: Grid, target: Grid) -> Image:
    """Resample intensities ``(C, I, J, K)`` linearly; the least one where ``source`` ends."""
    return np.stack(
        [_sampled(channel, source, target, outside=float(channel.min())) for channel in image]
    )


def _sampled(
    volume: npt.NDArray[np.float32], source: Grid, target: Grid, *, outside: float
) -> npt.NDArray[np.float32]:
    steps = np.linalg.solve(source.affine, target.affine)
    out = np.empty(target.shape, np.float32)
    ndimage.affine_transform(
        volume,
        steps[:3, :3],
        steps[:3, 3],
        output_shape=target.shape,
        output=out,
        order=1,
        mode="grid-constant",
        cval=outside,
    )
    return out
