"""Building by name: the plan suggests, options decide, mistakes are explained."""

import pytest
import torch

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS, build_network
from medseg3d.networks.topology import Topology

FLAT = Topology(
    patch_size=(8, 64, 64),
    strides=((1, 2, 2), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
    width=8,
    max_width=24,
)


@pytest.mark.parametrize("name", ["unet3d", "vnet"])
def test_the_plan_sets_strides_per_axis(name: str) -> None:
    network = build_network(name, 1, 2, topology=FLAT)
    assert network.divisor == (2, 8, 8)


@pytest.mark.parametrize("name", ["denseunet_2d", "denseunet_3d", "hdenseunet"])
def test_the_plan_slices_across_the_coarsest_axis(name: str) -> None:
    network = build_network(name, 1, 2, topology=FLAT)
    assert network.divisor == {"denseunet_2d": (1, 8, 8)}.get(name, (4, 8, 8))


def test_the_plan_sets_widths_and_kernels() -> None:
    network = build_network("unet3d", 1, 2, topology=FLAT)
    convs = [stage[0].conv for stage in network.encoder]
    assert [conv.out_channels for conv in convs] == [8, 16, 24, 24]
    assert [conv.kernel_size for conv in convs] == list(FLAT.kernels)


def test_the_plan_of_the_vnet_widens_kernels_but_not_across_thick_slices() -> None:
    network = build_network("vnet", 1, 2, topology=FLAT)
    kernels = [stage.convs[0].conv.kernel_size for stage in network.encoder]
    assert kernels == [(1, 5, 5), (1, 5, 5), (5, 5, 5), (5, 5, 5)]


def paper_plan(stages: int) -> Topology:
    return Topology(
        patch_size=(128, 128, 128),
        strides=((2, 2, 2),) * (stages - 1),
        kernels=((3, 3, 3),) * stages,
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet3d", {"width": 32, "max_width": 320}),
        ("vnet", {"width": 16, "kernels": ((5, 5, 5),) * 5}),
        ("denseunet_2d", {"stem": 96, "growth": 48, "layers": (6, 12, 36, 24)}),
        ("denseunet_3d", {"stem": 96, "growth": 32, "layers": (3, 4, 12, 8)}),
        ("hdenseunet", {"stem": 96, "growth": (48, 32), "slice_axis": 2}),
        ("unet", {"width": 32}),
        ("unet_plus_plus", {"width": 16}),
        ("probabilistic_unet", {"width": 16, "max_width": 160}),
        ("hierarchical_probabilistic_unet", {"width": 16, "latents": (1, 1)}),
        ("siamese_unet", {"width": 32}),
        ("lv_unet", {"width": 16, "decoded": 32, "first_kernel": (7, 7, 7)}),
        ("unet_gan", {"width": 16, "decoded": 32, "first_kernel": (7, 7, 7)}),
        ("wnet", {"width": 16}),
    ],
)
def test_a_plan_of_the_paper_gives_the_paper_s_width(name: str, options) -> None:
    plan = paper_plan(5 if name == "vnet" else 6)
    assert NETWORKS[name].plan_options(plan).items() >= options.items()


@pytest.mark.parametrize("name", NETWORKS.names())
@pytest.mark.parametrize("plan", [FLAT, paper_plan(4), paper_plan(6)])
def test_every_network_builds_from_any_plan(name: str, plan: Topology) -> None:
    with torch.device("meta"):
        build_network(name, 1, 2, topology=plan)


def test_options_win_over_the_plan() -> None:
    network = build_network(
        "unet3d", 1, 2, topology=FLAT, options={"width": 4, "strides": [2, 2, 2]}
    )
    assert network.divisor == (8, 8, 8)
    assert network.encoder[0][0].conv.out_channels == 4


def test_unknown_network_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean unet3d"):
        build_network("unet3", 1, 2)


def test_unknown_option_is_refused_with_a_hint() -> None:
    expected = r"network 'unet3d' has no option 'widht'; did you mean width\? valid options: width,"
    with pytest.raises(ConfigError, match=expected):
        build_network("unet3d", 1, 2, options={"widht": 16})


