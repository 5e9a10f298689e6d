"""The energy distance between sets of masks: hand-worked values and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.errors import DataError
from medseg3d.metrics.energy import generalized_energy_distance
from medseg3d.types import Mask

sets = st.lists(arrays(np.bool_, (1, 2, 3)), min_size=1, max_size=4)


def line(text: str) -> Mask:
    return np.array([[[each == "x" for each in text]]])


A, B, C, NONE = line("xx.."), line(".xx."), line("..xx"), line("....")  # A-B and B-C share a third


@pytest.mark.parametrize(
    ("samples", "references", "expected"),
    [
        ([A], [A], 0),
        ([A], [C], 2),
        ([A], [B], 4 / 3),
        ([A, B], [A], 2 * (1 / 3) - 1 / 3),
        ([A, C], [B], 2 * (2 / 3) - 1 / 2),
        ([A, A, B], [A, B], 2 * (1 / 3) - 4 / 9 * (2 / 3) - 1 / 2 * (2 / 3)),
        ([NONE], [NONE, NONE], 0),
        ([NONE], [A], 2),
        ([NONE, A], [A, NONE], 0),
    ],
)
def test_sets_worked_by_hand(samples: list[Mask], references: list[Mask], expected: float) -> None:
    found = generalized_energy_distance(samples, references)
    assert found == pytest.approx(expected, abs=1e-12)


@given(samples=sets, references=sets)
def test_it_is_symmetric_and_never_negative(samples: list[Mask], references: list[Mask]) -> None:
    found = generalized_energy_distance(samples, references)
    assert -1e-12 <= found <= 2
    assert found == pytest.approx(generalized_energy_distance(references, samples), abs=1e-12)
    twice = generalized_energy_distance(samples * 2, references[::-1])
    assert found == pytest.approx(twice, abs=1e-12)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="0 samples and 1 references given"):
        generalized_energy_distance([], [A])
    with pytest.raises(DataError, match=r"\(1, 1, 4\)"):
        generalized_energy_distance([A], [A[..., 1:]])
    with pytest.raises(DataError, match="must be boolean"):
        generalized_energy_distance([A.astype(np.uint8)], [A])
