"""Published or independently counted sizes of configurations other than ``paper()``."""

from typing import Any, NamedTuple

import pytest
import torch

from medseg3d.networks import NETWORKS, build_network
from medseg3d.networks.blocks.esp import DilatedPyramid
from medseg3d.networks.blocks.graph import GraphUNet
from medseg3d.networks.topology import Topology


class Anchor(NamedTuple):
    network: str
    channels: tuple[int, int]
    options: dict[str, Any]
    parameters: int


FLAT = {"spatial_dims": 2}
BATCH = {"norm": "batch"}
PLAIN = {"norm": "none"}

ANCHORS = (
    Anchor(
        "fcn",
        (3, 21),
        FLAT | PLAIN | {"width": 64, "wide": 4096, "kernel": 7, "finest": 32},
        136_152_917,
    ),
    Anchor(
        "fcn",
        (3, 21),
        FLAT | PLAIN | {"width": 64, "wide": 4096, "kernel": 7, "finest": 16},
        134_815_994,
    ),
    Anchor("fcn", (1, 2), PLAIN | {"finest": 8}, 14_855_334),
    Anchor("fc_densenet", (3, 11), FLAT | BATCH | {"growth": 12, "layers": 4}, 1_376_795),
    Anchor("fc_densenet", (3, 11), FLAT | BATCH | {"growth": 16, "layers": 5}, 3_463_243),
    Anchor("fc_densenet", (1, 2), BATCH | {"growth": 12, "layers": 4}, 3_661_202),
    Anchor("fc_densenet", (1, 2), BATCH | {"growth": 16, "layers": 5}, 9_335_842),
    Anchor(
        "fc_densenet", (1, 2), BATCH | {"growth": 16, "layers": (4, 5, 7, 10, 12, 15)}, 26_166_626
    ),
    Anchor("u_det", (1, 2), PLAIN | {"fuse_coarsest": True}, 5_288_386),
    Anchor("m_net", (1, 2), BATCH, 1_956_466),
    Anchor("dense_multipath_unet", (2, 2), BATCH, 5_177_386),
    Anchor("unet", (3, 1), FLAT | PLAIN | {"width": 64}, 31_031_745),
    Anchor("unet", (3, 1), FLAT | BATCH | {"width": 64}, 31_043_521),
    Anchor("unet", (1, 1), FLAT | PLAIN | {"width": 32}, 7_759_521),
    Anchor("unet", (1, 2), BATCH | {"width": 16}, 5_647_874),
    Anchor("unet", (1, 2), BATCH | {"width": 32}, 22_581_250),
    Anchor("attention_unet", (1, 2), BATCH | {"width": 16}, 6_497_846),
    Anchor("r2unet", (1, 2), BATCH | {"width": 16}, 7_157_026),
    Anchor("r2unet", (1, 1), FLAT | BATCH | {"width": 64}, 39_091_265),
    Anchor("scse_unet", (1, 2), BATCH | {"width": 16}, 6_586_139),
    Anchor(
        "unet_plus_plus", (1, 1), FLAT | PLAIN | {"width": 32, "deep_supervision": False}, 9_041_601
    ),
    Anchor("unet_plus_plus", (1, 2), PLAIN | {"width": 32}, 26_198_504),
    Anchor("mdu_net", (1, 2), BATCH | {"width": 16}, 2_645_250),
    Anchor("bridged_unet", (1, 2), BATCH | {"width": 16}, 13_652_274),
    Anchor("csa_unet", (1, 2), BATCH | {"width": 16}, 8_784_194),
    Anchor("sunet", (1, 2), BATCH, 7_029_410),
    Anchor("sunet", (4, 2), FLAT | BATCH, 2_347_970),
    Anchor("laddernet", (3, 2), FLAT | PLAIN | {"width": 16}, 879_698),
    Anchor("laddernet", (1, 2), PLAIN | {"width": 16}, 2_635_346),
    Anchor("multiresunet", (4, 1), BATCH, 18_639_713),
    Anchor("multiresunet", (1, 2), BATCH, 18_638_964),
    Anchor("improved_attention_unet", (1, 2), BATCH | {"width": 32}, 16_067_243),
    Anchor("scleraseg_net", (3, 1), FLAT | BATCH | {"width": 64, "attention": "bam"}, 24_939_682),
    Anchor("scleraseg_net", (3, 1), FLAT | BATCH | {"width": 64, "attention": "sam"}, 24_676_258),
    Anchor("scleraseg_net", (3, 1), FLAT | BATCH | {"width": 64, "attention": "cam"}, 23_626_401),
    Anchor("partially_reversible_unet", (4, 3), {"depth": 2}, 18_248_403),
    Anchor("voxresnet", (1, 4), BATCH | {"first_kernel": 3}, 1_788_096),
    Anchor("probabilistic_unet", (1, 1), FLAT | PLAIN | {"latent": 2}, 4_996_233),
    Anchor(
        "hierarchical_probabilistic_unet", (1, 2), PLAIN | {"whole_posterior": True}, 23_189_398
    ),
    Anchor("siamese_unet", (1, 2), BATCH, 1_356_866),
    Anchor("lv_unet", (1, 3), BATCH, 9_225_939),
    Anchor(
        "unet3plus", (3, 1), FLAT | BATCH | {"width": 64, "deep_supervision": False}, 26_971_777
    ),
    Anchor("unet3plus", (3, 1), FLAT | BATCH | {"width": 64, "class_guided": True}, 26_991_687),
    Anchor("ynet_3d", (2, 1), BATCH, 23_539_041 + 8_225),  # classified by means of the features
)


