"""Which samples each process of a training draws."""

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.ranks import Rank
from medseg3d.training.feed import SampleNumbers
from medseg3d.training.team import Team

counts = st.integers(1, 4)


def test_two_processes_take_turns() -> None:
    first, second = (SampleNumbers(1, 2, Team(Rank(number, 2))) for number in range(2))
    assert list(islice(first, 6)) == [4, 5, 8, 9, 12, 13]
    assert list(islice(second, 6)) == [6, 7, 10, 11, 14, 15]


@given(begin=st.integers(0, 9), size=counts, count=counts, steps=counts)
def test_together_they_draw_the_batches_of_one(
    begin: int, size: int, count: int, steps: int
) -> None:
    each = [
        list(islice(SampleNumbers(begin, size, Team(Rank(number, count))), steps * size))
        for number in range(count)
    ]
    together = np.array(each).reshape(count, steps, size).swapaxes(0, 1).ravel()
    alone = islice(SampleNumbers(begin, count * size), steps * count * size)
    assert together.tolist() == list(alone)
