"""The confusion matrix of label maps: every type and value of label, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.errors import ConfigError, DataError
from medseg3d.metrics import confusion as confusion_module
from medseg3d.metrics.confusion import confusion_matrix

SHAPE = (4, 3, 5)
LABELS = (7, 0, -2, 70_000)
chosen = arrays(np.int64, SHAPE, elements=st.sampled_from(LABELS))


def by_counting(prediction, reference, labels) -> list[list[int]]:
    return [
        [int(((reference == row) & (prediction == column)).sum()) for column in labels]
        for row in labels
    ]


@given(prediction=chosen, reference=chosen)
def test_every_cell_is_what_one_counts(prediction, reference) -> None:
    found = confusion_matrix(prediction, reference, LABELS)
    assert found.dtype == np.int64
    assert found.tolist() == by_counting(prediction, reference, LABELS)


def test_rows_are_the_reference() -> None:
    reference, prediction = np.array([1, 1, 1, 2]), np.array([1, 2, 2, 2])
    assert confusion_matrix(prediction, reference, (1, 2)).tolist() == [[1, 2], [0, 1]]


@pytest.mark.parametrize("kinds", [(np.uint8, np.int16), (np.uint64, np.int8), (np.uint32,) * 2])
def test_the_types_of_both_maps_do_not_matter(kinds: tuple[type, type]) -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 20, (2, *SHAPE))  # 20 labels: 19 x 20 + 19 does not fit 8 bits
    found = confusion_matrix(maps[0].astype(kinds[0]), maps[1].astype(kinds[1]), range(20))
    assert found.tolist() == by_counting(*maps, range(20))


def test_masks_are_maps_of_two_labels() -> None:
    prediction, reference = np.array([True, True, False]), np.array([True, False, False])
    assert confusion_matrix(prediction, reference, (0, 1)).tolist() == [[1, 1], [0, 1]]


def test_a_number_beyond_the_labels_of_64_bits_is_no_negative_label() -> None:
    huge = np.array([2**64 - 2], dtype=np.uint64)
    with pytest.raises(DataError, match=f"prediction holds label {2**64 - 2}, which is none"):
        confusion_matrix(huge, np.array([-2]), (-2, 0))


def test_layout_in_memory_and_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    prediction, reference = rng.integers(0, 3, (2, *SHAPE)).astype(np.uint8)
    expected = by_counting(prediction, reference, (0, 1, 2))
    monkeypatch.setattr(confusion_module, "VOXELS_AT_ONCE", 7)
    gaps = np.repeat(reference, 2, axis=2)[:, :, ::2]
    assert not gaps.flags.c_contiguous
    for first in (prediction, np.asfortranarray(prediction)):
        for second in (reference, np.asfortranarray(reference), gaps):
            assert confusion_matrix(first, second, (0, 1, 2)).tolist() == expected


def test_ignored_voxels_leave_both_maps() -> None:
    reference = np.array([0, 1, 255, 255, 1, 0], dtype=np.uint8)
    prediction = np.array([0, 1, 1, 255, 255, 1], dtype=np.uint8)
    found = confusion_matrix(prediction, reference, (0, 1), ignore_label=255)
    assert found.tolist() == [[1, 1], [0, 1]]
    found = confusion_matrix(prediction, reference, (0, 1, 255), ignore_label=-1)
    assert found.sum() == 6


def test_cases_add_up() -> None:
    rng = np.random.default_rng(2)
    prediction, reference = rng.integers(0, 3, (2, 6, 3, 5))
    parts = [confusion_matrix(prediction[s], reference[s], range(3)) for s in np.s_[:2, 2:]]
    whole = confusion_matrix(prediction, reference, range(3))
    assert (parts[0] + parts[1]).tolist() == whole.tolist()


def test_a_label_without_a_name_is_refused_in_either_map() -> None:
    known, unknown = np.zeros((2, 2, 2), dtype=np.uint8), np.full((2, 2, 2), 3, dtype=np.uint8)
    for pair, role in (((unknown, known), "prediction"), ((known, unknown), "reference")):
        with pytest.raises(DataError, match=f"the {role} holds label 3, which is none of 0, 1, 2"):
            confusion_matrix(*pair, (2, 0, 1))


def test_a_map_without_voxels_counts_nothing() -> None:
    empty = np.zeros((0, 3, 3), dtype=np.uint8)
    assert confusion_matrix(empty, empty, (0, 1)).tolist() == [[0, 0], [0, 0]]


def test_what_are_no_label_maps_is_refused() -> None:
    zeros = np.zeros((2, 2, 2), dtype=np.uint8)
    with pytest.raises(DataError, match="prediction must hold whole-number labels, found float32"):
        confusion_matrix(zeros.astype(np.float32), zeros, (0, 1))
    with pytest.raises(DataError, match=r"prediction \(2, 2, 1\), reference \(2, 2, 2\)"):
        confusion_matrix(zeros[..., :1], zeros, (0, 1))
    for labels in ((0, 1, 1), ()):
        with pytest.raises(ConfigError, match="labels must be different whole numbers"):
            confusion_matrix(zeros, zeros, labels)
    with pytest.raises(ConfigError, match="label 1 is to be ignored and counted"):
        confusion_matrix(zeros, zeros, (0, 1), ignore_label=1)
