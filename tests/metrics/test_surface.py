"""Surface distances: the published vectors, the definition by brute force, and the axioms."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy import ndimage

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics import surface as surface_module
from medseg3d.metrics.overlap import dice, iou, precision, recall
from medseg3d.metrics.surface import (
    assd,
    hausdorff,
    hausdorff_95,
    masd,
    surface,
    surface_dice,
    surface_distances,
)
from medseg3d.metrics.volume import volume_difference
from medseg3d.types import Mask, Spacing

SHAPE = (6, 5, 4)
ISOTROPIC = (1.0, 1.0, 1.0)
SYMMETRIC = (hausdorff, hausdorff_95, assd, masd, surface_dice)
each_metric = pytest.mark.parametrize("metric", SYMMETRIC, ids=lambda metric: metric.__name__)
each_distance = pytest.mark.parametrize("metric", SYMMETRIC[:-1], ids=lambda m: m.__name__)
masks = arrays(np.bool_, SHAPE, elements=st.booleans())
spacings = st.tuples(*[st.floats(0.1, 10.0)] * 3)


class Pair(NamedTuple):
    reference: Mask
    prediction: Mask
    spacing: Spacing


def ellipsoid(
    shape: tuple[int, int, int], center: tuple[int | float, ...], radii: tuple[int, ...]
) -> Mask:
    index = np.indices(shape).astype(float)
    return sum(((index[i] - center[i]) / radii[i]) ** 2 for i in range(3)) <= 1.0


def shifted_ellipsoid() -> Pair:
    shape = (16, 24, 24)
    return Pair(
        ellipsoid(shape, (7.5, 11.5, 11.5), (4, 8, 7)),
        ellipsoid(shape, (8.5, 12.5, 11.5), (4, 7, 7)),
        (3.0, 1.0, 1.0),
    )


def box_at_the_border() -> Pair:
    reference = np.zeros((10, 20, 20), dtype=bool)
    prediction = np.zeros_like(reference)
    reference[0:6, 0:12, 4:16] = True
    prediction[0:7, 1:12, 3:15] = True
    return Pair(reference, prediction, (2.5, 0.8, 0.8))


def noise_and_an_outlier() -> Pair:
    rng = np.random.default_rng(20240601)
    shape, center = (20, 20, 20), (9, 9, 9)
    reference = ellipsoid(shape, center, (5, 6, 6))
    rim = ellipsoid(shape, center, (7, 8, 8)) & ~ellipsoid(shape, center, (4, 5, 5))
    prediction = reference ^ ((rng.random(shape) < 0.10) & rim)
    prediction[19, 19, 19] = True
    return Pair(reference, prediction, (1.0, 1.0, 2.0))


def missed_lesion() -> Pair:
    shape = (8, 40, 40)
    reference = ellipsoid(shape, (3, 12, 12), (2, 7, 7)) | ellipsoid(shape, (5, 31, 30), (1, 3, 3))
    return Pair(reference, ellipsoid(shape, (3, 13, 12), (2, 7, 6)), (5.0, 0.7, 0.7))


def two_single_voxels() -> Pair:
    reference, prediction = np.zeros((2, 7, 7, 7), dtype=bool)
    reference[2, 2, 2] = prediction[3, 4, 5] = True
    return Pair(reference, prediction, (1.5, 1.0, 0.5))


class Expected(NamedTuple):
    """Values on which MONAI, MetricsReloaded and an independent reference agree."""

    sizes: tuple[int, int, int]  # reference, prediction, shared voxels
    surfaces: tuple[int, int]  # prediction, reference
    overlaps: tuple[float, float, float, float]  # Dice, IoU, precision, recall
    hausdorff: float
    hausdorff_95: float
    pooled_95: float  # MedPy
    assd: float
    directed: tuple[float, float] | None  # to the reference, to the prediction
    surface_dice: tuple[float, float]  # at 1 and 2 mm
    volume_difference: float


VECTORS = {
    shifted_ellipsoid: Expected(
        (936, 784, 662), (320, 368), (0.76977, 0.62571, 0.84439, 0.70726),
        3.60555, 3.16228, 3.00000, 1.43593, (1.36866, 1.49442), (0.55523, 0.75872), -0.456,
    ),
    box_at_the_border: Expected(
        (864, 924, 726), (474, 464), (0.81208, 0.68362, 0.78571, 0.84028),
        2.62488, 2.50000, 2.50000, 0.77629, (0.93876, 0.61032), (0.79318, 0.82729), 0.096,
    ),
    noise_and_an_outlier: Expected(
        (739, 817, 710), (403, 290), (0.91260, 0.83924, 0.86903, 0.96076),
        15.09967, 2.82843, 2.23607, 0.43430, (0.65750, 0.12414), (0.88456, 0.93218), 0.156,
    ),
    missed_lesion: Expected(
        (408, 323, 302), (230, 292), (0.82627, 0.70396, 0.93498, 0.74020),
        17.50114, 15.20822, 13.80652, 1.05550, (0.14756, 1.77066), (0.94253, 0.94253), -0.20825,
    ),
    two_single_voxels: Expected(
        (1, 1, 0), (1, 1), (0.0, 0.0, 0.0, 0.0),
        2.91548, 2.91548, 2.91548, 2.91548, None, (0.0, 0.0), 0.0,
    ),
}  # fmt: skip
each_vector = pytest.mark.parametrize(
    ("draw", "expected"), VECTORS.items(), ids=[draw.__name__ for draw in VECTORS]
)
each_pair = pytest.mark.parametrize("draw", VECTORS, ids=lambda draw: draw.__name__)


def near(value: float) -> object:
    return pytest.approx(value, abs=1e-5)


@each_vector
def test_drawings_have_the_published_sizes(draw, expected: Expected) -> None:
    pair = draw()
    shared = pair.reference & pair.prediction
    assert (pair.reference.sum(), pair.prediction.sum(), shared.sum()) == expected.sizes
    assert (surface(pair.prediction).sum(), surface(pair.reference).sum()) == expected.surfaces


@each_vector
def test_overlap_and_volume_vectors(draw, expected: Expected) -> None:
    reference, prediction, spacing = draw()
    found = tuple(ratio(prediction, reference) for ratio in (dice, iou, precision, recall))
    assert found == near(expected.overlaps)
    assert volume_difference(prediction, reference, spacing) == near(expected.volume_difference)


@each_vector
def test_distance_vectors(draw, expected: Expected) -> None:
    reference, prediction, spacing = draw()
    pair = (prediction, reference, spacing)
    assert hausdorff(*pair) == near(expected.hausdorff)
    assert hausdorff_95(*pair) == near(expected.hausdorff_95)
    assert hausdorff_95(*pair, pooled=True) == near(expected.pooled_95)
    assert assd(*pair) == near(expected.assd)
    found = tuple(surface_dice(*pair, tolerance=tolerance) for tolerance in (1.0, 2.0))
    assert found == near(expected.surface_dice)


@each_vector
def test_mean_distances_of_each_direction(draw, expected: Expected) -> None:
    reference, prediction, spacing = draw()
    distances = surface_distances(prediction, reference, spacing)
    directed = expected.directed or (expected.assd, expected.assd)
    assert distances.to_reference.mean() == near(directed[0])
    assert distances.to_prediction.mean() == near(directed[1])
    assert masd(prediction, reference, spacing) == near(sum(directed) / 2)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@each_pair
def test_distances_agree_with_monai(draw) -> None:
    reference, prediction, spacing = draw()
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    ours = surface_distances(prediction, reference, spacing)
    for percentile in (50, 95, 100):
        theirs = compute_hausdorff_distance(*pair, percentile=percentile, spacing=spacing)
        assert ours.hausdorff(percentile) == near(theirs.item())
    theirs = compute_average_surface_distance(*pair, symmetric=True, spacing=spacing)
    assert ours.assd() == near(theirs.item())
    for tolerance in (0.65, 1.3, 2.0):
        theirs = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=spacing)
        assert ours.surface_dice(tolerance) == near(theirs.item())


@each_pair
def test_the_distance_transform_and_the_tree_measure_the_same(draw, monkeypatch) -> None:
    reference, prediction, spacing = draw()
    found = []
    for voxels_per_query in (0, 10**9):
        monkeypatch.setattr(surface_module, "VOXELS_PER_QUERY", voxels_per_query)
        distances = surface_distances(prediction, reference, spacing)
        found.append((distances.to_reference, distances.to_prediction))
    for tree, transform in zip(*found, strict=True):
        np.testing.assert_allclose(tree, transform, rtol=1e-12)


def brute_force(
    prediction: Mask, reference: Mask, spacing: Spacing
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The definition, by comparing every pair of surface voxels."""
    points = [
        np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing
        for mask in (prediction, reference)
    ]
    distances = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return distances.min(axis=1), distances.min(axis=0)