def test_channels_are_not_options() -> None:
    with pytest.raises(ConfigError, match="no option 'in_channels'"):
        build_network("vnet", 1, 2, options={"in_channels": 3})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet3d", {"norm": "layer"}, "norm must be one of 'none', 'batch', 'instance'"),
        ("unet3d", {"kernels": 2}, "kernels must be odd, got 2"),
        ("unet3d", {"kernels": [3, 3]}, "6 stages need one size for all or 6"),
        ("unet3d", {"strides": []}, "at least one stride"),
        ("unet3d", {"strides": [[2, 2]]}, "one positive integer or 3 of them"),
        ("unet3d", {"spatial_dims": 4}, "spatial_dims must be one of 2, 3, got 4"),
        ("vnet", {"strides": []}, "at least one stride"),
        ("vnet", {"head": "tall"}, "head must be one of"),
        ("vnet", {"enc_convs": [1, 2]}, "4 strides need 5 enc_convs and 4 dec_convs, got 2 and 4"),
        ("vnet", {"activation": "tanh"}, "activation must be one of"),
        ("denseunet_2d", {"layers": [4]}, "at least two blocks"),
        ("denseunet_3d", {"slice_axis": 3}, "slice_axis must be an axis from -3 to 2, got 3"),
        ("hdenseunet", {"layers": [[1, 1], [1]]}, "as many blocks in both"),
        ("hdenseunet", {"stage": "4d"}, "stage must be one of"),
        ("hdenseunet", {"context": "labels"}, "context must be one of"),
        ("danet", {"depths": [1, 1]}, "danet needs 4 depths, got 2"),
        ("graph_unet", {"ratios": [0.5, 0]}, r"ratios must lie in \(0, 1\], got \(0.5, 0\)"),
        ("m_net", {"strides": [2, 2]}, "m_net needs 3 strides, got 2"),
        ("m_net", {"slab": 4}, "a slab is an odd number of slices of a volume, got 4"),
        ("m_net", {"slab": 3, "spatial_dims": 2}, "got 3 and spatial_dims=2"),
        ("siamese_unet", {"mirror_axis": 3}, "mirror_axis must be an axis from 0 to 2, got 3"),
        ("lv_unet", {"first_kernel": 4}, "kernels must be odd"),
        ("wnet", {"segments": 1}, "2 labels need at least as many segments, got 1"),
        ("wnet_density", {"sigma": 0.0}, r"sigma above 0, got 2 channels and sigma 0\.0"),
        ("unet_gan", {"stage": "both"}, "stage must be one of"),
        ("unet", {"width": 0}, "network 'unet': width must be 1 or more, got 0"),
        ("unet3d", {"max_width": 0}, "max_width must be 1 or more, got 0"),
        ("segnet", {"width": -1}, "width must be 1 or more, got -1"),
        ("slices:unet", {"width": -1}, "width must be 1 or more, got -1"),
        ("denseunet_2d", {"slice_chunk": -1}, "slice_chunk must be 1 or more slices"),
        ("hdenseunet", {"slice_chunk": -1}, "slice_chunk must be 1 or more slices"),
        ("fc_densenet", {"layers": 0}, "layers must be 1 or more, got 0"),
        ("fc_densenet", {"layers": [1, 0]}, r"layers must be 1 or more, got \[1, 0\]"),
        ("ynet_2d", {"depths": [1]}, "ynet_2d needs 2 depths, got 1"),
        ("ynet_2d", {"classes": -1}, "cannot be built with classes=-1: .* negative dimension"),
    ],
)
def test_wrong_values_are_explained(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(name, 1, 2, options=options)


@pytest.mark.parametrize("strides", [(4,), (4, 2), ((2, 4, 1),)])
def test_fc_densenet_takes_any_stride(strides: object) -> None:
    network = build_network("fc_densenet", 1, 2, options={"strides": strides, "stem": 4})
    assert network(torch.randn(1, 1, 16, 16, 16)).shape == (1, 2, 16, 16, 16)


def test_ahcnet_has_strides_of_its_own_in_two_dimensions() -> None:
    network = build_network("ahcnet", 1, 2, options={"spatial_dims": 2, "width": 4})
    assert network.divisor == (16, 16)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("partially_reversible_unet", {"widths": (5, 10), "strides": (2,)}, "must be even"),
        ("voxresnet", {"first_kernel": 2}, "kernels must be odd"),
    ],
)
def test_what_would_fail_in_the_first_step_is_refused(
    name: str, options: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        build_network(name, 1, 2, options=options)