def parameters(network: torch.nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


@pytest.mark.parametrize("anchor", ANCHORS, ids=lambda each: f"{each.network}-{each.parameters}")
def test_known_configurations_have_their_known_size(anchor: Anchor) -> None:
    with torch.device("meta"):
        network = build_network(anchor.network, *anchor.channels, options=anchor.options)
    assert parameters(network) == anchor.parameters


def test_the_head_of_danet_has_its_known_size() -> None:
    with torch.device("meta"):
        network = NETWORKS["danet"].paper()
    head = (network.position, network.channel, network.heads)
    assert sum(map(parameters, head)) == 23_954_619
    assert parameters(network.encoder) == 23_508_032  # ResNet-50 without its classifier


def test_the_published_y_net_also_counts_convolutions_that_nothing_reads() -> None:
    with torch.device("meta"):
        network = NETWORKS["ynet_2d"].paper()
    pyramids = [each for each in network.modules() if isinstance(each, DilatedPyramid)]
    unread = sum(9 * pyramid.squeeze.out_channels**2 for pyramid in pyramids)
    assert parameters(network) + unread == 3_913_381
    diagnosis = [network.diagnosis, network.classifier]
    unread -= sum(
        9 * each.squeeze.out_channels**2 for each in diagnosis[0].modules() if each in pyramids
    )
    assert parameters(network) - sum(map(parameters, diagnosis)) + unread == 2_958_240


def test_a_plan_classifies_more_than_one_mean() -> None:
    plan = Topology(patch_size=(64, 64, 64), strides=((2, 2, 2),) * 4, kernels=((3, 3, 3),) * 5)
    with torch.device("meta"):
        network = build_network("ynet_3d", 1, 2, topology=plan)
    assert network.pooled == (2, 2, 2)


def test_the_core_of_the_graph_unet_has_its_known_size() -> None:
    assert parameters(GraphUNet(48, (0.9, 0.8, 0.7))) == 16_611


def test_a_plan_makes_the_recommended_network_of_three_dimensions() -> None:
    plan = Topology(
        patch_size=(96, 96, 96), strides=((2, 2, 2),) * 4, kernels=((3, 3, 3),) * 5, max_width=1024
    )
    with torch.device("meta"):
        assert parameters(build_network("dense_multipath_unet", 2, 2, topology=plan)) == 5_177_386
