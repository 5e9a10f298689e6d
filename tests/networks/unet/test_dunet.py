"""Where DUNet is deformable."""

from medseg3d.networks.blocks.deformable import DeformableStack
from medseg3d.networks.topology import Topology
from medseg3d.networks.unet.dunet import DUNet


def deformable_stages(network: DUNet) -> tuple[list[bool], list[bool]]:
    """Whether each stage is, of the encoder and of the decoder."""
    encoder, decoder = (
        [isinstance(stage, DeformableStack) for stage in half]
        for half in (network.encoder, network.decoder)
    )
    return encoder, decoder


def test_the_published_one_is_deformable_down_to_its_finest_stage() -> None:
    expected = [False, True, True, False, False], [False, False, True, True]
    assert deformable_stages(DUNet.paper()) == expected


def test_a_plan_for_volumes_leaves_the_finest_stage_ordinary() -> None:
    volumes = Topology(patch_size=(32, 32, 32), strides=((2, 2, 2),) * 3, kernels=((3, 3, 3),) * 4)
    slices = volumes.in_plane(2)
    encoder = [False, True, True, False]
    of_volumes = DUNet(1, 2, **DUNet.plan_options(volumes) | {"width": 2})
    assert deformable_stages(of_volumes) == (encoder, [False, True, False])
    of_slices = DUNet(1, 2, spatial_dims=2, **DUNet.plan_options(slices) | {"width": 2})
    assert deformable_stages(of_slices) == (encoder, [False, True, True])
