"""Networks of two dimensions that label volumes slice by slice."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from medseg3d.errors import ConfigError
from medseg3d.inference.backends.conversion import convert
from medseg3d.inference.backends.openvino import Intermediate
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.networks import NETWORKS, build_network
from medseg3d.networks.topology import Topology

SMALL = {"width": 4, "strides": (2, (1, 2)), "slice_axis": 1}
IN_PLANE = Topology(
    patch_size=(64, 1, 48),
    strides=((2, 1, 2), (2, 1, 2), (2, 1, 1)),
    kernels=((3, 1, 3),) * 4,
    width=8,
    max_width=16,
    slice_axis=1,
)
IN_A_WAY_OF_ITS_OWN = [
    name
    for name in NETWORKS.names()
    if hasattr(NETWORKS[name], "default_stages") or hasattr(NETWORKS[name], "unsupervised")
]
OF_SLICES = [
    name
    for name in NETWORKS.names()
    if 2 in NETWORKS.facts(name)["dims"] and name not in IN_A_WAY_OF_ITS_OWN
]


def sliced(name: str = "unet", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_network(f"slices:{name}", 2, 3, options=SMALL | options)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_each_slice_is_labeled_alone(axis: int) -> None:
    network = sliced(slice_axis=axis).eval()
    volume = torch.randn(2, 2, 7, 6, 5)
    logits = network(volume)
    assert logits.shape == (2, 3, 7, 6, 5)
    alone = [network.network(plane) for plane in volume.unbind(2 + axis % 3)]
    torch.testing.assert_close(logits, torch.stack(alone, dim=2 + axis % 3))


def test_any_number_of_slices_needs_no_padding() -> None:
    assert sliced().divisor == (2, 1, 4)
    assert sliced(slice_axis=2).divisor == (2, 4, 1)
    assert sliced(slice_axis=-3).divisor == (1, 2, 4)


def test_a_slab_brings_the_neighbors_as_channels() -> None:
    network = sliced(slab=3).eval()
    volume = torch.randn(1, 2, 6, 4, 5)
    logits = network(volume)
    slices = volume.unbind(3)
    for place, (before, after) in enumerate([(0, 1), (0, 2), (1, 3), (2, 3)]):
        slab = torch.cat([slices[before], slices[place], slices[after]], dim=1)
        torch.testing.assert_close(logits[:, :, :, place], network.network(slab))


def test_deep_supervision_is_coarser_within_the_slices_only() -> None:
    network = sliced("unet3d", strides=(2, 2, 2)).train()
    sizes = [tuple(level.shape) for level in network(torch.randn(2, 2, 16, 5, 24))]
    assert sizes == [(2, 3, 16, 5, 24), (2, 3, 8, 5, 12)]


def test_levels_weigh_as_in_the_network_itself() -> None:
    assert sliced("unet_plus_plus").level_decay == 1.0
    assert not hasattr(sliced("unet3d"), "level_decay")


@pytest.mark.parametrize("name", OF_SLICES)
def test_every_network_of_slices_builds_from_the_plan_of_a_run(name: str) -> None:
    with FakeTensorMode():  # sizes without values
        network = build_network(f"slices:{name}", 1, 2, topology=IN_PLANE)
        outputs = network.eval()(torch.empty(1, 1, 64, 3, 48))
    assert outputs.shape == (1, 2, 64, 3, 48)
    assert network.divisor[1] == 1
    assert not any(isinstance(module, nn.Conv3d) for module in network.modules())


def test_networks_of_volumes_are_refused() -> None:
    of_volumes = sorted({*NETWORKS.names()} - {*OF_SLICES, *IN_A_WAY_OF_ITS_OWN})
    assert "voxresnet" in of_volumes
    for name in (*of_volumes, "slices:unet"):
        with pytest.raises(ConfigError, match="takes volumes only; leave out --dims 2, or"):
            build_network(f"slices:{name}", 1, 2)
        assert f"slices:{name}" not in NETWORKS
    assert "slices:unet" in NETWORKS
    with pytest.raises(ConfigError, match="unknown network 'unett'; did you mean unet"):
        build_network("slices:unett", 1, 2)


def test_options_are_explained_as_those_of_the_network() -> None:
    with pytest.raises(ConfigError, match=r"'unet' has no option 'widht'; did you mean width\?"):
        sliced(widht=3)
    with pytest.raises(ConfigError, match="slab an odd number of slices, got 1 and 2"):
        sliced(slab=2)
    with pytest.raises(ConfigError, match=r"an axis from -3 to 2 and .* got 3 and 1"):
        sliced(slice_axis=3)


def test_an_objective_gets_slices_and_its_loss_gets_volumes() -> None:
    options = {"stem": 4, "growth": 2, "layers": (1, 1), "slice_axis": 2}
    network = build_network("slices:saunet", 1, 3, options=options).eval()
    image, labels = torch.randn(2, 1, 16, 16, 3), torch.randint(3, (2, 1, 16, 16, 3))
    seen: list[tuple[int, ...]] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(tuple(target.shape))
        return functional.cross_entropy(logits, target[:, 0])

    found = network.objective(loss, image, labels)
    flat = [volume.permute(0, 4, 1, 2, 3).flatten(0, 1) for volume in (image, labels)]
    torch.testing.assert_close(found, network.network.objective(loss, *flat))
    assert seen == [(2, 1, 16, 16, 3), (6, 1, 16, 16)]
    assert sliced().objective is None


@pytest.mark.parametrize("decay", [0.5, 0.1])
def test_contours_of_slices_are_weighed_as_their_levels_are(decay: float) -> None:
    options = {"stem": 4, "growth": 2, "layers": (1, 1, 1), "lateral": 2, "slice_axis": 2}
    network = build_network("slices:cia_net", 1, 3, options=options).train()
    image, labels = torch.randn(2, 1, 16, 16, 3), torch.randint(3, (2, 1, 16, 16, 3))

    class CrossEntropy(nn.Module):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return functional.cross_entropy(logits, target[:, 0])

    loss = DeepSupervision(CrossEntropy(), decay)
    flat = [volume.permute(0, 4, 1, 2, 3).flatten(0, 1) for volume in (image, labels)]
    expected = network.network.objective(loss, *flat)
    torch.testing.assert_close(network.objective(loss, image, labels), expected)


def test_an_answer_is_the_same_in_all_slices() -> None:
    options = {"width": 3, "strides": (2,), "latent": 4}
    network = build_network("slices:probabilistic_unet", 1, 2, options=options | {"slice_axis": 1})
    x, noise = torch.randn(2, 1, 8, 3, 6), torch.randn(network.eval().latent_size)
    with torch.inference_mode():
        found = network.sample(x, noise)
        for place in range(3):
            alone = network.network.sample(x[:, :, :, place], noise)
            torch.testing.assert_close(found[:, :, :, place], alone)
        assert not torch.equal(found, network.sample(x, -noise))
    assert hasattr(NETWORKS["slices:probabilistic_unet"], "sample")
    assert not hasattr(NETWORKS["slices:unet"], "sample")


def test_slices_that_nobody_annotated_stay_in_their_volume() -> None:
    options = {"width": 2, "features": 2, "depths": (1, 1), "slice_axis": 2, "slab": 3}
    network = build_network("slices:ynet_2d", 1, 3, options=options).eval()
    image, labels = torch.randn(2, 1, 16, 16, 3), torch.randint(3, (2, 1, 16, 16, 3))
    labels[0, ..., 0] = labels[1, ..., 2] = 3
    seen: list[Tensor] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.extend([logits, target])
        return functional.cross_entropy(logits, target[:, 0], ignore_index=3)

    network.objective(loss, image, labels)
    torch.testing.assert_close(seen, [network(image), labels])


def test_networks_of_monai_are_built_in_two_dimensions() -> None:
    network = build_network("slices:monai:UNet", 1, 2, topology=IN_PLANE).eval()
    assert network.divisor == (8, 1, 4)
    assert network(torch.randn(1, 1, 9, 2, 5)).shape == (1, 2, 9, 2, 5)
    assert not any(isinstance(module, nn.Conv3d) for module in network.modules())


def test_weights_are_read_back_and_conversions_take_any_number_of_slices() -> None:
    network, twin = sliced(slab=3).eval(), sliced(slab=3).eval()
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    twin.load_state_dict(network.state_dict())
    volume = torch.randn(1, 2, 8, 5, 8)
    torch.testing.assert_close(twin(volume), network(volume))
    convert(Intermediate(), network, 2)  # compares windows of four and of five slices


@pytest.mark.parametrize("name", ["unet_gan", "wnet"])
def test_what_is_trained_in_a_way_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' .* leave out --dims 2"):
        build_network(f"slices:{name}", 2, 3)
