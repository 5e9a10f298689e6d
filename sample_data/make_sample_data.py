"""Make the sample data: small abdominal CT phantoms with liver and tumors, free of any licence.

::

    python sample_data/make_sample_data.py           # writes beside this file
    python sample_data/make_sample_data.py OUT       # writes into OUT
    python sample_data/make_sample_data.py --check   # also says why a threshold is not enough

Eight cases to learn from (``imagesTr``, ``labelsTr``) and two held out (``imagesTs``,
``labelsTs``), laid out as an nnU-Net raw folder. Every organ is a solid in world
millimetres (RAS+, so the liver lies at positive x, the patient's right), and each voxel
takes the value of the world point it stands for: orientation, spacing and obliqueness
of the storage change the affine and never the anatomy. The same seed gives the same
voxels and the same bytes.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from medseg3d.io import atomic

Array: TypeAlias = npt.NDArray[np.float64]
"""World points ``(..., 3)`` in mm, or one value per point ``(...)``."""

Point: TypeAlias = tuple[float, float, float]

SEED = 20240611
LIVER, TUMOR = 1, 2
HU_STEP = 4


@dataclass(frozen=True)
class Storage:
    """How a case is stored: shape in voxels, spacing in mm, orientation code, tilt in degrees."""

    shape: tuple[int, int, int]
    spacing: Point
    orientation: str = "RAS"
    tilt_degrees: float = 0.0

    def affine(self, center: Point) -> Array:
        """Voxel index to world mm; the middle of the volume is at ``center``."""
        signs = [1.0 if letter in "RAS" else -1.0 for letter in self.orientation]
        axis = np.array([1.0, 0.25, 0.15])
        turn = Rotation.from_rotvec(np.deg2rad(self.tilt_degrees) * axis / np.linalg.norm(axis))
        affine = np.eye(4)
        affine[:3, :3] = turn.as_matrix() @ np.diag(np.multiply(signs, self.spacing))
        affine[:3, 3] = center - affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return np.round(affine, 6)


TRAINING = {
    "abdomen_01": Storage((80, 64, 34), (4.5, 4.5, 6.5)),
    "abdomen_02": Storage((72, 58, 30), (5.0, 5.0, 7.5), "LAS"),
    "abdomen_03": Storage((76, 62, 32), (4.8, 4.8, 7.0), tilt_degrees=12.0),
    "abdomen_04": Storage((66, 54, 26), (5.5, 5.5, 8.5), "LAS"),
    "abdomen_05": Storage((74, 60, 36), (4.9, 4.9, 6.0), "LPS"),
    "abdomen_06": Storage((64, 52, 25), (5.8, 5.8, 9.0)),
    "abdomen_07": Storage((70, 56, 31), (5.2, 5.2, 7.0), "LAS"),
    "abdomen_08": Storage((78, 60, 28), (4.6, 4.6, 8.0)),
}
HELD_OUT = {
    "abdomen_09": Storage((76, 60, 32), (4.7, 4.7, 6.8), "LAS"),
    "abdomen_10": Storage((68, 54, 27), (5.4, 5.4, 8.0)),
}
DATASET = {
    "name": "SampleAbdomen",
    "description": "Generated abdominal CT phantoms with liver and tumors",
    "licence": "CC0-1.0 (generated)",
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": LIVER, "tumor": TUMOR},
    "numTraining": len(TRAINING),
    "file_ending": ".nii.gz",
}


def length(vectors: Array) -> Array:
    """Euclidean length of each vector ``(..., 3)``."""
    return np.asarray(np.sqrt(np.einsum("...i,...i->...", vectors, vectors)))


def ellipsoid(points: Array, center: Point, radii: Point) -> Array:
    """Distance to the surface in mm, negative inside; first-order exact near the surface."""
    offset = (points - center) / radii
    norm = length(offset)
    slope = length(offset / radii)
    return np.asarray(norm * (norm - 1) / np.maximum(slope, 1e-9))


def tube(points: Array, path: Iterable[Point], radius: float) -> Array:
    """Distance in mm to a round tube along a polyline, negative inside."""
    corners = [np.array(corner) for corner in path]
    level = np.full(points.shape[:-1], np.inf)
    for start, end in pairwise(corners):
        along = end - start
        share = np.clip((points - start) @ along / (along @ along), 0, 1)
        distance = length(points - start - share[..., None] * along)
        level = np.minimum(level, distance - radius)
    return level


def merge(a: Array, b: Array, *, rounding: float) -> Array:
    """Union of two solids whose seam is rounded over ``rounding`` mm."""
    near = np.maximum(rounding - np.abs(a - b), 0) / rounding
    return np.asarray(np.minimum(a, b) - near * near * rounding / 4)


def inside(*levels: Array) -> Array:
    """Intersection of solids."""
    return np.asarray(np.maximum.reduce(levels))


class Waves:
    """A smooth random field: a few plane waves with wavelengths in mm between two bounds.

    Args:
        random: Source of the wave directions and phases.
        wavelengths: Shortest and longest wavelength in mm.
        amplitude: Standard deviation of the field.
        number: How many waves are summed.
    """

    def __init__(
        self,
        random: np.random.Generator,
        wavelengths: tuple[float, float],
        amplitude: float,
        number: int = 6,
    ) -> None:
        directions = random.normal(size=(number, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = random.uniform(*wavelengths, size=(number, 1))
        self._vectors = 2 * np.pi * directions / lengths
        self._phases = random.uniform(0, 2 * np.pi, size=number)
        self._amplitude = amplitude * np.sqrt(2 / number)

    def __call__(self, points: Array) -> Array:
        """Value of the field at each point ``(..., 3)``."""
        waves = np.sin(points @ self._vectors.T + self._phases)
        return np.asarray(self._amplitude * waves.sum(axis=-1))


@dataclass
class Canvas:
    """Voxels that are painted organ after organ, later ones over earlier ones.

    Args:
        shape: Shape of the volume.
        blur: Width in mm over which a surface fades, standing in for partial volume.
    """

    shape: tuple[int, ...]
    blur: float
    hu: Array = field(init=False)
    labels: npt.NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        self.hu = np.full(self.shape, -1000.0)
        self.labels = np.zeros(self.shape, dtype=np.uint8)

    def paint(self, level: Array, hu: float | Array, label: int | None = 0) -> None:
        """Fill a solid with an intensity in HU and a label; ``None`` keeps the labels."""
        share = np.clip(0.5 - level / self.blur, 0, 1)
        self.hu += share * (hu - self.hu)
        if label is not None:
            self.labels[level < 0] = label


class Patient:
    """One random anatomy, to be asked for the tissue at any world point.

    Args:
        random: Source of every choice that makes this patient differ from the others.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._scale = random.uniform((0.9, 0.88, 0.92), (1.03, 1.05, 1.08))
        self._warps = [Waves(random, (160, 420), amplitude=5.5) for _ in range(3)]
        self._wobble = Waves(random, (45, 90), amplitude=2.2)
        self._texture = Waves(random, (18, 45), amplitude=4.0, number=12)
        self._fat = random.uniform(9, 24)
        self._wall = random.uniform(10, 14)
        self._liver_size = random.uniform(0.9, 1.08, size=3)
        self._right_lobe = self._jitter((68, 2, 2), 5)
        self._left_lobe = self._jitter((-2, 46, 38), 8)
        self._spleen = self._jitter((-102, -42, 30), 6)
        self._stomach = self._jitter((-58, 32, 28), 7)
        self._kidneys = (self._jitter((-62, -54, -22), 5), self._jitter((64, -57, -46), 5))
        self._gallbladder = self._jitter((50, 48, -34), 6)
        self._liver_hu = random.uniform(88, 116)
        self._blood_hu = random.uniform(135, 165)
        self._phase = random.uniform(0, 30)
        self._tumors = self._grow_tumors(int(random.integers(1, 4)))

    def _jitter(self, center: Point, spread: float) -> Point:
        x, y, z = self._random.uniform(-spread, spread, size=3) + center
        return float(x), float(y), float(z)

    def _to_body(self, points: Array) -> Array:
        """World points to the coordinates of the average body, in which organs are placed."""
        shift = np.stack([warp(points) for warp in self._warps], axis=-1)
        return np.asarray((points + shift) / self._scale)

    def _torso(self, q: Array) -> Array:
        x, y = np.abs(q[..., 0]) / 168, np.abs(q[..., 1] + 3) / 126
        return np.asarray(((x**2.4 + y**2.4) ** (1 / 2.4) - 1) * 140)

    def _cavity(self, q: Array) -> Array:
        return self._torso(q) + self._fat + self._wall

    def _above_diaphragm(self, q: Array) -> Array:
        """Negative above the two domes of the diaphragm, about mm."""
        x, y, z = np.moveaxis(q, -1, 0)
        right = 80 - 62 * (((x - 62) / 88) ** 2 + ((y - 8) / 95) ** 2)
        left = 66 - 62 * (((x + 68) / 82) ** 2 + (y / 95) ** 2)
        return np.asarray(0.75 * (np.maximum(right, left) - z))

    def _kidney(self, q: Array, center: Point) -> Array:
        return ellipsoid(q, center, (27, 25, 54))

    def _spine(self, q: Array) -> Array:
        flat = q * (1, 1, 0)
        return inside(ellipsoid(flat, (0, -66, 0), (24, 19, 1e3)))

    def _cava(self, q: Array) -> Array:
        return tube(q, [(21, -34, -200), (22, -32, 0), (16, -24, 110)], 11)

    def _liver(self, q: Array) -> Array:
        sx, sy, sz = self._liver_size
        right = ellipsoid(q, self._right_lobe, (76 * sx, 98 * sy, 92 * sz))
        left = ellipsoid(q, self._left_lobe, (78 * sx, 44 * sy, 40 * sz))
        kidney_x, kidney_y, kidney_z = self._kidneys[1]
        hilum = ellipsoid(q, (-22, -18, -50), (74, 80, 72))
        return inside(
            merge(right, left, rounding=20) + self._wobble(q),
            self._cavity(q) + 4,
            4 - self._above_diaphragm(q),
            -hilum,
            -ellipsoid(q, (kidney_x - 8, kidney_y - 12, kidney_z), (44, 46, 66)),
            2 - ellipsoid(q, self._gallbladder, (14, 23, 19)),
            1 - self._cava(q),
            8 - self._spine(q),
        )

    def _grow_tumors(self, number: int) -> list[tuple[Point, Point, float]]:
        """Centers, radii and HU of lesions well inside the liver and apart from each other."""
        tumors: list[tuple[Point, Point, float]] = []
        while len(tumors) < number:
            place = self._random.uniform((-50, -85, -70), (135, 85, 75))
            radius = self._random.uniform(10 if tumors else 12, 15)
            radii = radius * self._random.uniform(0.88, 1.12, size=3)
            clear = all(np.linalg.norm(place - c) > radius + max(r) + 6 for c, r, _ in tumors)
            if clear and self._liver(place) < -(radius + 2):
                hu = self._liver_hu * self._random.uniform(0.56, 0.66)
                tumors.append((tuple(place.tolist()), tuple(radii.tolist()), float(hu)))
        return tumors

    def render(self, points: Array, blur: float) -> Canvas:
        """Tissue at every world point ``(I, J, K, 3)``, in HU without noise, and its label."""
        q = self._to_body(points)
        canvas = Canvas(points.shape[:-1], blur)
        self._paint_walls(canvas, q)
        self._paint_chest(canvas, q)
        self._paint_bowel(canvas, q)
        self._paint_stomach_and_spleen(canvas, q)
        self._paint_liver(canvas, q)
        self._paint_retroperitoneum(canvas, q)
        self._paint_bones(canvas, q)
        return canvas

    def _paint_walls(self, canvas: Canvas, q: Array) -> None:
        texture = self._texture(q)
        muscle = self._random.uniform(50, 62)
        torso = self._torso(q)
        canvas.paint(np.abs(q[..., 1] + 142 - (q[..., 0] / 42) ** 2) - 3, -350)
        canvas.paint(torso, -102 + 2 * texture)
        canvas.paint(torso + self._fat, muscle)
        canvas.paint(self._cavity(q), -96 + 2 * texture)
        for side in (-1, 1):
            back = ellipsoid(q * (1, 1, 0), (side * 34, -92, 0), (32, 20, 1e3))
            canvas.paint(inside(back, torso + self._fat), muscle)
            psoas = [(side * 30, -66, 20), (side * 40, -62, -60), (side * 50, -55, -200)]
            canvas.paint(tube(q, psoas, 17), muscle)

    def _paint_chest(self, canvas: Canvas, q: Array) -> None:
        middle = ellipsoid(q * (1, 1, 0), (0, -40, 0), (34, 52, 1e3))
        lung = inside(self._cavity(q) - 2, self._above_diaphragm(q), -middle)
        canvas.paint(lung, -840 + 6 * self._texture(q))
        heart = ellipsoid(q, (-22, 28, 108), (58, 50, 46))
        canvas.paint(inside(heart, self._cavity(q) + 2, self._above_diaphragm(q) + 2), -90)
        canvas.paint(
            inside(heart + 5, self._cavity(q) + 4, self._above_diaphragm(q) + 4),
            self._blood_hu - 20,
        )

    def _paint_bowel(self, canvas: Canvas, q: Array) -> None:
        wobble = self._wobble(q)
        texture = self._texture(q)
        cavity = self._cavity(q) + 4
        for _ in range(26):
            x, y, z = self._random.uniform((-85, -15, -140), (85, 85, -45))
            bend = self._random.uniform(-28, 28, size=3)
            loop = tube(q, [(x, y, z), (x + bend[0], y + bend[1], z + bend[2])], 13)
            loop = inside(loop + 0.5 * wobble, cavity)
            canvas.paint(loop, self._random.uniform(65, 95))
            canvas.paint(loop + 5, self._random.choice((15, 30, 30, 120)))
        descending = [(-104, 0, 0), (-112, -30, -40), (-110, -25, -200)]
        across = [(104, 40, -75), (45, 84, -58), (-20, 88, -52), (-72, 76, -35), (-104, 10, -5)]
        for path in ([(104, -8, -75), (100, -8, -200)], across, descending):
            colon = inside(tube(q, path, 17) + wobble, cavity)
            canvas.paint(colon, 55)
            canvas.paint(colon + 4, 20 + 6 * texture)
            middle = np.median(np.array(path)[:, 1]) + 3
            canvas.paint(inside(colon + 5, middle - q[..., 1] + 2 * wobble), -880)

    def _paint_stomach_and_spleen(self, canvas: Canvas, q: Array) -> None:
        wobble = self._wobble(q)
        room = inside(self._cavity(q) + 4, 4 - self._above_diaphragm(q))
        fundus = ellipsoid(q, self._stomach, (44, 42, 42))
        antrum = tube(q, [self._stomach, (-30, 55, -15), (22, 40, -22)], 18)
        stomach = inside(merge(fundus, antrum, rounding=15) + wobble, room)
        surface = self._stomach[1] + self._random.uniform(4, 16)
        canvas.paint(stomach, 75)
        canvas.paint(stomach + 6, self._random.uniform(10, 45))
        canvas.paint(inside(stomach + 6, surface - q[..., 1]), -920)
        spleen = ellipsoid(q, self._spleen, (29, 48, 50)) + wobble
        spleen = inside(spleen, room, 8 - self._kidney(q, self._kidneys[0]))
        canvas.paint(spleen, self._liver_hu + self._random.uniform(4, 16) + self._texture(q))

    def _paint_liver(self, canvas: Canvas, q: Array) -> None:
        texture = self._texture(q)
        liver = self._liver(q)
        canvas.paint(liver, self._liver_hu + texture, LIVER)
        vein = self._liver_hu + 40
        portal = [(14, -2, -16), (38, 4, 12), (70, -5, 8), (100, -25, 0)]
        trunks = [portal, [(38, 4, 12), (20, 45, 34), (-20, 55, 40)]]
        trunks += [[(18, -24, 66), end] for end in ((95, -20, 40), (62, 45, 34), (0, 48, 44))]
        for trunk in trunks:
            canvas.paint(inside(tube(q, trunk, 4.5), liver + 3), vein, None)
        for center, radii, hu in self._tumors:
            tumor = ellipsoid(q, center, radii) + 0.4 * self._wobble(2 * q)
            canvas.paint(inside(tumor, liver), hu + 0.5 * texture, TUMOR)
        canvas.paint(ellipsoid(q, self._gallbladder, (14, 23, 19)), 12)

    def _paint_retroperitoneum(self, canvas: Canvas, q: Array) -> None:
        wobble = self._wobble(q)
        texture = self._texture(q)
        pancreas = [(38, 6, -32), (4, 14, -16), (-42, -4, 2), (-80, -24, 14)]
        canvas.paint(tube(q, pancreas, 10) + wobble, self._random.uniform(80, 100))
        canvas.paint(self._cava(q), self._blood_hu - 20)
        canvas.paint(
            tube(q, [(-14, -38, -200), (-12, -38, 0), (-14, -42, 130)], 11), self._blood_hu
        )
        for x in (-4, 9):
            canvas.paint(tube(q, [(x, 2, -20), (x, 14, -140)], 5), self._blood_hu)
        for center in self._kidneys:
            kidney = self._kidney(q, center) + 0.6 * wobble
            side = np.sign(center[0])
            canvas.paint(kidney, self._random.uniform(150, 185) + texture)
            canvas.paint(
                ellipsoid(q, (center[0] - side * 16, center[1] + 6, center[2]), (16, 9, 22)), -30
            )
            gland = (center[0] - side * 24, center[1] + 8, center[2] + 58)
            canvas.paint(ellipsoid(q, gland, (4, 12, 10)), 70)

    def _paint_bones(self, canvas: Canvas, q: Array) -> None:
        x, y, z = np.moveaxis(q, -1, 0)
        # two vertebrae are 34 mm apart, of which 8 mm are disc
        from_middle = np.abs((z + self._phase) % 34 - 17)
        vertebra = self._spine(q)
        canvas.paint(vertebra, 90)
        canvas.paint(inside(vertebra, from_middle - 13), 480)
        canvas.paint(inside(vertebra + 4, from_middle - 11), 240 + 8 * self._texture(q))
        canal = np.hypot(x, y + 95)
        canvas.paint(inside(canal - 17, from_middle - 14), 430)
        canvas.paint(inside(np.hypot(x / 0.4, (y + 116) / 1.6) - 10, from_middle - 12), 420)
        wing = np.hypot(y + 97, from_middle) - 5
        canvas.paint(inside(wing, np.abs(x) - 42), 380)
        canvas.paint(canal - 10, 30)
        # ribs fall towards the front; they end where the flanks and the costal arch begin
        slanted = z + 0.5 * y + self._phase
        rib = np.hypot(self._torso(q) + self._fat + self._wall / 2, (slanted % 32 - 16) / 1.1)
        canvas.paint(inside(rib - 6, -25 - slanted, y - 78), 470)


