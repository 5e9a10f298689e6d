"""Counts and boxes of all labels in one pass, against counting each label by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.metrics.masks import Counts
from medseg3d.scoring.counting import NOWHERE, Extent, extents

SHAPE = (5, 4, 9)
LABELS = (7, 1, 3, 200)  # 200 is in no map
noise = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 0, 1, 3, 7]))


def one_by_one(prediction: np.ndarray, reference: np.ndarray, label: int) -> Extent:
    ours, theirs = prediction == label, reference == label
    counts = Counts(*(int(x.sum()) for x in (ours & theirs, ours & ~theirs, theirs & ~ours)), 0)
    counts = Counts(*list(vars(counts).values())[:3], ours.size - counts.union)
    places = np.nonzero(ours | theirs)
    if not places[0].size:
        return Extent(counts, NOWHERE)
    return Extent(counts, tuple(slice(int(p.min()), int(p.max()) + 1) for p in places))


@given(prediction=noise, reference=noise, threads=st.integers(1, 7))
def test_one_pass_finds_what_many_find(prediction, reference, threads: int) -> None:
    expected = [one_by_one(prediction, reference, label) for label in LABELS]
    assert extents(prediction, reference, LABELS, threads=threads) == expected


@given(starts=st.lists(st.integers(0, 400), min_size=2, max_size=6), seed=st.integers(0, 99))
def test_long_runs_are_counted_whole(starts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, reference = np.zeros((2, 2, 3, 401), np.uint8)
    for start in starts:
        for array in (prediction, reference):
            end = start + int(rng.integers(1, 200))
            array[rng.integers(2), rng.integers(3), start:end] = rng.choice([1, 3, 7])
    expected = [one_by_one(prediction, reference, label) for label in LABELS]
    assert extents(prediction, reference, LABELS) == expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(np.uint8, np.int16), (np.int32, np.uint16), (np.uint64, np.int64), (np.int8, np.int8)],
)
def test_every_type_of_whole_numbers_is_read(ours, theirs) -> None:
    rng = np.random.default_rng(1)
    prediction, reference = (rng.choice([0, 1, 3, 7], SHAPE) for _ in range(2))
    expected = [one_by_one(prediction, reference, label) for label in LABELS]
    found = extents(prediction.astype(ours), reference.astype(theirs), LABELS)
    assert found == expected


def test_labels_of_any_size_take_no_room_for_those_below() -> None:
    prediction = np.zeros(SHAPE, np.uint32)
    prediction[2, 1, 3:5] = 4_000_000_000
    reference = prediction.copy()
    reference[2, 1, 4] = 70_000
    small, large = extents(prediction, reference, (70_000, 4_000_000_000))
    assert large.counts == Counts(1, 1, 0, prediction.size - 2)
    assert large.box == (slice(2, 3), slice(1, 2), slice(3, 5))
    assert small.counts == Counts(0, 0, 1, prediction.size - 1)


def test_negative_values_are_no_label() -> None:
    prediction = np.full(SHAPE, -1, np.int16)
    (found,) = extents(prediction, prediction, (1,))
    assert found == Extent(Counts(0, 0, 0, prediction.size), NOWHERE)


def test_without_labels_there_is_nothing_to_count() -> None:
    assert extents(np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), ()) == []


def test_arrays_need_not_be_contiguous_nor_writable() -> None:
    rng = np.random.default_rng(2)
    prediction, reference = rng.choice([0, 1, 3], (2, 9, 4, 5)).astype(np.uint8)
    prediction, reference = prediction.transpose(2, 1, 0), reference[::-1].transpose(2, 1, 0)
    prediction.flags.writeable = False
    expected = [one_by_one(prediction, reference, label) for label in LABELS]
    assert extents(prediction, reference, LABELS, threads=2) == expected
