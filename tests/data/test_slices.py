"""What a plan and its patches become for a network of two dimensions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.augment import Augmentation, Changes
from medseg3d.data.plan import Plan, make_plan
from medseg3d.data.sizes import Resources
from medseg3d.errors import ConfigError
from medseg3d.types import Size3, Spacing
from tests.data.test_plan import fingerprint, plan_of


def test_small_slices_are_seen_whole_and_many_at_once() -> None:
    plan = plan_of([fingerprint()] * 200, slab=1)
    assert (plan.slice_axis, plan.patch_size) == (2, (40, 56, 1))
    assert plan.strides == ((2, 2, 1),) * 3
    assert plan.kernels == ((3, 3, 1),) * 4
    assert plan.batch_size == 32
    assert plan.single_slices == 2
    assert plan.window == (40, 56, 16)


def test_a_gpu_takes_as_many_slices_as_fit() -> None:
    facts = {"label_names": {0: "background", 1: "organ"}, "channel_names": ["MR"]}
    plan = make_plan(
        [fingerprint()] * 200, resources=Resources(on_gpu=True, memory_gb=1.0), slab=1, **facts
    )
    assert plan.batch_size == 500_000 // (40 * 56)


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((0.7, 0.7, 5.0), 2), ((5.0, 0.7, 0.7), 0), ((0.7, 5.0, 0.7), 1), ((1.0, 1.2, 1.2), 2)],
)
def test_slices_lie_across_the_largest_spacing(spacing: Spacing, axis: int) -> None:
    shape = [256, 256, 256]
    shape[axis] = 20
    plan = plan_of([fingerprint((shape[0], shape[1], shape[2]), spacing)] * 3, slab=1)
    assert plan.slice_axis == axis
    assert plan.patch_size[axis] == 1
    assert {stride[axis] for stride in plan.strides} == {1}
    assert {kernel[axis] for kernel in plan.kernels} == {1}
    assert plan.batch_size == 12
    assert 12 * np.prod(plan.patch_size) <= 262_144 * 1.5  # rounded up for the strides


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((256, 256, 1), (1.4, 1.4, 1.0), 2),
        ((1, 256, 256), (1.0, 1.0, 1.0), 0),
        ((256, 1, 256), (1.0, 0.5, 5.0), 1),
        ((256, 1, 1), (1.4, 1.0, 1.2), 0),  # which of the two says nothing
    ],
)
def test_an_image_of_one_slice_is_that_slice(shape: Size3, spacing: Spacing, axis: int) -> None:
    plan = plan_of([fingerprint(shape, spacing)] * 3, slab=1)
    assert plan.slice_axis == axis
    assert plan.patch_size[axis] == 1


def test_an_isotropic_grid_has_full_kernels_in_the_plane_at_every_stage() -> None:
    plan = plan_of([fingerprint((200, 200, 200))] * 3, slab=1)
    assert len(plan.kernels) == 6
    assert set(plan.kernels) == {(3, 3, 1)}


def test_slabs_have_patches_of_several_slices() -> None:
    plan = plan_of([fingerprint((200, 200, 30))] * 3, slab=3)
    assert plan.patch_size[2] == 8
    assert (plan.single_slices, plan.window) == (None, plan.patch_size)
    assert len(plan.strides) == 5
    assert {stride[2] for stride in plan.strides} == {1}
    assert plan_of([fingerprint((200, 200, 5))] * 3, slab=3).patch_size[2] == 5
    assert plan_of([fingerprint((200, 200, 2))] * 3, slab=3).patch_size[2] == 3


@pytest.mark.parametrize("slab", [5, 7, 9])
def test_a_patch_has_as_many_slices_as_are_seen_at_once_however_thick(slab: int) -> None:
    plan = plan_of([fingerprint((512, 512, 30), spacing=(0.3, 0.3, 12.0))] * 3, slab=slab)
    assert plan.patch_size[2] >= slab
    assert min(plan.patch_size[:2]) >= 96


@pytest.mark.parametrize(
    ("patch", "slab", "wanted"),
    [((40, 56, 40), 1, "40 x 56 x 1"), ((40, 56, 1), 3, "40 x 56 x 3")],
)
def test_a_patch_for_volumes_is_refused(patch: Size3, slab: int, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"axis 2 .* sees {slab} at once; give {wanted}, or"):
        plan_of([fingerprint()], slab=slab, patch_size=patch)
    suits = {1: (40, 56, 1), 3: (40, 56, 4)}[slab]
    assert plan_of([fingerprint()], slab=slab, patch_size=suits).patch_size == suits


def test_slices_are_flipped_in_their_plane_only() -> None:
    assert plan_of([fingerprint()], slab=1, mirror=True).mirror_axes == (0, 1)
    assert plan_of([fingerprint()], slab=1, mirror_axes=(2,)).mirror_axes == ()
    assert plan_of([fingerprint()], mirror=True).mirror_axes == (0, 1, 2)


def test_plans_are_read_back_and_older_ones_are_of_volumes(tmp_path: Path) -> None:
    plan = plan_of([fingerprint()], slab=1)
    plan.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml") == plan
    lines = (tmp_path / "plan.yaml").read_text().splitlines()
    older = [line for line in lines if not line.startswith("slice_axis")]
    assert len(older) == len(lines) - 1
    (tmp_path / "plan.yaml").write_text("\n".join(older))
    old = Plan.load(tmp_path / "plan.yaml")
    assert (old.slice_axis, old.single_slices, old.window) == (None, None, plan.patch_size)


ALWAYS = Augmentation(
    spacing=(1.0, 1.5, 1.2),
    slice_axis=1,
    rotation_degrees=90,
    affine_probability=1,
    elastic_probability=1,
    intensity_probability=1,
)


@given(seed=st.integers(0, 2**31), depth=st.integers(1, 4), place=st.integers(0, 9))
def test_every_slice_of_a_patch_is_made_of_one_slice(seed: int, depth: int, place: int) -> None:
    volume = np.broadcast_to(np.arange(1, 11, dtype=np.uint8)[:, None], (12, 10, 14))
    start, size, shape = (2, min(place, 10 - depth), -3), (8, depth, 20), (12, 10, 14)
    drawn = ALWAYS.draw(np.random.default_rng(seed), size)
    moved = Changes(matrix=drawn.matrix, displacement=drawn.displacement)
    first, box = moved.source_box(start, size, shape)
    assert (first[1], box[1]) == (start[1], depth)
    part = volume[tuple(slice(f, f + n) for f, n in zip(first, box, strict=True))]
    image, labels = ALWAYS.apply(
        part[None].astype(np.float32), part, moved, size=size, offset=np.subtract(start, first)
    )
    for number in range(depth):
        expected = start[1] + number + 1
        assert set(np.unique(labels[:, number])) <= {0, expected}
        assert (labels[:, number] == expected).mean() > 0.2, "else nothing was compared"
        assert image[0, :, number].max() == pytest.approx(expected)


@given(seed=st.integers(0, 2**31))
def test_slices_are_not_blurred_into_their_neighbors(seed: int) -> None:
    drawn = ALWAYS.draw(np.random.default_rng(seed), (10, 5, 10))
    image = np.zeros((1, 10, 5, 10), dtype=np.float32)
    image[0, 3:7, 2, 3:7] = 1
    changes = Changes(blur=drawn.blur, coarseness=drawn.coarseness)
    assert changes.blur is not None
    changed, _ = ALWAYS.apply(image, np.zeros((10, 5, 10), dtype=np.uint8), changes)
    assert np.abs(changed[0, :, 2] - image[0, :, 2]).max() > 0.01
    assert np.abs(np.delete(changed, 2, axis=2)).max() < 1e-6