def make_case(
    name: str, storage: Storage
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], Array]:
    """Image in HU, label map and affine of one case, the same on every call.

    Args:
        name: Case id; its digits select the random stream.
        storage: Grid on which the case is stored.

    Returns:
        Image ``(I, J, K)`` int16, labels ``(I, J, K)`` uint8, affine ``(4, 4)``.
    """
    random = np.random.default_rng([SEED, int(name.rsplit("_", 1)[-1])])
    x, y, z = random.uniform((-12, -30, -450), (12, 30, -250)).round(1)
    affine = storage.affine((x, y, z))
    index = np.moveaxis(np.indices(storage.shape), 0, -1).astype(np.float64)
    points = index @ affine[:3, :3].T + affine[:3, 3] - (x, y, z + 18)
    canvas = Patient(random).render(points, blur=float(np.mean(storage.spacing)))
    spread = np.where(canvas.hu > -600, 12.0, 6.0)
    noisy = canvas.hu + spread * random.normal(size=storage.shape)
    image = HU_STEP * np.round(np.clip(noisy, -1024, 1500) / HU_STEP)
    return image.astype(np.int16), canvas.labels, affine


def write_nifti(path: Path, array: npt.NDArray[np.generic], affine: Array) -> None:
    """Write a gzipped NIfTI without a time stamp, so that equal voxels are equal bytes."""
    new_image: Any = nib.Nifti1Image  # nibabel is untyped
    volume = new_image(array, affine)
    volume.header.set_xyzt_units("mm")
    volume.set_qform(affine, 1)
    volume.set_sform(affine, 1)
    buffer = BytesIO()
    with gzip.GzipFile("", "wb", 9, buffer, mtime=0) as stream:
        stream.write(volume.to_bytes())
    with atomic(path) as beside:
        beside.write_bytes(buffer.getvalue())


