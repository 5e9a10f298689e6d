"""200 random pairs of masks against MONAI and against the definitions by brute force.

The spacings are anisotropic; some masks are empty, full, of one voxel, or touch the border.
"""

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from monai.metrics.utils import create_table_neighbour_code_to_surface_area
from scipy import ndimage

from medseg3d.metrics import nearest
from medseg3d.metrics.surface import assd, hausdorff, hausdorff_95, masd, surface_dice
from medseg3d.types import Mask, Spacing

KINDS = ("noise", "blob", "box", "voxel", "full", "empty")
TOLERANCES = (0.7, 1.9, 4.0)

Values = npt.NDArray[np.float64]


class Pair(NamedTuple):
    prediction: Mask
    reference: Mask
    spacing: Spacing
    kinds: tuple[str, str]

    @property
    def is_defined(self) -> bool:
        return bool(self.prediction.any() and self.reference.any())


def drawn(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    if kind == "noise":
        return rng.random(shape) < rng.uniform(0.05, 0.9)
    if kind == "blob":
        smooth = ndimage.gaussian_filter(rng.random(shape), 1.2)
        return smooth > np.quantile(smooth, rng.uniform(0.3, 0.8))
    if kind == "box":  # up to the border
        mask[tuple(slice(0, rng.integers(1, size + 1)) for size in shape)] = True
    elif kind == "voxel":
        mask[tuple(rng.integers(0, size) for size in shape)] = True
    elif kind == "full":
        mask[...] = True
    return mask


def pairs() -> list[Pair]:
    rng = np.random.default_rng(5)
    found = []
    for number in range(200):
        shape = tuple(rng.integers(2, 10, 3).tolist())
        kinds = (KINDS[number % 6], KINDS[number // 6 % 6])
        prediction, reference = (drawn(kind, shape, rng) for kind in kinds)
        if number % 7 == 3 and kinds[0] == "blob":  # nearly right
            reference = prediction ^ (rng.random(shape) < 0.05)
        spacing = tuple(np.exp(rng.uniform(np.log(0.3), np.log(6.0), 3)).round(3).tolist())
        found.append(Pair(prediction, reference, spacing, kinds))
    return found


PAIRS = pairs()
DEFINED = [number for number, pair in enumerate(PAIRS) if pair.is_defined]
"""MONAI has other rules for empty masks."""


def test_all_kinds_meet() -> None:
    assert len({pair.kinds for pair in PAIRS}) == 36
    assert len(DEFINED) > 120
    for pair in PAIRS:
        for mask, kind in zip(pair[:2], pair.kinds, strict=True):
            if kind in ("box", "voxel", "full"):
                assert mask.any()


@pytest.fixture(autouse=True)
def _look_less_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that these small masks need the tree and the distance transform too."""
    monkeypatch.setattr(nearest, "PLACES_TO_LOOK_AT", 20)


def near(value: float) -> object:
    return pytest.approx(value, abs=1e-5, rel=1e-5)


class Surface(NamedTuple):
    """Points of a surface in mm, and how much each counts."""

    points: Values
    weights: Values


def of_voxels(mask: Mask, spacing: Spacing) -> Surface:
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing
    return Surface(points, np.ones(len(points)))


def of_mesh(mask: Mask, spacing: Spacing) -> Surface:
    """Corner by corner, with the areas that MONAI tabulates."""
    table, kernel = create_table_neighbour_code_to_surface_area(spacing)
    padded = np.pad(mask, 1).astype(int)
    points, weights = [], []
    for corner in np.ndindex(*(np.array(padded.shape) - 1)):
        eight = padded[tuple(slice(start, start + 2) for start in corner)]
        code = int((eight * kernel.numpy()[0, 0]).sum())
        if 0 < code < 255:
            points.append(np.array(corner) * spacing)
            weights.append(float(table[code]))
    return Surface(np.array(points), np.array(weights))


def percentile(distances: Values, weights: Values | None, q: float) -> float:
    """Interpolated, or the first distance at which so much of the area is reached."""
    if weights is None:
        return float(np.percentile(distances, q))
    ranked = sorted(zip(distances, weights, strict=True))
    reached = 0.0
    for distance, weight in ranked:
        reached += weight
        if reached >= q / 100 * weights.sum() * (1 - 1e-9):
            return float(distance)
    return float(ranked[-1][0])


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_brute_force_finds_the_same(number: int) -> None:
    pair = PAIRS[number]
    masks = pair[:3]
    for kind, of in (("voxel", of_voxels), ("mesh", of_mesh)):
        options = {"surface": kind}
        found = [metric(*masks, **options) for metric in (hausdorff, hausdorff_95, assd, masd)]
        shares = [surface_dice(*masks, tolerance=value, **options) for value in TOLERANCES]
        if not pair.is_defined:
            missing = pair.prediction.any() != pair.reference.any()
            np.testing.assert_array_equal(found, [np.inf if missing else np.nan] * 4)
            np.testing.assert_array_equal(shares, [0.0 if missing else np.nan] * 3)
            continue
        ours, theirs = (of(mask, pair.spacing) for mask in pair[:2])
        apart = np.linalg.norm(ours.points[:, None] - theirs.points[None], axis=-1)
        sides = ((apart.min(axis=1), ours.weights), (apart.min(axis=0), theirs.weights))
        means = [np.average(distances, weights=weights) for distances, weights in sides]
        both, weights = (np.concatenate(part) for part in zip(*sides, strict=True))
        expected = [
            both.max(),
            max(percentile(d, w if kind == "mesh" else None, 95.0) for d, w in sides),
            np.average(both, weights=weights),
            sum(means) / 2,
        ]
        assert found == near(expected)
        pooled = hausdorff_95(*masks, pooled=True, **options)
        assert pooled == near(percentile(both, weights if kind == "mesh" else None, 95.0))
        within = [weights[both <= value * (1 + 1e-6)].sum() / weights.sum() for value in TOLERANCES]
        assert shares == near(within)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("number", DEFINED)
def test_monai_finds_the_same(number: int) -> None:
    pair = PAIRS[number]
    masks = pair[:3]
    theirs = [torch.from_numpy(mask)[None, None] for mask in pair[:2]]
    options = {"spacing": pair.spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert hausdorff(*masks) == near(compute_hausdorff_distance(*theirs, **options).item())
        found = compute_hausdorff_distance(*theirs, percentile=95, **options)
        assert hausdorff_95(*masks) == near(found.item())
        found = compute_average_surface_distance(*theirs, symmetric=True, **options)
        assert assd(*masks) == near(found.item())
        means = [
            compute_average_surface_distance(*order, **options).item()
            for order in (theirs, theirs[::-1])
        ]
        assert masd(*masks) == near(sum(means) / 2)
        for kind in ("voxel", "mesh"):
            found = compute_surface_dice(
                *theirs, [1.9], include_background=True, use_subvoxels=kind == "mesh", **options
            )
            assert surface_dice(*masks, tolerance=1.9, surface=kind) == near(found.item())
