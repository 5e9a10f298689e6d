"""From the native grid to the working grid and back."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from medseg3d.data.canonical import CanonicalCase, canonical, nonzero_box
from medseg3d.data.intensities import scaling_of
from medseg3d.data.placement import Placement
from medseg3d.data.plan import Normalization, Plan
from medseg3d.data.preprocess import preprocess, preprocessing_key, working_shape
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume
from medseg3d.types import Affine
from tests.inference.reference import interpolated

ZSCORE = Normalization(name="MR", scheme="zscore", lower=0, upper=1, mean=0, sd=1)
LPS = np.diag([-1.0, -1.0, 2.0, 1.0])
SIDEWAYS = np.array([[0, -1.0, 0, 9], [0, 0, 1.0, -3], [2.0, 0, 0, 0], [0, 0, 0, 1]])


def plan(**changes: object) -> Plan:
    facts: dict[str, object] = {
        "num_cases": 1,
        "labels": {0: "background", 3: "inner", 7: "outer"},
        "channels": (ZSCORE,),
        "spacing": (1.0, 1.0, 2.0),
        "coarse_axis": None,
        "median_shape": (8, 8, 8),
        "patch_size": (8, 8, 8),
        "batch_size": 2,
        "strides": ((2, 2, 2),),
        "kernels": ((3, 3, 3),) * 2,
        "width": 8,
        "max_width": 320,
    }
    return Plan(**(facts | changes))


def make_case(affine: Affine, labels: np.ndarray | None = None) -> CanonicalCase:
    rng = np.random.default_rng(0)
    image = np.zeros((1, 9, 11, 7), dtype=np.float32)
    image[:, 1:8, 2:10, 1:6] = rng.uniform(1, 2, (1, 7, 8, 5))
    if labels is None:
        labels = np.zeros(image.shape[1:], dtype=np.uint8)
        labels[2:6, 3:8, 2:5] = 7
        labels[3:5, 4:6, 3] = 3
    volume = Volume(image, Grid(labels.shape, affine), path=None)  # type: ignore[arg-type]
    return canonical(volume, labels)


def one_hot(indices: np.ndarray, num_labels: int = 3) -> np.ndarray:
    return np.stack([indices == label for label in range(num_labels)]).astype(np.float32)


def restored(placement: Placement, logits: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Labels on the native grid, interpolated the plain way."""
    native, canonical_view = placement.empty_labels(values)
    maps = placement.maps()
    box = tuple(slice(each.first, each.first + len(each.positions)) for each in maps)
    canonical_view[box] = np.asarray(values)[interpolated(logits, maps, 0).argmax(axis=0)]
    return native


@pytest.mark.parametrize("affine", [np.diag([1.0, 1.0, 2.0, 1.0]), LPS, SIDEWAYS])
def test_labels_come_back_unchanged_where_the_spacing_is_the_plans(affine: Affine) -> None:
    case = make_case(affine)
    working = preprocess(case, plan())
    assert working.labels is not None
    assert set(np.unique(working.labels)) == {0, 1, 2}
    back = restored(working.placement, one_hot(working.labels), (0, 3, 7))
    assert case.labels is not None
    np.testing.assert_array_equal(back, case.reorientation.invert(case.labels))
    assert back.dtype == np.uint8


def test_a_resampled_case_keeps_its_millimeters() -> None:
    working = preprocess(make_case(np.diag([1.0, 1.0, 2.0, 1.0])), plan(spacing=(0.5, 2.0, 1.0)))
    assert working.image.shape == (1, 14, 4, 10)
    assert working.labels is not None
    assert working.labels.shape == (14, 4, 10)


def normalized(channel: np.ndarray, rule: Normalization) -> np.ndarray:
    scaled = channel.astype(np.float32)
    scaling_of(channel, rule)(scaled)
    return scaled


