"""What a topology derives from strides and kernels."""

import pytest

from medseg3d.errors import ConfigError
from medseg3d.networks.topology import Topology
from medseg3d.types import Size3


def topology(strides: tuple[Size3, ...], kernels: tuple[Size3, ...]) -> Topology:
    return Topology(patch_size=(32, 32, 32), strides=strides, kernels=kernels)


def test_total_stride_multiplies_each_axis() -> None:
    plan = topology(((1, 2, 2), (2, 2, 3)), ((3, 3, 3),) * 3)
    assert plan.total_stride == (2, 4, 6)
    assert plan.num_stages == 3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_with_the_least_stride_is_coarse(axis: int) -> None:
    stride = [2, 2, 2]
    stride[axis] = 1
    i, j, k = stride
    assert topology(((i, j, k),), ((3, 3, 3),) * 2).coarse_axis == axis


def test_flat_kernels_decide_between_equal_strides() -> None:
    assert topology(((2, 2, 2),), ((3, 1, 3), (3, 3, 3))).coarse_axis == 1


def test_isotropic_plans_slice_along_the_last_axis() -> None:
    assert topology(((2, 2, 2),), ((3, 3, 3),) * 2).coarse_axis == 2


def test_slices_keep_their_own_axes_only() -> None:
    flat = topology(((1, 2, 4), (1, 2, 2)), ((1, 3, 5), (3, 3, 3), (3, 3, 3))).in_plane(0)
    assert (flat.strides, flat.kernels[0], flat.patch_size) == (((2, 4), (2, 2)), (3, 5), (32, 32))
    assert (flat.total_stride, flat.coarse_axis) == ((4, 8), 0)


def test_strides_that_the_plan_lacks_do_nothing() -> None:
    plan = topology(((2, 2, 1),), ((3, 3, 1),) * 2)
    assert plan.first_strides(3) == ((2, 2, 1), (1, 1, 1), (1, 1, 1))
    assert plan.first_strides(0) == ()
    assert plan.in_plane(2).first_strides(2) == ((2, 2), (1, 1))


def test_stages_must_be_as_many_in_both() -> None:
    with pytest.raises(ConfigError, match="1 strides need 2 kernels, got 1"):
        topology(((2, 2, 2),), ((3, 3, 3),))
