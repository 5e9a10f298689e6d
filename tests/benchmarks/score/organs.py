"""Two generated label maps of smooth organs: a reference, and a prediction with usual errors.

An organ is an ellipsoid with bumps. The prediction has the same organ shifted by about a
millimetre with other, finer bumps, without a piece of it now and then, and with an island beside
it. Every organ is drawn in its own box, so that little memory is needed.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SHAPE = (512, 512, 300)
SPACING = (0.8, 0.8, 2.5)
SHIFT_MM = 1.0

Labels = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float64]


def generate(
    num_labels: int, *, shape: tuple[int, int, int] = SHAPE, seed: int = 11
) -> tuple[Labels, Labels]:
    """Prediction and reference ``(I, J, K)`` with I running fastest, as files are read.

    Args:
        num_labels: Organs, with values from 1.
        shape: Voxels.
        seed: Equal seeds give equal voxels.
    """
    rng = np.random.default_rng(seed)
    prediction, reference = (np.zeros(shape, np.uint8, order="F") for _ in range(2))
    size = np.multiply(shape, SPACING)
    scale = float((size / np.multiply(SHAPE, SPACING)).min())
    for label, (center, radii) in enumerate(_organs(num_labels, size, scale, rng), start=1):
        box, place = _box(center, 1.5 * radii + 4.0, shape)
        from_center = [axis - middle for axis, middle in zip(place, center, strict=True)]
        bumps = 0.22 * _bumps(box, 4, rng)
        true = _distance(from_center, radii) + bumps < 1.0
        shift = rng.normal(0.0, SHIFT_MM, 3)
        moved = [axis - step for axis, step in zip(from_center, shift, strict=True)]
        rough = 2.5 / float(radii.min()) * _bumps(box, 12, rng)
        found = _distance(moved, radii) + bumps + rough < 1.0
        if label % 3 == 0:  # a piece is missed
            found &= from_center[2] < 0.75 * radii[2]
        if label % 4 == 1:  # an island is seen
            apart = [from_center[0] - 1.25 * radii[0], *from_center[1:]]
            found |= _distance(apart, np.full(3, 0.12 * radii.min())) < 1.0
        for labels, mask in ((reference, true), (prediction, found)):
            inside = labels[box]
            inside[mask & (inside == 0)] = label
    return prediction, reference


def _organs(
    num_labels: int, size: Field, scale: float, rng: np.random.Generator
) -> Iterator[tuple[Field, Field]]:
    """Center and radii in mm of each organ; a single one is as large as a liver."""
    if num_labels == 1:
        yield size * (0.4, 0.5, 0.5), np.array([85.0, 65.0, 75.0]) * scale
        return
    layers = -(-num_labels // 4)
    sites = product((np.arange(layers) + 0.5) / layers, (0.31, 0.69), (0.31, 0.69))
    for (z, y, x), _ in zip(sites, range(num_labels), strict=False):
        center = size * (x, y, z) + rng.uniform(-12.0, 12.0, 3) * scale
        yield center, rng.uniform(22.0, 58.0, 3) * scale


def _box(center: Field, reach: Field, shape: tuple[int, ...]) -> tuple[Any, list[Field]]:
    """The voxels no farther than ``reach`` along any axis, and where they are in mm."""
    low = np.maximum(0, np.floor((center - reach) / SPACING)).astype(int)
    high = np.minimum(shape, np.ceil((center + reach) / SPACING) + 1).astype(int)
    box = tuple(map(slice, low.tolist(), high.tolist()))
    place = np.meshgrid(
        *((np.arange(a, b) + 0.5) * edge for a, b, edge in zip(low, high, SPACING, strict=True)),
        indexing="ij",
        sparse=True,
    )
    return box, list(place)


def _distance(from_center: list[Field], radii: Field) -> Field:
    """Distance from the center as a share of the radius."""
    squares = [(axis / radius) ** 2 for axis, radius in zip(from_center, radii, strict=True)]
    return np.asarray(np.sqrt(squares[0] + squares[1] + squares[2]))


def _bumps(box: tuple[slice, ...], count: int, rng: np.random.Generator) -> Field:
    """A smooth field with about ``count`` bumps along each axis, mostly between -1 and 1."""
    coarse = rng.normal(0.0, 0.5, (count + 3,) * 3)
    size = [side.stop - side.start for side in box]
    zoomed = ndimage.zoom(
        coarse, [n / (count + 3) for n in size], order=3, grid_mode=True, mode="nearest"
    )
    return np.asarray(zoomed[tuple(map(slice, size))])
