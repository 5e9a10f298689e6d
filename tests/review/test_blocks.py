"""Blocks of voxels that become one, against their definition."""

from collections import Counter
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.geometry.grid import Grid
from medseg3d.review.blocks import (
    MOST_VOXELS,
    block_for,
    blocks_along,
    grid_of_blocks,
    label_of_blocks,
    mean_of_blocks,
)

SHAPE = (7, 5, 6)
blocks = st.tuples(*[st.integers(1, 4)] * 3)


def parts(array: np.ndarray, block: tuple[int, int, int]):
    """Index and voxels of each block."""
    for index in np.ndindex(blocks_along(array.shape, block)):
        corner = [place * size for place, size in zip(index, block, strict=True)]
        yield index, array[tuple(slice(c, c + n) for c, n in zip(corner, block, strict=True))]


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.uint8])
@pytest.mark.parametrize("block", [(1, 1, 1), (2, 1, 3), (4, 4, 4)])
def test_means_by_the_definition(kind: type, block: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 250, SHAPE).astype(kind)[::-1]
    found = mean_of_blocks(image, block)
    assert found.dtype == np.float32
    for index, part in parts(image, block):
        assert found[index] == pytest.approx(part.mean(), rel=1e-5)


def test_sums_beyond_the_stored_type_do_not_overflow() -> None:
    image = np.full((4, 4, 4), 32_000, np.int16)
    assert np.all(mean_of_blocks(image, (2, 2, 2)) == 32_000)


@given(
    labels=arrays(np.uint16, SHAPE, elements=st.sampled_from([0, 1, 2, 700])),
    block=blocks,
    flip=st.booleans(),
)
def test_labels_by_the_definition(
    labels: np.ndarray, block: tuple[int, int, int], flip: bool
) -> None:
    labels = labels.T[::-1].T if flip else np.asfortranarray(labels)
    found = label_of_blocks(labels, block)
    expected = np.zeros_like(found)
    for index, part in parts(labels, block):
        counts = Counter(part.ravel().tolist())
        expected[index] = max(counts, key=lambda value: (counts[value], value))
    lost = set(np.unique(labels)) - set(np.unique(expected)) - {0}
    for label, (index, part) in product(sorted(lost), parts(labels, block)):
        if label in part:
            expected[index] = label
    assert np.array_equal(found, expected)


def test_a_single_voxel_survives() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[17, 4, 20] = 3
    assert np.argwhere(label_of_blocks(labels, (3, 3, 2)) == 3).tolist() == [[5, 1, 10]]


@given(
    shape=st.tuples(*[st.integers(1, 60)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    most=st.integers(1, 5000),
)
def test_few_enough_voxels_are_left(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], most: int
) -> None:
    block = block_for(shape, spacing, most)
    assert prod(blocks_along(shape, block)) <= most
    if prod(shape) <= most:
        assert block == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((512, 512, 78), (0.7266, 0.7266, 2.0), (2, 2, 1)),
        ((512, 512, 128), (0.8, 0.8, 5.0), (2, 2, 1)),
        ((512, 512, 300), (0.7, 0.7, 1.0), (2, 2, 3)),
        ((182, 218, 182), (1.0, 1.0, 1.0), (1, 1, 1)),
        ((26, 512, 512), (3.0, 0.5, 0.5), (1, 1, 1)),
        ((80, 512, 512), (4.0, 0.5, 0.5), (1, 2, 2)),
    ],
)
def test_pixels_and_slices_as_people_read_them(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], expected: tuple[int, ...]
) -> None:
    assert block_for(shape, spacing) == expected
    assert prod(blocks_along(shape, expected)) <= MOST_VOXELS


def test_a_block_lies_in_the_middle_of_its_voxels() -> None:
    affine = np.array([[0.0, -2, 0, 5], [0.9, 0, 0.1, 6], [0, 0.3, 3, 7], [0, 0, 0, 1]])
    grid = Grid((6, 8, 9), affine)
    reduced = grid_of_blocks(grid, (2, 4, 3))
    assert reduced.shape == (3, 2, 3)
    voxels = np.array([[*index, 1.0] for index in product((2, 3), (4, 5, 6, 7), (3, 4, 5))])
    middle = (voxels @ affine.T).mean(axis=0)
    assert np.allclose(reduced.affine @ [1, 1, 1, 1], middle)
