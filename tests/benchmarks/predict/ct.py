"""Generated CT of a body in air with labeled organs, of any size, from a seed alone.

A body of elliptic cross-section (76 % x 56 % of the field, breathing along the axis) with skin
fat, textured soft tissue, spine, ribs, lungs and bowel gas lies on a table in air. It is full of
organs, ellipsoids about 40 mm apart and winding tubes. Each label has its own places, one of five
intensities and one of four grains (none, or sheets across an axis), which a network learns in
minutes. They are repeated every 240 mm along the body, so that a short scan holds as many labels
as a long one.

::

    python -m tests.benchmarks.predict.ct OUT --labels 20 --shape 512 512 300 --seed 7

writes ``OUT_image.nii.gz`` (int16, HU) and ``OUT_labels.nii.gz``, both stored as RAS+.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tests.benchmarks.predict.results import say

SPACING = (0.8, 0.8, 2.5)
SHAPE = (512, 512, 300)
PERIOD, PITCH = 240.0, 40.0
"""Length of body in mm after which the organs come again, and how far apart they are."""

AIR, LUNG, FAT, SOFT_TISSUE, TABLE, BONE = -1000, -820, -100, 40, -200, 1300
ORGANS = (200, 400, 600, 800, 1000)
SHEETS, CONTRAST = 12.0, 150.0
"""Distance in mm of an organ's sheets, and how much they differ from their mean in HU."""
NOISE = 12.0
FIELD = 409.6
"""Field in mm that the sizes below are meant for; smaller fields hold smaller bodies."""

Float = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]
Labels = npt.NDArray[np.uint8]
Place = tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """An ellipsoid, or a tube along the body, in mm from the body's middle and from its begin.

    Attributes:
        label: Value in the label map; 0 for what is drawn but has no label.
        intensity: HU.
        center: ``(x, y, z)``; a tube's ``z`` is the phase of its winding.
        radii: Half-axes; a tube has only the first two.
        winding: How far a tube strays from its straight line; None for an ellipsoid.
        grain: Axis that its sheets lie across; None without.
    """

    label: int
    intensity: float
    center: Place
    radii: Place
    winding: float | None = None
    grain: int | None = None


def generate(
    num_labels: int,
    *,
    seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = SPACING,
) -> tuple[Int16, Labels]:
    """Image ``(I, J, K)`` in HU and its label map, both in Fortran order.

    Args:
        num_labels: Labels with the background, at least 2.
        seed: Equal seeds give equal voxels.
        shape: Voxels.
        spacing: Edges of a voxel in mm.
    """
    generator = np.random.default_rng(seed)
    x, y, z = (
        ((np.arange(n) + 0.5) * edge).astype(np.float32)
        for n, edge in zip(shape, spacing, strict=True)
    )
    field = np.array([x[-1] + x[0], y[-1] + y[0]])
    x, y = x - np.float32(field[0] / 2), y - np.float32(field[1] / 2)
    scale = field.min() / FIELD
    phase = generator.uniform(0, 2 * np.pi)
    breath = (1 + 0.05 * np.sin(2 * np.pi * z / 180 + phase)).astype(np.float32)
    half = 0.38 * field[0] / 1.05, 0.28 * field[1] / 1.05

    depth = _depth(x / half[0], y / half[1], breath)
    edge = np.float32(12 * scale / half[1])
    image = np.full(depth.shape, AIR, dtype=np.float32)
    image[depth > 0] = FAT
    inner = depth > edge
    texture = _texture(generator, x, y, z)
    image[inner] = SOFT_TISSUE + 18 * texture[inner]
    _draw_table(image, y, below=half[1] * 1.07 + 4 * scale, thick=10 * scale)
    labels = np.zeros(depth.shape, dtype=np.uint8)
    for solid in solids(num_labels, generator, length=float(z[-1]), half=half, scale=scale):
        _draw(image, labels, solid, (x, y, z), inner)
    for part in image:
        part += generator.standard_normal(part.shape, dtype=np.float32) * np.float32(NOISE)
    np.rint(image, out=image)
    return image.astype(np.int16).transpose(2, 1, 0), labels.transpose(2, 1, 0)


def solids(
    num_labels: int,
    generator: np.random.Generator,
    *,
    length: float,
    half: tuple[float, float],
    scale: float,
) -> Iterator[Solid]:
    """Organs of all labels, then bones, lungs and gas; what comes first keeps its voxels."""
    organs = num_labels - 1
    for label in range(4, min(num_labels, 20), 4):
        radius, angle = 0.6 * np.sqrt(label / 20), label * 2.39996
        center = radius * np.cos(angle) * half[0], radius * np.sin(angle) * half[1]
        thick = generator.uniform(7, 10) * scale
        phase = generator.uniform(0, 2 * np.pi)
        yield _organ(label, (*center, phase), (thick, thick, 0), winding=14 * scale)
    sites = list(
        product(*(np.arange(*ends, PITCH) for ends in ((0, PERIOD), (-80, 81), (-120, 121))))
    )
    for begin in np.arange(0, length / scale, PERIOD):
        for number, (z, y, x) in enumerate(sites):
            center = (np.array([x, y, z + begin]) + generator.uniform(-4, 4, 3)) * scale
            radii = generator.uniform(14, 20, 3) * scale
            label = number * 7 % organs + 1
            yield _organ(label, tuple(center.tolist()), tuple(radii.tolist()))
    yield Solid(0, BONE, (0, -0.72 * half[1], 0), (20 * scale, 18 * scale, 0), 0.0)
    for side in (-1, 1):
        for begin in np.arange(0, length, 60 * scale):
            rib = (side * 0.86 * half[0], 0, begin)
            yield Solid(0, BONE, rib, (5 * scale, 60 * scale, 7 * scale))
        for begin in np.arange(0, length, PERIOD * scale):
            lung = side * 0.45 * half[0], 0.15 * half[1], begin
            yield Solid(0, LUNG, lung, (48 * scale, 55 * scale, 70 * scale))
    for _ in range(round(length / 40 / scale)):
        gas = generator.uniform(-0.5, 0.5, 2) * half
        radii = generator.uniform(6, 14, 3) * scale
        center = float(gas[0]), float(gas[1]), generator.uniform(0, length)
        yield Solid(0, AIR, center, (radii[0], radii[1], radii[2]))


