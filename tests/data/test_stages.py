"""Patches and stages: within their limits for any shape, thick slices pooled last."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.stages import fit_patch, topology
from medseg3d.types import Size3, Spacing


@given(
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    voxels=st.integers(4096, 300_000),
)
def test_patch_keeps_within_its_voxels_and_the_case(
    shape: Size3, spacing: Spacing, voxels: int
) -> None:
    patch = fit_patch(shape, spacing, voxels)
    assert all(1 <= edge <= whole for edge, whole in zip(patch, shape, strict=True))
    assert prod(patch) <= voxels


@given(patch=st.tuples(*[st.integers(1, 256)] * 3), spacing=st.tuples(*[st.floats(0.3, 8.0)] * 3))
def test_no_stage_is_smaller_than_four_voxels_unless_the_patch_is(
    patch: Size3, spacing: Spacing
) -> None:
    strides, kernels = topology(patch, spacing)
    assert len(kernels) == len(strides) + 1 <= 6
    for edge, *axis in zip(patch, *strides, strict=True):
        if prod(axis) > 1:
            assert edge / prod(axis) > 3


@pytest.mark.parametrize(
    ("patch", "spacing"),
    [((128, 128, 16), (0.4, 0.4, 12.0)), ((16, 128, 128), (12.0, 0.4, 0.4))],
)
def test_very_thick_slices_are_pooled_in_plane_until_the_voxels_are_nearly_cubes(
    patch: Size3, spacing: Spacing
) -> None:
    strides, kernels = topology(patch, spacing)
    thick = spacing.index(12.0)
    voxel = list(spacing)
    for stride, kernel in zip(strides, kernels, strict=False):
        assert (kernel[thick] == 1) == (voxel[thick] > 2 * min(voxel))
        if stride[thick] > 1:
            assert voxel[thick] < 2 * min(voxel)
        voxel = [edge * factor for edge, factor in zip(voxel, stride, strict=True)]
    assert strides[0][thick] == strides[3][thick] == 1
    assert all(stride[(thick + 1) % 3] == 2 for stride in strides[:4])


@pytest.mark.parametrize("patch", [(5, 6, 7), (40, 44, 1), (3000, 3, 3), (1, 1, 1)])
def test_short_axes_are_not_pooled_away(patch: Size3) -> None:
    strides, _ = topology(patch, (1.0, 1.0, 1.0))
    for edge, *axis in zip(patch, *strides, strict=True):
        assert prod(axis) == 1 or edge / prod(axis) > 3
