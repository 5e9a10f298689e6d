"""Networks of MONAI by name: built, filled in, measured, trained, told apart."""

import json
from typing import Any

import pytest
import torch
from monai.networks import nets

from medseg3d.bundle import Bundle, load_bundle, load_weights, save_bundle
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS, build_network
from medseg3d.networks.topology import Topology

PLAN = Topology(
    patch_size=(16, 32, 32),
    strides=((1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    width=4,
    max_width=16,
)
NAMES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "DynUNet": ({}, (2, 4, 4)),
    "UNet": ({}, (2, 4, 4)),
    "AttentionUnet": ({"strides": (2, 2)}, (4, 4, 4)),
    "SegResNet": ({"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}, (2, 2, 2)),
    "SegResNetDS": ({"init_filters": 8, "blocks_down": (1, 1)}, (2, 2, 2)),
    "BasicUNetPlusPlus": ({"features": (4, 4, 4, 4, 4, 4)}, (16, 16, 16)),
    "HighResNet": ({}, (1, 1, 1)),
    "SwinUNETR": (
        {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
        (32,) * 3,
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_it_labels_volumes_of_any_size_and_learns(name: str) -> None:
    options, divisor = NAMES[name]
    network = build_network(f"monai:{name}", 2, 3, topology=PLAN, options=options)
    assert network.divisor == divisor
    assert isinstance(network.network, getattr(nets, name))
    x = torch.randn(1, 2, 19, 33, 20)
    logits = network.train()(x)
    assert logits.shape == (1, 3, 19, 33, 20)
    logits.square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_window_with_too_few_voxels_is_refused_in_one_sentence() -> None:
    options = {"features": (4, 4, 4, 4, 4, 4)}
    network = build_network("monai:BasicUNet", 1, 2, options=options).train()
    with pytest.raises(ConfigError, match=r"windows of \(16, 16, 16\) voxels: .*larger patch_size"):
        network(torch.randn(1, 1, 9, 16, 16))


def test_logits_are_those_of_the_class_itself() -> None:
    options = {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}
    network = build_network("monai:SegResNet", 2, 3, options=options).eval()
    plain = nets.SegResNet(spatial_dims=3, in_channels=2, out_channels=3, **options).eval()
    plain.load_state_dict(network.network.state_dict())
    x = torch.randn(1, 2, 8, 6, 4)
    torch.testing.assert_close(network(x), plain(x))


def test_the_plan_gives_strides_kernels_and_widths_to_those_who_ask() -> None:
    known = NETWORKS["monai:DynUNet"].plan_options(PLAN)
    assert known == {
        "kernel_size": PLAN.kernels,
        "strides": ((1, 1, 1), *PLAN.strides),
        "upsample_kernel_size": PLAN.strides,
        "filters": [4, 8, 16],
    }
    assert NETWORKS["monai:SegResNet"].plan_options(PLAN) == {}
    assert NETWORKS["monai:UNETR"].plan_options(PLAN) == {"img_size": (16, 32, 32)}


def test_a_network_of_one_size_takes_that_size() -> None:
    small = {"feature_size": 4, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2}
    network = build_network("monai:UNETR", 1, 2, topology=PLAN, options=small)
    assert network.divisor == PLAN.patch_size
    assert network.eval()(torch.randn(1, 1, 10, 32, 17)).shape == (1, 2, 10, 32, 17)


@pytest.mark.parametrize("name", ["DynUNet", "UNet", "AttentionUnet"])
def test_what_the_plan_gives_survives_the_model_file(name: str) -> None:
    planned = NETWORKS[f"monai:{name}"].plan_options(PLAN)
    stored = json.loads(json.dumps(planned))
    network = build_network(f"monai:{name}", 1, 2, options=stored)
    twin = build_network(f"monai:{name}", 1, 2, options=planned)
    twin.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 16, 32, 32)
    assert torch.equal(network.eval()(x), twin.eval()(x))


@pytest.mark.parametrize("name", ["DynUNet", "SwinUNETR"])
def test_it_is_built_without_memory_for_its_weights(name: str) -> None:
    with torch.device("meta"):
        network = build_network(f"monai:{name}", 1, 2, topology=PLAN)
    assert all(p.is_meta for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SwinUNET", {}, "MONAI has no network 'SwinUNET' that labels .*did you mean monai:SwinU"),
        ("swinunetr", {}, "did you mean monai:SwinUNETR"),
        ("qqq", {}, "known: .*DynUNet"),
        ("DenseBlock", {}, "MONAI has no network"),
        ("UNet", {"chanels": [4]}, "no option 'chanels'; did you mean channels"),
        ("UNet", {}, "network 'monai:UNet' cannot be built: .*channels"),
        ("SegResNet", {"in_channels": 3}, "in_channels cannot be given"),
        ("SegResNet", {"spatial_dims": 2}, "spatial_dims cannot be given"),
        ("DynUNet", {"deep_supervision": True}, "deep_supervision cannot be given"),
        ("SegResNet", {"dropout_prob": "much"}, "cannot be built"),
        ("FlexibleUNet", {"backbone": "resnet10", "pretrained": True}, "would download weights"),
        ("Quicknat", {}, "no logits of the size of a volume|cannot be built"),
        ("DenseNet121", {}, "no logits of the size of a volume"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        build_network(f"monai:{name}", 1, 2, options=options)
    assert "\n" not in str(found.value)


def test_a_model_file_remembers_name_and_options(tmp_path: Any) -> None:
    options = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
    network = build_network("monai:SegResNet", 1, 2, options=options).eval()
    plan = Plan(
        num_cases=1,
        labels={0: "background", 1: "heart"},
        channels=(Normalization(name="MR", scheme="zscore", lower=0, upper=1, mean=0, sd=1),),
        spacing=(1.0, 1.0, 1.0),
        coarse_axis=None,
        median_shape=(8, 8, 8),
        patch_size=(8, 8, 8),
        batch_size=1,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3), (3, 3, 3)),
        width=4,
        max_width=8,
    )
    described = Bundle(network="monai:SegResNet", options=options, plan=plan, channels=1)
    save_bundle(tmp_path / "model.medseg3d", described, network)
    bundle, weights = load_bundle(tmp_path / "model.medseg3d")
    again = build_network(bundle.network, 1, 2, options=bundle.options).eval()
    load_weights(again, weights, source="here")
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(again(x), network(x))


def test_names_are_known_by_their_prefix() -> None:
    assert "monai:SwinUNETR" in NETWORKS
    assert "monai:Nothing" not in NETWORKS
    assert not any(name.startswith("monai:") for name in NETWORKS)