@given(prediction=masks, reference=masks, spacing=spacings)
def test_agrees_with_the_definition(prediction: Mask, reference: Mask, spacing: Spacing) -> None:
    assume(prediction.any() and reference.any())
    there, back = brute_force(prediction, reference, spacing)
    both = np.concatenate([there, back])
    pair = (prediction, reference, spacing)
    assert hausdorff(*pair) == pytest.approx(both.max())
    assert hausdorff_95(*pair) == pytest.approx(
        max(np.percentile(there, 95), np.percentile(back, 95))
    )
    assert hausdorff_95(*pair, pooled=True) == pytest.approx(np.percentile(both, 95))
    assert assd(*pair) == pytest.approx(both.mean())
    assert masd(*pair) == pytest.approx((there.mean() + back.mean()) / 2)
    assert surface_dice(*pair, tolerance=1.7) == pytest.approx((both <= 1.7).mean())


@given(mask=masks)
def test_surface_is_what_erosion_removes(mask: Mask) -> None:
    np.testing.assert_array_equal(surface(mask), mask & ~ndimage.binary_erosion(mask))


@given(a=masks, b=masks, c=masks)
def test_hausdorff_is_a_metric(a: Mask, b: Mask, c: Mask) -> None:
    assume(a.any() and b.any() and c.any())
    d_ab, d_bc, d_ac = (hausdorff(*pair, ISOTROPIC) for pair in ((a, b), (b, c), (a, c)))
    assert hausdorff(a, a, ISOTROPIC) == 0
    assert d_ab == hausdorff(b, a, ISOTROPIC)
    assert d_ac <= d_ab + d_bc + 1e-9


