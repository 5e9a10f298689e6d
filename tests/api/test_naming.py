"""Names of segments: the best ones, found among all by brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.api.fitting.naming import Counts, best_names

counts_of = arrays(np.int64, (5, 2), elements=st.integers(0, 30))


def dice(counts: Counts, names: list[int] | tuple[int, ...], label: int = 1) -> float:
    mine = np.array(names) == label
    total = counts[mine].sum() + counts[:, label].sum()
    return float(2 * counts[mine, label].sum() / total) if total else 0.0


@settings(max_examples=50)
@given(counts=counts_of)
def test_no_other_names_give_one_label_a_higher_dice(counts: Counts) -> None:
    best = max(dice(counts, names) for names in product((0, 1), repeat=5))
    assert dice(counts, best_names(counts)) == pytest.approx(best)


@given(
    counts=arrays(np.int64, (5, 4), elements=st.integers(0, 30)), order=st.permutations(range(5))
)
def test_the_order_of_segments_does_not_matter(counts: Counts, order: list[int]) -> None:
    names = best_names(counts)
    assert best_names(counts[order]) == [names[place] for place in order]


def test_several_labels_each_get_their_segments() -> None:
    counts = np.array([[900, 5, 5], [10, 80, 0], [20, 0, 60], [5, 20, 10], [0, 0, 0]])
    assert best_names(counts) == [0, 1, 2, 1, 0]


def test_a_rare_label_gets_a_segment_that_is_mostly_background() -> None:
    """A majority would give it to the background, and find nothing."""
    assert best_names(np.array([[1000, 2], [60, 40]])) == [0, 1]