def _organ(label: int, center: Place, radii: Place, *, winding: float | None = None) -> Solid:
    intensity = ORGANS[(label - 1) % len(ORGANS)]
    grain = (None, 0, 1, 2)[(label - 1) // len(ORGANS) % 4]
    return Solid(label, intensity, center, radii, winding, grain)


def _depth(x: Float, y: Float, breath: Float) -> Float:
    """``1 - normalized radius`` ``(K, J, I)``: above 0 in the body, 1 on its axis."""
    plane = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2)
    return 1 - plane[None] / breath[:, None, None]


def _texture(generator: np.random.Generator, *axes: Float) -> Float:
    """Smooth noise of standard deviation 1 ``(K, J, I)``, grains of about 6 mm."""
    block = generator.standard_normal((64, 64, 64), dtype=np.float32)
    block = ndimage.gaussian_filter(block, 1.2, mode="wrap")
    block /= block.std()
    i, j, k = ((axis - axis[0]).astype(int) // 2 % 64 for axis in axes)
    return block[np.ix_(k, j, i)]


def _draw_table(image: Float, y: Float, *, below: float, thick: float) -> None:
    rows = (y < -below) & (y > -below - thick)
    width = image.shape[2]
    image[:, rows, width // 8 : -(width // 8)] = TABLE


def _draw(
    image: Float,
    labels: Labels,
    solid: Solid,
    axes: tuple[Float, Float, Float],
    inner: npt.NDArray[np.bool_],
) -> None:
    """Fill what is inside the body and not yet an organ; edges are about 2 mm wide."""
    x, y, z = axes
    along = np.zeros_like(z)
    if solid.winding is not None:
        along = np.sin(z / 30 + solid.center[2]).astype(np.float32) * np.float32(solid.winding)
    reach = [radius + (solid.winding or 0) for radius in solid.radii]
    box = tuple(
        slice(*np.searchsorted(axis, (middle - far, middle + far)))
        for axis, middle, far in zip((x, y, z), solid.center, reach, strict=True)
    )
    if solid.winding is not None:
        box = (*box[:2], slice(None))
    if 0 in (axis[part].size for axis, part in zip(axes, box, strict=True)):
        return
    dx = x[box[0]] - np.float32(solid.center[0])
    dy = y[box[1]] - np.float32(solid.center[1])
    across = along[box[2]]
    square = ((dx[None] - across[:, None]) / np.float32(solid.radii[0]))[:, None, :] ** 2
    square = square + ((dy[None] + across[:, None]) / np.float32(solid.radii[1]))[:, :, None] ** 2
    if solid.winding is None:
        dz = (z[box[2]] - np.float32(solid.center[2])) / np.float32(solid.radii[2])
        square = square + dz[:, None, None] ** 2
    here = (box[2], box[1], box[0])
    free = inner[here] & (labels[here] == 0) & (square < 1)
    opaque = np.minimum(1, (1 - np.sqrt(square[free])) * np.float32(min(solid.radii[:2]) / 2) + 0.5)
    inside = np.float32(solid.intensity)
    if solid.grain is not None:
        place = axes[solid.grain][box[solid.grain]]
        waves = np.float32(CONTRAST) * np.sign(np.sin(place * np.float32(2 * np.pi / SHEETS)))
        shape = [1, 1, 1]
        shape[2 - solid.grain] = -1
        inside = inside + np.broadcast_to(waves.reshape(shape), free.shape)[free]
    image[here][free] += opaque * (inside - image[here][free])
    labels[here][free] = solid.label


def write(
    stem: Path,
    num_labels: int,
    *,
    seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = SPACING,
) -> tuple[Path, Path]:
    """Write ``<stem>_image.nii.gz`` and ``<stem>_labels.nii.gz``, unless both are there."""
    paths = (
        stem.with_name(f"{stem.name}_image.nii.gz"),
        stem.with_name(f"{stem.name}_labels.nii.gz"),
    )
    if not all(path.is_file() for path in paths):
        stem.parent.mkdir(parents=True, exist_ok=True)
        arrays: tuple[npt.NDArray[Any], ...] = generate(
            num_labels, seed=seed, shape=shape, spacing=spacing
        )
        for path, array in zip(paths, arrays, strict=True):
            partial = path.with_name(f"part_{path.name}")
            image = nib.Nifti1Image(array, np.diag([*spacing, 1.0]))
            image.header.set_xyzt_units("mm")
            image.to_filename(partial)
            partial.rename(path)
    return paths


def main() -> None:
    """Write one CT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="Begin of both file names.")
    parser.add_argument("--labels", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    i, j, k = given.shape
    for path in write(given.out, given.labels, seed=given.seed, shape=(i, j, k)):
        say(str(path))


if __name__ == "__main__":
    main()
