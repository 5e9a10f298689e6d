"""Surface distances: the published vectors, and the axioms and invariances of a metric."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics import nearest
from medseg3d.metrics.distances import SurfaceDistances, surface_distances, surface_voxels
from medseg3d.metrics.masks import MaskPair
from medseg3d.metrics.overlap import dice, iou, precision, recall
from medseg3d.metrics.surface import assd, hausdorff, hausdorff_95, masd, surface_dice
from medseg3d.metrics.volume import volume_difference
from medseg3d.types import Mask, Spacing

SHAPE = (6, 5, 4)
ISOTROPIC = (1.0, 1.0, 1.0)
SYMMETRIC = (hausdorff, hausdorff_95, assd, masd, surface_dice)
KINDS = ("voxel", "mesh")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_metric = pytest.mark.parametrize("metric", SYMMETRIC, ids=lambda metric: metric.__name__)
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


class Mesh(NamedTuple):
    """Values of DeepMind's surface-distance."""

    hausdorff_95: float
    directed: tuple[float, float]  # to the reference, to the prediction
    pooled: float
    surface_dice: float  # at 1 mm


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
    mesh: Mesh


VECTORS = {
    shifted_ellipsoid: Expected(
        (936, 784, 662), (320, 368), (0.76977, 0.62571, 0.84439, 0.70726),
        3.60555, 3.16228, 3.00000, 1.43593, (1.36866, 1.49442), (0.55523, 0.75872), -0.456,
        Mesh(3.00000, (0.74871, 0.90254), 0.82970, 0.74236),
    ),
    box_at_the_border: Expected(
        (864, 924, 726), (474, 464), (0.81208, 0.68362, 0.78571, 0.84028),
        2.62488, 2.50000, 2.50000, 0.77629, (0.93876, 0.61032), (0.79318, 0.82729), 0.096,
        Mesh(2.50000, (0.74754, 0.60337), 0.67795, 0.88589),
    ),
    noise_and_an_outlier: Expected(
        (739, 817, 710), (403, 290), (0.91260, 0.83924, 0.86903, 0.96076),
        15.09967, 2.82843, 2.23607, 0.43430, (0.65750, 0.12414), (0.88456, 0.93218), 0.156,
        Mesh(2.00000, (0.42873, 0.00760), 0.26009, 0.92139),
    ),
    missed_lesion: Expected(
        (408, 323, 302), (230, 292), (0.82627, 0.70396, 0.93498, 0.74020),
        17.50114, 15.20822, 13.80652, 1.05550, (0.14756, 1.77066), (0.94253, 0.94253), -0.20825,
        Mesh(15.20822, (0.12972, 2.51459), 1.47627, 0.90761),
    ),
    two_single_voxels: Expected(
        (1, 1, 0), (1, 1), (0.0, 0.0, 0.0, 0.0),
        2.91548, 2.91548, 2.91548, 2.91548, None, (0.0, 0.0), 0.0,
        Mesh(2.91548, (2.24598, 2.24598), 2.24598, 0.0),
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
    surfaces = (surface_voxels(pair.prediction).sum(), surface_voxels(pair.reference).sum())
    assert surfaces == expected.surfaces


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
    distances = surface_distances(MaskPair(prediction, reference, spacing))
    directed = expected.directed or (expected.assd, expected.assd)
    assert distances.to_reference.mean() == near(directed[0])
    assert distances.to_prediction.mean() == near(directed[1])
    assert masd(prediction, reference, spacing) == near(sum(directed) / 2)


@each_vector
def test_mesh_vectors(draw, expected: Expected) -> None:
    reference, prediction, spacing = draw()
    pair = (prediction, reference, spacing)
    assert hausdorff(*pair, surface="mesh") == near(expected.hausdorff)
    assert hausdorff_95(*pair, surface="mesh") == near(expected.mesh.hausdorff_95)
    assert assd(*pair, surface="mesh") == near(expected.mesh.pooled)
    assert masd(*pair, surface="mesh") == near(sum(expected.mesh.directed) / 2)
    found = surface_distances(MaskPair(*pair), surface="mesh")
    directed = (found.to_reference.mean(), found.to_prediction.mean())
    assert directed == near(expected.mesh.directed)
    assert surface_dice(*pair, surface="mesh") == near(expected.mesh.surface_dice)


def distances_of(masks: MaskPair, **options) -> list[np.ndarray]:
    found = surface_distances(masks, **options)
    return [found.to_reference.distances, found.to_prediction.distances]


@each_kind
@each_pair
@pytest.mark.parametrize(("places", "voxels"), [(1, 0), (1, 10**9), (30, 0), (30, 10**9)])
def test_looking_around_tree_and_transform_measure_the_same(
    draw, kind: str, places: int, voxels: int, monkeypatch
) -> None:
    reference, prediction, spacing = draw()
    masks = MaskPair(prediction, reference, spacing)
    expected = distances_of(masks, surface=kind)
    monkeypatch.setattr(nearest, "PLACES_TO_LOOK_AT", places)
    monkeypatch.setattr(nearest, "VOXELS_PER_QUERY", voxels)
    for found, usual in zip(distances_of(masks, surface=kind), expected, strict=True):
        np.testing.assert_allclose(found, usual, rtol=1e-12)


def test_a_surface_is_measured_once_for_all_metrics(monkeypatch) -> None:
    reference, prediction, spacing = shifted_ellipsoid()
    masks = MaskPair(prediction, reference, spacing)
    calls = []
    measure = nearest.nearest_distances
    monkeypatch.setattr(
        "medseg3d.metrics.distances.nearest_distances",
        lambda *arguments: calls.append(arguments) or measure(*arguments),
    )
    for metric in (*SYMMETRIC, *SYMMETRIC):
        metric.of(masks)
    assert len(calls) == 1
    hausdorff.of(masks, surface="mesh")
    assert len(calls) == 2


def test_masks_cut_out_of_an_image_are_taken_as_they_are() -> None:
    reference, prediction, spacing = box_at_the_border()
    expected = surface_distances(MaskPair(prediction, reference, spacing), border=False).assd()
    box = (slice(0, 8), slice(0, 14), slice(2, 18))  # a margin of a voxel inside the image
    cut = MaskPair(prediction[box], reference[box], spacing, image_shape=reference.shape)
    assert surface_distances(cut, border=False).assd() == pytest.approx(expected)


@given(mask=masks)
def test_surface_is_what_erosion_removes(mask: Mask) -> None:
    np.testing.assert_array_equal(surface_voxels(mask), mask & ~ndimage.binary_erosion(mask))


@each_kind
@given(a=masks, b=masks, c=masks)
def test_hausdorff_is_a_metric(kind: str, a: Mask, b: Mask, c: Mask) -> None:
    assume(a.any() and b.any() and c.any())
    d_ab, d_bc, d_ac = (
        hausdorff(*pair, ISOTROPIC, surface=kind) for pair in ((a, b), (b, c), (a, c))
    )
    assert hausdorff(a, a, ISOTROPIC, surface=kind) == 0
    assert d_ab == hausdorff(b, a, ISOTROPIC, surface=kind)
    assert d_ac <= d_ab + d_bc + 1e-9
    if kind == "voxel":
        assert (d_ab == 0) == np.array_equal(surface_voxels(a), surface_voxels(b))


def all_of(first: Mask, second: Mask, spacing: Spacing, kind: str) -> list[float]:
    """The distances, then the surface Dice."""
    pair = MaskPair(first, second, spacing)
    return [metric.of(pair, surface=kind) for metric in SYMMETRIC]


@each_kind
@given(a=masks, b=masks, axis=st.sampled_from([0, 1, 2]))
def test_swap_padding_flip_and_axis_order_change_nothing(
    kind: str, a: Mask, b: Mask, axis: int
) -> None:
    spacing = (2.0, 0.5, 3.0)
    expected = pytest.approx(all_of(a, b, spacing, kind), nan_ok=True)
    assert all_of(b, a, spacing, kind) == expected
    assert all_of(np.pad(a, 2), np.pad(b, 2), spacing, kind) == expected
    assert all_of(np.flip(a, axis), np.flip(b, axis), spacing, kind) == expected
    assert all_of(a.swapaxes(1, 2), b.swapaxes(1, 2), (2.0, 3.0, 0.5), kind) == expected
    assert all_of(np.asfortranarray(a), b, spacing, kind) == expected


@each_kind
@given(a=masks, b=masks, factor=st.floats(0.2, 5.0))
def test_distances_scale_with_the_spacing(kind: str, a: Mask, b: Mask, factor: float) -> None:
    *scaled, _ = all_of(a, b, (2.0 * factor, 0.5 * factor, 3.0 * factor), kind)
    *usual, _ = all_of(a, b, (2.0, 0.5, 3.0), kind)
    assert scaled == pytest.approx([factor * distance for distance in usual], nan_ok=True)


@each_kind
@given(a=masks, b=masks, spacing=spacings)
def test_surface_dice_is_full_at_the_hausdorff_distance_and_grows_up_to_it(
    kind: str, a: Mask, b: Mask, spacing: Spacing
) -> None:
    assume(a.any() and b.any())
    largest = hausdorff(a, b, spacing, surface=kind)
    shares = [
        surface_dice(a, b, spacing, tolerance=part * largest, surface=kind)
        for part in (0.0, 0.3, 0.6, 1.0)
    ]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert largest == 0.0 or shares[0] < 1.0


@each_kind
@given(a=masks, b=masks, spacing=spacings)
def test_averages_lie_below_the_percentiles_of_all(
    kind: str, a: Mask, b: Mask, spacing: Spacing
) -> None:
    assume(a.any() and b.any())
    found = surface_distances(MaskPair(a, b, spacing), surface=kind)
    steps = [found.hausdorff(percentile) for percentile in (1, 50, 95, 99.9, 100)]
    assert steps == sorted(steps)
    assert found.assd() <= steps[-1] + 1e-9
    means = sorted((found.to_reference.mean(), found.to_prediction.mean()))
    assert means[0] - 1e-9 <= found.assd() <= means[1] + 1e-9
    assert found.masd() == pytest.approx(sum(means) / 2)


@each_kind
@each_metric
def test_two_empty_masks_are_undefined(metric, kind: str) -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    assert np.isnan(metric(empty, empty, ISOTROPIC, surface=kind))


@pytest.mark.parametrize("border", [True, False])
@each_kind
@each_metric
def test_one_empty_mask_is_as_bad_as_can_be(metric, kind: str, border: bool) -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    worst = 0.0 if metric is surface_dice else np.inf
    assert metric(empty, ~empty, ISOTROPIC, surface=kind, border=border) == worst
    assert metric(~empty, empty, ISOTROPIC, surface=kind, border=border) == worst


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


def test_the_kind_of_surface_is_one_of_two() -> None:
    full = np.ones(SHAPE, dtype=bool)
    with pytest.raises(ConfigError, match="surface must be voxel or mesh, got 'subvoxel'"):
        hausdorff(full, full, ISOTROPIC, surface="subvoxel")


def test_without_a_spacing_there_is_no_distance() -> None:
    full = np.ones(SHAPE, dtype=bool)
    with pytest.raises(DataError, match="needs the spacing"):
        hausdorff(full, full)


def directed_maxima(found: SurfaceDistances) -> tuple[float, float]:
    return (found.to_reference.distances.max(), found.to_prediction.distances.max())


@given(a=masks, b=masks, spacing=spacings)
def test_without_the_border_a_cut_is_no_surface(a: Mask, b: Mask, spacing: Spacing) -> None:
    assume(a.any() and b.any())
    is_filled = a.all() or b.all()  # by a mask without any other surface: its border counts
    grown = [np.pad(mask, 1, mode="constant" if is_filled else "edge") for mask in (a, b)]
    inside = tuple(slice(1, -1) for _ in range(3))
    of_a, of_b = (surface_voxels(mask)[inside] for mask in grown)
    found = surface_distances(MaskPair(a, b, spacing), border=False)
    assert found.to_reference.size == of_a.sum()
    assert found.to_prediction.size == of_b.sum()
    assume(of_a.any() and of_b.any())
    points_a, points_b = (np.argwhere(mask) * spacing for mask in (of_a, of_b))
    apart = np.linalg.norm(points_a[:, None] - points_b[None], axis=-1)
    expected = (apart.min(axis=1).max(), apart.min(axis=0).max())
    assert directed_maxima(found) == pytest.approx(expected)


@given(a=masks, b=masks, spacing=spacings)
def test_without_the_border_a_mesh_is_open_where_it_is_cut(
    a: Mask, b: Mask, spacing: Spacing
) -> None:
    assume(a.any() and b.any())
    found = surface_distances(MaskPair(a, b, spacing), surface="mesh", border=False)
    if a.all() or b.all():
        a, b = np.pad(a, 1), np.pad(b, 1)
    inside = [
        sum(
            mask[i : i - 1 or None, j : j - 1 or None, k : k - 1 or None].astype(int)
            for i, j, k in np.ndindex(2, 2, 2)
        )
        for mask in (a, b)
    ]
    sizes = [np.count_nonzero((corners > 0) & (corners < 8)) for corners in inside]
    assert [found.to_reference.size, found.to_prediction.size] == sizes
