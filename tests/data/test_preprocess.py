"""From the native grid to the working grid and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.canonical import CanonicalCase, canonical, nonzero_box
from medseg3d.data.plan import Normalization, Plan
from medseg3d.data.preprocess import normalize, preprocess, preprocessing_key, working_shape
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume
from medseg3d.types import Affine

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


@pytest.mark.parametrize("affine", [np.diag([1.0, 1.0, 2.0, 1.0]), LPS, SIDEWAYS])
def test_labels_come_back_unchanged_where_the_spacing_is_the_plans(affine: Affine) -> None:
    case = make_case(affine)
    working = preprocess(case, plan())
    assert working.labels is not None
    assert set(np.unique(working.labels)) == {0, 1, 2}
    back = working.placement.restore_labels(one_hot(working.labels), (0, 3, 7))
    assert case.labels is not None
    np.testing.assert_array_equal(back, case.reorientation.invert(case.labels))
    assert back.dtype == np.uint8


def test_probabilities_outside_the_nonzero_box_are_background() -> None:
    case = make_case(LPS)
    working = preprocess(case, plan())
    assert working.labels is not None
    probabilities = working.placement.restore_probabilities(20 * one_hot(working.labels))
    assert probabilities.shape == (3, 9, 11, 7)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)
    assert (probabilities[0, 0] == 1).all()


def test_a_resampled_case_keeps_its_millimeters() -> None:
    working = preprocess(make_case(np.diag([1.0, 1.0, 2.0, 1.0])), plan(spacing=(0.5, 2.0, 1.0)))
    assert working.image.shape == (1, 14, 4, 10)
    assert working.labels is not None
    assert working.labels.shape == (14, 4, 10)


def test_only_the_inside_counts_in_the_zscore() -> None:
    channel = np.zeros((4, 4, 4), dtype=np.float32)
    channel[1, 1, :] = [10, 20, 30, 40]
    found = normalize(channel, ZSCORE)[1, 1]
    np.testing.assert_allclose(found, (np.array([10, 20, 30, 40]) - 25) / np.sqrt(125), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 5.0, 1e30])
def test_a_constant_image_becomes_zero(value: float) -> None:
    channel = np.full((3, 3, 3), value, dtype=np.float32)
    assert not normalize(channel, ZSCORE).any()


def test_huge_intensities_stay_finite() -> None:
    channel = np.linspace(1, 3e38, 27, dtype=np.float32).reshape(3, 3, 3)
    assert np.isfinite(normalize(channel, ZSCORE)).all()


def test_ct_is_clipped_and_scaled_by_the_set() -> None:
    rule = Normalization(name="CT", scheme="ct", lower=-100, upper=200, mean=50, sd=25)
    channel = np.array([-1000, -100, 50, 75, 3000], dtype=np.float32).reshape(5, 1, 1)
    np.testing.assert_allclose(normalize(channel, rule).ravel(), [-6, -6, 0, 1, 6])


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


def test_the_cache_key_changes_only_with_what_changes_the_arrays() -> None:
    key = preprocessing_key(plan())
    assert key == preprocessing_key(plan(batch_size=5, patch_size=(16, 16, 16), width=4))
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
