"""Small parts: found by brute force too, and erased exactly when resampling leaves nothing."""

import numpy as np
import pytest

from medseg3d.data.doctor.structures import SMALL, erased, small_parts
from medseg3d.geometry.resampling import resample_labels


def test_parts_are_those_of_a_hand_made_map() -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1  # joined over a corner
    labels[4, 4, 4:6] = 1
    labels[6:8, 6:8, 6:8] = 300 % 256
    labels[2:7, 0:5, 7] = 5
    found = {(part.label, part.voxels) for part in small_parts(labels, [0, 1, 5, 44])}
    assert found == {(1, 2), (1, 2), (5, 25), (44, 8)}
    assert len(small_parts(labels, [0, 1, 5, 44])) == 4


def test_large_parts_are_left_out_and_values_may_be_huge() -> None:
    labels = np.zeros((10, 10, 10), np.uint32)
    labels[:5] = 7
    labels[8, 8, 8] = 100_000
    (part,) = small_parts(labels, [0, 7, 100_000])
    assert (part.label, part.voxels) == (100_000, 1)
    assert (labels == 7).sum() > SMALL


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("new_shape", [(6, 6, 6), (12, 5, 9), (20, 20, 20), (4, 12, 12)])
def test_what_is_erased_is_what_resampling_leaves_nothing_of(
    seed: int, new_shape: tuple[int, int, int]
) -> None:
    random = np.random.default_rng(seed)
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[6:, 6:] = 3
    corner = random.integers(1, 9, 3)
    size = random.integers(1, 3, 3)
    labels[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = 1
    parts = [part for part in small_parts(labels, [0, 1, 3]) if part.label == 1]
    assert len(parts) == 1
    gone = not (resample_labels(labels, new_shape) == 1).any()
    assert bool(erased(parts, (12, 12, 12), new_shape)) == gone


def test_of_two_specks_only_the_one_that_goes_is_named() -> None:
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[2, 2, 2] = 1
    labels[8:12, 8:12, 8:12] = 1
    (lost,) = erased(small_parts(labels, [0, 1]), (16, 16, 16), (8, 8, 8))
    assert lost.voxels == 1
