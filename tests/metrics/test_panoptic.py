"""Panoptic quality: the published vector, MONAI, and its factors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics.panoptic_quality import compute_panoptic_quality
from scipy import ndimage

from medseg3d.errors import ConfigError
from medseg3d.metrics.masks import MaskPair
from medseg3d.metrics.matching import LesionRules, match_lesions
from medseg3d.metrics.panoptic import panoptic_quality, recognition_quality, segmentation_quality
from medseg3d.types import Mask

ALL = (recognition_quality, segmentation_quality, panoptic_quality)
NAMES = {recognition_quality: "rq", segmentation_quality: "sq", panoptic_quality: "pq"}
EMPTY = np.zeros((4, 3, 5), dtype=bool)
masks = arrays(np.bool_, (4, 3, 5), elements=st.floats(0, 1).map(lambda draw: draw < 0.3))


def row(*spans: tuple[int, int]) -> Mask:
    mask = np.zeros((3, 3, 24), dtype=bool)
    for first, last in spans:
        mask[1, 1, first : last + 1] = True
    return mask


def near(*values: float) -> object:
    return pytest.approx(values, abs=1e-5)


def test_published_vector() -> None:
    reference, prediction = row((0, 3), (8, 11), (16, 17)), row((0, 4), (10, 13), (21, 22))
    pair = MaskPair(prediction, reference)
    assert tuple(metric.of(pair) for metric in ALL) == near(0.333333, 0.8, 0.266667)
    found = tuple(metric.of(pair, threshold=0.1) for metric in ALL)
    assert found == near(0.666667, 0.566667, 0.377778)
    ious = match_lesions(pair, LesionRules("iou", threshold=0.5)).ious
    assert (2 * ious / (1 + ious)).mean() == pytest.approx(0.888889, abs=1e-5)  # SQ of Dice


def test_an_intersection_over_union_of_a_half_counts_unless_strict() -> None:
    pair = row((0, 1)), row((0, 3))
    assert panoptic_quality(*pair) == 0.0
    assert panoptic_quality(*pair, strict=False) == 0.5


@given(reference=masks, noise=masks, threshold=st.sampled_from([0.5, 0.75]))
def test_agrees_with_monai(reference: Mask, noise: Mask, threshold: float) -> None:
    prediction = reference ^ (noise & np.roll(noise, 1, axis=2))
    if not (prediction.any() and reference.any()):
        return
    numbered = [
        torch.from_numpy(ndimage.label(mask, np.ones((3, 3, 3)))[0])
        for mask in (prediction, reference)
    ]
    for metric, name in NAMES.items():
        theirs = compute_panoptic_quality(*numbered, name, match_iou_threshold=threshold)
        found = metric(prediction, reference, threshold=threshold)
        assert found == pytest.approx(float(theirs), abs=1e-5), name


@given(prediction=masks, reference=masks, threshold=st.sampled_from([0.0, 0.1, 0.5, 0.8]))
def test_the_quality_is_the_product_of_its_factors(prediction, reference, threshold) -> None:
    pair = MaskPair(prediction, reference)
    recognition, segmentation, panoptic = (metric.of(pair, threshold=threshold) for metric in ALL)
    assert panoptic == pytest.approx(recognition * segmentation, nan_ok=True)
    swapped = panoptic_quality(reference, prediction, threshold=threshold)
    assert swapped == pytest.approx(panoptic, nan_ok=True)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_nothing_on_one_or_both_sides_and_nothing_that_fits(metric) -> None:
    assert metric(EMPTY, ~EMPTY) == metric(~EMPTY, EMPTY) == 0.0
    assert np.isnan(metric(EMPTY, EMPTY))
    assert metric(row((0, 1)), row((5, 6))) == 0.0
    assert metric(row((0, 1)), row((0, 1))) == 1.0
    assert np.isnan(metric(row((0, 1)), row((0, 1)), min_voxels=3))
    assert metric(row((0, 1)), row((0, 1)), (1.0, 1.0, 0.5), min_mm3=1.0) == 1.0


def test_the_threshold_must_be_a_share() -> None:
    with pytest.raises(ConfigError, match=r"threshold must lie in \[0, 1\], got -0.1"):
        panoptic_quality(EMPTY, EMPTY, threshold=-0.1)
