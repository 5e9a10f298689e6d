"""Planes of a region."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.inference.planes import Entropy, Logits, Probabilities
from medseg3d.inference.within import Within
from tests.inference.test_planes import PART, WHOLE, placement_of

SHAPE = (5, 6, 7)


class Collector:
    """Keeps the logits of all planes, ``(L, I, J, K)``."""

    def __init__(self, num_labels: int) -> None:
        self.logits = np.full((num_labels, *SHAPE), np.nan, np.float32)

    def take(self, axis: int, index: int, corner: tuple[int, int], logits: Logits) -> None:
        planes = np.moveaxis(self.logits, axis + 1, 1)
        (first, left), (_, rows, columns) = corner, logits.shape
        planes[:, index, first : first + rows, left : left + columns] = logits


@st.composite
def boxes(draw: st.DrawFn) -> tuple[slice, slice, slice]:
    ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in SHAPE]
    return tuple(slice(*edge) for edge in ends)  # type: ignore[return-value]


@given(box=boxes(), held=boxes(), axis=st.integers(0, 2), seed=st.none() | st.integers(0, 99))
def test_outside_is_background_and_inside_is_untouched(
    box: tuple[slice, ...], held: tuple[slice, ...], axis: int, seed: int | None
) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, *SHAPE)).astype(np.float32)
    mask = None if seed is None else np.random.default_rng(seed).random(SHAPE) < 0.5
    sinks = [Collector(3), Collector(3)]
    within = Within(sinks, box, mask)  # type: ignore[arg-type]
    part = np.moveaxis(logits[(slice(None), *held)], axis + 1, 1)
    a, b = (held[n].start for n in range(3) if n != axis)
    for number in range(part.shape[1]):
        plane = np.ascontiguousarray(part[:, number])
        within.take(axis, held[axis].start + number, (a, b), plane)
    inside = np.zeros(SHAPE, bool)
    inside[box] = True
    if mask is not None:
        inside &= mask
    taken = np.zeros(SHAPE, bool)
    taken[held] = True
    for sink in sinks:
        assert np.isnan(sink.logits[:, ~taken]).all()
        np.testing.assert_array_equal(
            sink.logits[:, taken & inside], logits[:, taken & inside], strict=True
        )
        outside = sink.logits[:, taken & ~inside]
        assert (outside[0] - outside[1:] >= 30).all()


@pytest.mark.parametrize("part", [WHOLE, PART])
@pytest.mark.parametrize("axis", [0, 2])
def test_files_say_background_for_sure_outside(
    part: tuple[slice, slice, slice], axis: int, tmp_path: Path
) -> None:
    placement = placement_of(part)
    shares = Probabilities(tmp_path / "p.nii", placement, 3)
    doubt = Entropy(tmp_path / "h.nii", placement, 3)
    mask = np.random.default_rng(3).random(placement.canonical_shape) < 0.5
    box = (slice(4, 10), slice(5, 12), slice(6, 20))
    within = Within([shares, doubt], box, mask)
    edges = [edge for n, edge in enumerate(part) if n != axis]
    shape = tuple(edge.stop - edge.start for edge in edges)
    for index in range(part[axis].start, part[axis].stop):
        within.take(axis, index, (edges[0].start, edges[1].start), np.zeros((3, *shape), "f4"))
    inside = np.zeros(placement.canonical_shape, bool)
    inside[box] = mask[box]
    expected = np.where(inside, np.full((3, 1, 1, 1), 21845), [[[[65535]]], [[[0]]], [[[0]]]])
    np.testing.assert_array_equal(shares.array(), expected)
    np.testing.assert_array_equal(doubt.array()[0], np.where(inside, 65535, 0))


def test_an_empty_part_of_a_plane_is_no_error() -> None:
    sink = Collector(2)
    for axis, empty in product(range(3), [(2, 0, 3), (2, 3, 0)]):
        Within([sink], (slice(1, 3),) * 3).take(axis, 1, (0, 0), np.zeros(empty, np.float32))
    assert np.isnan(sink.logits).all()