@each_metric
@given(a=masks, b=masks, axis=st.sampled_from([0, 1, 2]))
def test_swap_padding_flip_and_axis_order_change_nothing(metric, a: Mask, b: Mask, axis) -> None:
    spacing = (2.0, 0.5, 3.0)
    expected = pytest.approx(metric(a, b, spacing), nan_ok=True)
    assert metric(b, a, spacing) == expected
    assert metric(np.pad(a, 2), np.pad(b, 2), spacing) == expected
    assert metric(np.flip(a, axis), np.flip(b, axis), spacing) == expected
    turned = (2.0, 3.0, 0.5)
    assert metric(a.swapaxes(1, 2), b.swapaxes(1, 2), turned) == expected


@each_distance
@given(a=masks, b=masks, factor=st.floats(0.2, 5.0))
def test_distances_scale_with_the_spacing(metric, a: Mask, b: Mask, factor: float) -> None:
    scaled = metric(a, b, (2.0 * factor, 0.5 * factor, 3.0 * factor))
    assert scaled == pytest.approx(factor * metric(a, b, (2.0, 0.5, 3.0)), nan_ok=True)


@given(a=masks, b=masks, spacing=spacings)
def test_surface_dice_is_full_at_the_hausdorff_distance(a: Mask, b: Mask, spacing: Spacing) -> None:
    assume(a.any() and b.any())
    assert surface_dice(a, b, spacing, tolerance=hausdorff(a, b, spacing)) == 1.0


@each_metric
def test_two_empty_masks_are_undefined(metric) -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    assert np.isnan(metric(empty, empty, ISOTROPIC))


@each_distance
def test_one_empty_mask_is_infinitely_far(metric) -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    assert metric(empty, ~empty, ISOTROPIC) == np.inf
    assert metric(~empty, empty, ISOTROPIC) == np.inf


def test_one_empty_mask_has_no_surface_within_tolerance() -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    assert surface_dice(empty, ~empty, ISOTROPIC) == 0.0
    assert surface_dice(~empty, empty, ISOTROPIC) == 0.0


@pytest.mark.parametrize("spacing_mm", [0.7, float(np.float32(0.8)), 0.1])
def test_a_distance_equal_to_the_tolerance_is_accepted(spacing_mm: float) -> None:
    prediction, reference = np.zeros((2, 40, 3, 3), dtype=bool)
    reference[30, 1, 1] = prediction[33, 1, 1] = True
    tolerance = round(3 * spacing_mm, 6)
    spacing = (spacing_mm, 1.0, 1.0)
    assert surface_dice(prediction, reference, spacing, tolerance=tolerance) == 1.0
    assert surface_dice(prediction, reference, spacing, tolerance=tolerance - 1e-4) == 0.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), 2.0])
def test_spacing_must_be_one_length_per_axis(spacing) -> None:
    full = np.ones(SHAPE, dtype=bool)
    with pytest.raises(DataError, match="spacing must be 3 lengths in mm"):
        hausdorff(full, full, spacing)


@pytest.mark.parametrize("percentile", [0, -5, 100.5, float("nan")])
def test_percentile_zero_does_not_mean_one_hundred(percentile: float) -> None:
    full = np.ones(SHAPE, dtype=bool)
    with pytest.raises(ConfigError, match=r"percentile must lie in \(0, 100\]"):
        hausdorff(full, full, ISOTROPIC, percentile=percentile)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_tolerance_must_be_a_distance(tolerance: float) -> None:
    full = np.ones(SHAPE, dtype=bool)
    with pytest.raises(ConfigError, match="tolerance must be a distance in mm"):
        surface_dice(full, full, ISOTROPIC, tolerance=tolerance)


@given(a=masks, b=masks, spacing=spacings)
def test_without_the_border_a_cut_is_no_surface(a: Mask, b: Mask, spacing: Spacing) -> None:
    grown = [np.pad(mask, 1, mode="edge") for mask in (a, b)]
    inside = tuple(slice(1, -1) for _ in range(3))
    of_a, of_b = (surface(mask)[inside] for mask in grown)
    found = surface_distances(a, b, spacing, border=False)
    assert found.to_reference.size == of_a.sum()
    assert found.to_prediction.size == of_b.sum()
    assume(of_a.any() and of_b.any())
    points_a, points_b = (np.argwhere(mask) * spacing for mask in (of_a, of_b))
    distances = np.linalg.norm(points_a[:, None] - points_b[None], axis=-1)
    expected = max(distances.min(axis=1).max(), distances.min(axis=0).max())
    assert found.hausdorff() == pytest.approx(expected)