def test_only_the_inside_counts_in_the_zscore() -> None:
    channel = np.zeros((4, 4, 4), dtype=np.float32)
    channel[1, 1, :] = [10, 20, 30, 40]
    found = normalized(channel, ZSCORE)[1, 1]
    np.testing.assert_allclose(found, (np.array([10, 20, 30, 40]) - 25) / np.sqrt(125), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 5.0, 1e30])
def test_a_constant_image_becomes_zero(value: float) -> None:
    channel = np.full((3, 3, 3), value, dtype=np.float32)
    assert not normalized(channel, ZSCORE).any()


def test_huge_intensities_stay_finite() -> None:
    channel = np.linspace(1, 3e38, 27, dtype=np.float32).reshape(3, 3, 3)
    assert np.isfinite(normalized(channel, ZSCORE)).all()


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-9, 1.0, 1e30, 1e36])
def test_the_zscore_does_not_depend_on_the_unit(scale: float) -> None:
    # Diffusion in square meters per second is about 1e-9.
    channel = np.random.default_rng(0).uniform(-9, 9, (5, 6, 7)).round()
    expected = (channel - channel[channel != 0].mean()) / channel[channel != 0].std()
    found = normalized((channel * scale).astype(np.float32), ZSCORE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 if scale == 1e-40 else 1e-5)


def test_opposite_extremes_of_float32_stay_finite() -> None:
    channel = np.array([-3.4e38] * 4 + [3.4e38], dtype=np.float32).reshape(5, 1, 1)
    found = normalized(channel, ZSCORE)  # the highest lies 5.4e38 above the mean
    np.testing.assert_allclose(found.ravel(), [-0.5] * 4 + [2.0], rtol=1e-5)


def test_scores_end_where_half_precision_does() -> None:
    channel = np.full((9, 9, 9), 1e6, dtype=np.float32)
    channel[0, 0] = 0
    channel[1, 1, 1] += 0.0625
    found = normalized(channel, ZSCORE)
    assert np.isfinite(found.astype(np.float16)).all()
    assert found.min() == -65504


def test_statistics_of_many_voxels_do_not_drift() -> None:
    # In float32 the sum of so many equal numbers would stop growing.
    channel = np.full((256, 256, 300), 1001.0, dtype=np.float32)
    channel[::2] = 999.0
    found = normalized(channel, ZSCORE)
    assert (found.min(), found.max()) == (-1.0, 1.0)


def test_ct_is_clipped_and_scaled_by_the_set() -> None:
    rule = Normalization(name="CT", scheme="ct", lower=-100, upper=200, mean=50, sd=25)
    channel = np.array([-1000, -100, 50, 75, 3000], dtype=np.float32).reshape(5, 1, 1)
    np.testing.assert_allclose(normalized(channel, rule).ravel(), [-6, -6, 0, 1, 6])


@pytest.mark.parametrize("scheme", ["ct", "zscore"])
@pytest.mark.parametrize("affine", [LPS, SIDEWAYS])
def test_intensities_are_normalized_then_resampled_by_splines(scheme: str, affine: Affine) -> None:
    stored = np.random.default_rng(0).integers(1, 900, (1, 23, 34, 19)).astype(np.int16)
    case = canonical(Volume.from_array(stored, Grid((23, 34, 19), affine)))
    rule = Normalization(name="a", scheme=scheme, lower=100, upper=700, mean=350, sd=80)
    found = preprocess(case, plan(channels=(rule,), spacing=(1.4, 0.7, 1.2))).image[0]
    wide = case.image[0].astype(np.float64)
    clipped = (wide.clip(100, 700) - 350) / 80
    wide = clipped if scheme == "ct" else (wide - wide.mean()) / wide.std()
    zoomed = ndimage.zoom(
        wide, np.divide(found.shape, wide.shape), order=3, mode="nearest", grid_mode=True
    )
    np.testing.assert_allclose(found, zoomed.clip(wide.min(), wide.max()), atol=1e-5)


def test_undeclared_values_are_named_with_their_voxels() -> None:
    labels = np.zeros((9, 11, 7), dtype=np.uint8)
    labels[3, 3, 3:5] = 9
    with pytest.raises(DataError, match=r"label value 9 \(2 voxels\) is not among \[0, 3, 7\]"):
        preprocess(make_case(LPS, labels), plan())


