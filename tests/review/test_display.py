"""How intensities are kept and windowed."""

import numpy as np
import pytest

from medseg3d.review.display import (
    BONE,
    LEVELS,
    LUNG,
    SOFT_TISSUE,
    modality_of,
    stored,
    window_of,
)

AIR = np.full((8, 8, 8), -1000, np.int16)


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (AIR, "", "CT"),
        (AIR.astype(np.float32), "", "CT"),
        (AIR + 0.25, "", ""),  # no scanner's numbers
        (AIR, "MRI", "MR"),
        (-AIR, "", ""),
        (-AIR, "CT", "CT"),
        (-AIR, "T2w", "MR"),
        (-AIR, "FLAIR", "MR"),
        (-AIR, "ultrasound", ""),
    ],
)
def test_the_modality_is_told_by_the_name_or_the_numbers(
    image: np.ndarray, name: str, expected: str
) -> None:
    assert modality_of(image, name) == expected


def test_ct_is_clipped_to_what_scanners_hold() -> None:
    image = np.array([-3024, -1024, 7, 3071, 9000], np.int16).reshape(5, 1, 1)
    kept = stored(image, "CT")
    assert (kept.slope, kept.array.dtype) == (1.0, np.int16)
    assert kept.array.ravel().tolist() == [-1024, -1024, 7, 3071, 3071]
    means = stored(image.astype(np.float32) / 2, "CT").array
    assert means.ravel().tolist() == [-1024, -512, 4, 1536, 3071]


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16])
def test_small_integers_stay(kind: type) -> None:
    image = np.arange(27, dtype=kind).reshape(3, 3, 3)
    kept = stored(image, "")
    assert kept.slope == 1.0
    assert np.array_equal(kept.array, image)


@pytest.mark.parametrize("scale", [1e-30, 0.01, 1.0, 1e30])
def test_other_numbers_are_kept_in_4095_steps(scale: float) -> None:
    values = np.random.default_rng(3).normal(500, 100, (20, 20, 20)) * scale
    kept = stored(values.astype(np.float32), "MR")
    assert kept.array.dtype == np.int16
    assert np.abs(kept.array).max() <= LEVELS
    inside = values <= LEVELS * kept.slope
    assert inside.mean() > 0.999
    apart = np.abs(kept.array * kept.slope - values)[inside]
    assert apart.max() <= 0.51 * kept.slope < values.max() / 4000


def test_one_bright_voxel_takes_no_contrast() -> None:
    image = np.random.default_rng(4).uniform(0, 100, (30, 30, 30)).astype(np.float32)
    image[3, 4, 5] = 3e38
    assert stored(image, "MR").slope * LEVELS < 101
    assert window_of(image, np.zeros(image.shape, np.uint8), "MR")[1] < 101


def test_an_empty_image_can_be_kept_and_shown() -> None:
    image = np.zeros((4, 4, 4), np.float32)
    kept = stored(image, "")
    assert not kept.array.any()
    assert np.isfinite(kept.slope)
    low, high = window_of(image, np.zeros(image.shape, np.uint8), "")
    assert low < high


@pytest.mark.parametrize(
    ("hu", "expected"), [(-800, LUNG), (60, SOFT_TISSUE), (-90, SOFT_TISSUE), (700, BONE)]
)
def test_ct_is_windowed_for_what_is_labeled(hu: int, expected: tuple[float, float]) -> None:
    image, labels = AIR.copy(), np.zeros(AIR.shape, np.uint8)
    labels[2:5, 2:5, 2:5] = 4
    image[labels > 0] = hu
    assert window_of(image, labels, "CT") == expected
    assert window_of(image, labels * 0, "CT") == SOFT_TISSUE