def write_all(out: Path) -> None:
    """Write both sets into ``out``, each file whole, and last of all ``dataset.json``."""
    for suffix, cases in (("Tr", TRAINING), ("Ts", HELD_OUT)):
        for name, storage in cases.items():
            image, labels, affine = make_case(name, storage)
            write_nifti(out / f"images{suffix}" / f"{name}_0000.nii.gz", image, affine)
            write_nifti(out / f"labels{suffix}" / f"{name}.nii.gz", labels, affine)
    with atomic(out / "dataset.json") as beside:
        beside.write_text(json.dumps(DATASET, indent=2) + "\n", encoding="utf-8")


def best_threshold_dice(folder: Path) -> tuple[float, float]:
    """Best liver Dice over all cases that intensity alone can reach.

    Args:
        folder: Where the data were written.

    Returns:
        Dice of the best single threshold, and of the best pair of bounds, in HU, when one
        choice serves all cases and the tumors count as liver.
    """
    load: Any = nib.load  # nibabel is untyped
    cases = [
        (np.asarray(load(image).dataobj), np.asarray(load(labels).dataobj))
        for images, labels_of in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))
        for image, labels in zip(
            sorted((folder / images).iterdir()), sorted((folder / labels_of).iterdir()), strict=True
        )
    ]
    steps = np.arange(-200, 604, HU_STEP)
    liver = np.zeros((len(cases), len(steps)))
    total = np.zeros_like(liver)
    for row, (image, labels) in enumerate(cases):
        for counts, values in ((liver, image[labels > 0]), (total, image)):
            place = np.searchsorted(np.sort(values, axis=None), steps)
            counts[row] = values.size - place
    reference = np.array([(labels > 0).sum() for _, labels in cases])[:, None]
    single = (2 * liver / (total + reference)).mean(axis=0).max()
    bounded = 0.0
    for low in range(len(steps)):
        hit = liver[:, low, None] - liver[:, low:]
        size = total[:, low, None] - total[:, low:]
        bounded = max(bounded, float((2 * hit / (size + reference)).mean(axis=0).max()))
    return float(single), bounded


def main() -> None:
    """Parse the command line and write the data."""
    parser = argparse.ArgumentParser(description="Make the sample data.")
    parser.add_argument("out", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--check", action="store_true", help="tell how far a threshold gets")
    options = parser.parse_args()
    write_all(options.out)
    if options.check:
        single, bounded = best_threshold_dice(options.out)
        sys.stdout.write(
            f"liver Dice by intensity alone: one threshold {single:.2f}, two bounds {bounded:.2f}\n"
        )


if __name__ == "__main__":
    main()
