"""Parts of a case: their working voxels, and where native voxels lie among them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.canonical import Box, CanonicalCase, canonical
from medseg3d.data.plan import Normalization, Plan
from medseg3d.data.preprocess import preprocess
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume
from medseg3d.types import Affine, Spacing

CT = Normalization(name="CT", scheme="ct", lower=-200, upper=300, mean=40, sd=90)
MR = Normalization(name="MR", scheme="zscore", lower=0, upper=1, mean=0, sd=1)
LPS = np.diag([-1.0, -1.0, 2.0, 1.0])
SIDEWAYS = np.array([[0, -1.0, 0, 9], [0, 0, 1.0, -3], [2.0, 0, 0, 0], [0, 0, 0, 1]])
EVERYTHING = (slice(None),) * 3


def plan(spacing: Spacing, *channels: Normalization) -> Plan:
    return Plan(
        num_cases=1,
        labels={0: "background", 3: "inner", 700: "outer"},
        channels=channels,
        spacing=spacing,
        coarse_axis=None,
        median_shape=(8, 8, 8),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3),) * 2,
        width=8,
        max_width=320,
    )


def make_case(affine: Affine = LPS, *, channels: int = 1) -> CanonicalCase:
    """Stored integers with a border of zeros that is not even."""
    image = np.zeros((channels, 31, 26, 17), np.int16)
    inside = np.random.default_rng(0).integers(-900, 900, (channels, 27, 20, 15))
    image[:, 1:28, 4:24, 2:17] = inside + 1 - (inside >= 0)
    return canonical(Volume.from_array(image, Grid((31, 26, 17), affine)))


def cut(first: tuple[int, int, int], last: tuple[int, int, int]) -> Box:
    i, j, k = (slice(a, b) for a, b in zip(first, last, strict=True))
    return i, j, k


@pytest.mark.parametrize("affine", [np.diag([1.0, 1.0, 2.0, 1.0]), LPS, SIDEWAYS])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (1.7, 0.8, 1.1), (1.0, 1.0, 9.0)])
def test_a_part_holds_the_voxels_of_the_whole(affine: Affine, spacing: Spacing) -> None:
    case = make_case(affine, channels=2)
    rules = plan(spacing, CT, MR)
    whole = preprocess(case, rules)
    assert whole.placement.held_shape == whole.placement.shape == whole.image.shape[1:]
    part = preprocess(case, rules, part=cut((5, 6, 3), (14, 21, 15)))
    held = part.placement.held
    assert part.image.shape[1:] == part.placement.held_shape
    assert part.placement.shape == whole.placement.shape
    assert part.image.flags.c_contiguous
    np.testing.assert_allclose(part.image, whole.image[(slice(None), *held)], atol=1e-5)


def test_positions_of_native_voxels_are_those_worked_out_by_hand() -> None:
    case = make_case(np.diag([1.0, 1.0, 2.0, 1.0]))  # box 1:28, 4:24, 2:17
    working = preprocess(case, plan((3.0, 0.5, 2.0), CT), part=cut((0, 8, 10), (7, 13, 30)))
    placement = working.placement
    assert placement.shape == (9, 40, 15)
    assert placement.part == cut((1, 8, 10), (7, 13, 17))
    assert placement.held == cut((0, 8, 8), (2, 18, 15))
    i, j, k = placement.maps()
    assert (i.first, j.first, k.first) == (1, 8, 10)
    np.testing.assert_allclose(i.positions, [0, 0, 1 / 3, 2 / 3, 1, 1])
    np.testing.assert_allclose(j.positions, [0.5, 2.5, 4.5, 6.5, 8.5])
    np.testing.assert_allclose(k.positions, np.arange(7))


@given(
    first=st.tuples(*[st.integers(0, 14)] * 3),
    size=st.tuples(*[st.integers(1, 20)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 5.0)] * 3),
)
def test_maps_of_a_part_are_a_cut_of_those_of_the_whole(
    first: tuple[int, int, int], size: tuple[int, int, int], spacing: Spacing
) -> None:
    case = make_case()
    ends = first[0] + size[0] + 8, first[1] + size[1] + 8, first[2] + size[2] + 4
    whole = preprocess(case, plan(spacing, CT)).placement
    part = preprocess(case, plan(spacing, CT), part=cut(first, ends)).placement
    for axis in range(3):
        here, all_of_it = part.maps()[axis], whole.maps()[axis]
        held, length = part.held[axis], part.held_shape[axis]
        assert 0 <= held.start < held.stop <= part.shape[axis]
        span = slice(here.first - all_of_it.first, None)
        expected = all_of_it.positions[span][: len(here.positions)] - held.start
        np.testing.assert_allclose(here.positions, expected.clip(0, length - 1), atol=1e-9)
        assert (np.diff(here.positions) >= 0).all()
        assert here.first == part.part[axis].start
        assert len(here.positions) == part.part[axis].stop - part.part[axis].start


def test_maps_interpolate_as_the_whole_volume_does() -> None:
    torch = pytest.importorskip("torch")
    case = make_case(np.diag([1.0, 1.0, 2.0, 1.0]))
    working = preprocess(case, plan((2.1, 0.7, 3.0), CT))
    box = working.placement.part
    shape = tuple(edge.stop - edge.start for edge in box)
    ramp = np.random.default_rng(0).normal(size=working.image.shape).astype(np.float64)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(ramp)[None], size=shape, mode="trilinear", align_corners=False
    )[0, 0].numpy()
    found = ramp[0]
    for axis, line in enumerate(working.placement.maps()):
        low = np.floor(line.positions).astype(int)
        high = np.minimum(low + 1, found.shape[axis] - 1)
        weight = (line.positions - low).reshape([-1 if a == axis else 1 for a in range(3)])
        found = found.take(low, axis) * (1 - weight) + found.take(high, axis) * weight
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("affine", [np.diag([1.0, 1.0, 2.0, 1.0]), LPS, SIDEWAYS])
def test_labels_are_written_in_the_order_of_the_file(affine: Affine) -> None:
    case = make_case(affine)
    native, seen = preprocess(case, plan((1, 1, 2), CT)).placement.empty_labels([0, 3, 700])
    assert native.shape == (31, 26, 17)
    assert native.flags.f_contiguous
    assert native.dtype == np.uint16
    assert seen.shape == case.grid.shape
    assert not native.any()
    seen[2, 3, 4] = 700
    assert case.reorientation.apply(native)[2, 3, 4] == 700
    assert native.sum() == 700


def test_few_labels_take_one_byte() -> None:
    placement = preprocess(make_case(), plan((1, 1, 2), CT)).placement
    assert placement.empty_labels(np.array([0, 255]))[0].dtype == np.uint8


def test_a_part_beside_the_box_is_refused() -> None:
    with pytest.raises(DataError, match="holds nothing but zeros; choose another"):
        preprocess(make_case(), plan((1, 1, 2), CT), part=cut((0, 0, 0), (31, 2, 17)))


def test_labels_of_a_part_are_cut_as_the_image() -> None:
    case = make_case()
    labels = np.zeros(case.grid.shape, np.uint8)
    labels[8:20, 8:20, 4:12] = 3
    labelled = CanonicalCase(case.image, labels, case.grid, case.reorientation)
    whole = preprocess(labelled, plan((1.3, 1.3, 1.3), CT))
    part = preprocess(labelled, plan((1.3, 1.3, 1.3), CT), part=cut((6, 9, 5), (18, 16, 15)))
    assert whole.labels is not None
    assert part.labels is not None
    np.testing.assert_array_equal(part.labels, whole.labels[part.placement.held])


def test_a_small_part_of_a_grid_beyond_the_memory_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg3d.data.preprocess.memory_limit", lambda: 1 << 20)
    rules = plan((0.3, 0.3, 0.6), CT)
    with pytest.raises(DataError, match="this machine allows"):
        preprocess(make_case(), rules)
    assert preprocess(make_case(), rules, part=cut((8, 8, 5), (15, 15, 10))).image.size < 1 << 18