def test_channels_must_be_the_plans() -> None:
    with pytest.raises(DataError, match=r"1 channels found where the plan has 2 \(MR, MR\)"):
        preprocess(make_case(LPS), plan(channels=(ZSCORE, ZSCORE)))


def test_an_absurd_spacing_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(DataError, match="check the spacing in the header"):
        working_shape((100, 100, 100), (1.0, 1.0, 1.0), (1e-6, 1.0, 1.0))


def test_a_grid_far_larger_than_what_is_stored_is_refused() -> None:
    with pytest.raises(DataError, match=r"50 x 50 x 50 mm .* 1 x 1 x 2 mm, 62500 times"):
        working_shape((24, 28, 20), (50.0, 50.0, 50.0), (1.0, 1.0, 2.0))
    small = working_shape((10, 10, 10), (50.0, 50.0, 10.0), (1.0, 1.0, 2.0))
    assert small == (500, 500, 50)  # many times the stored ones, and still few
    large = working_shape((256, 256, 40), (2.0, 2.0, 5.0), (1.0, 1.0, 0.5))
    assert large == (512, 512, 400)  # many, but only 40 times the stored ones


def test_a_grid_beyond_the_memory_is_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medseg3d.data.preprocess.memory_limit", lambda: 1 << 20)
    with pytest.raises(DataError, match=r"\(200, 100, 100\) voxels .* 15.3 MiB .* 1.0 MiB"):
        working_shape((100, 100, 100), (2.0, 1.0, 1.0), (1.0, 1.0, 1.0), num_channels=2)


@pytest.mark.parametrize("edge", [1e-6, 0.009, 101.0, 1e6])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_absurd_spacing_is_refused_before_its_grid_is_made(edge: float, axis: int) -> None:
    affine = np.eye(4)
    affine[axis, axis] = edge
    case = make_case(affine)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"voxels at the plan's 1 x 1 x 1 mm; check the spac"):
            preprocess(case, plan(spacing=(1.0, 1.0, 1.0)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 44, 1), (3000, 3, 3), (1, 1, 1)])
def test_awkward_shapes_are_preprocessed_and_restored(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).uniform(1, 2, (1, *shape)).astype(np.float32)
    labels = np.random.default_rng(1).choice([0, 3, 7], shape).astype(np.uint8)
    case = canonical(Volume(image, Grid(shape, LPS), path=None), labels)  # type: ignore[arg-type]
    working = preprocess(case, plan())
    assert working.labels is not None
    assert working.image.shape == (1, *shape) == (1, *working.labels.shape)
    back = restored(working.placement, one_hot(working.labels), (0, 3, 7))
    np.testing.assert_array_equal(back, labels)


def test_the_cache_key_changes_only_with_what_changes_the_arrays() -> None:
    key = preprocessing_key(plan())
    assert key == preprocessing_key(plan(batch_size=5, patch_size=(16, 16, 16), width=4))
    assert key == preprocessing_key(plan(mirror_axes=(0,), swapped_labels={3: 7}))
    assert key != preprocessing_key(plan(spacing=(1.0, 1.0, 1.0)))
    assert key != preprocessing_key(plan(labels={0: "background", 3: "inner"}))


@given(
    corner=st.tuples(*[st.integers(0, 5)] * 3),
    size=st.tuples(*[st.integers(1, 6)] * 3),
)
def test_the_box_is_the_smallest_around_what_is_not_zero(
    corner: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    image = np.zeros((2, 12, 12, 12), dtype=np.float32)
    box = tuple(slice(first, first + n) for first, n in zip(corner, size, strict=True))
    image[(1, *box)] = -3
    assert nonzero_box(image) == box


def test_an_empty_image_keeps_its_whole_extent() -> None:
    assert nonzero_box(np.zeros((1, 3, 4, 5), dtype=np.float32)) == (slice(None),) * 3
