"""W-Net for densities: the target that labels give, counting, and the gate."""

from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from medseg3d.networks import build_network, planned_options
from medseg3d.networks.blocks.style import InstanceNorm
from medseg3d.networks.cascade.wnet_density import WNetDensity, object_density
from medseg3d.networks.topology import Topology

Place = tuple[int, int]
NO_LOSS = torch.nn.Identity()


def labels_at(*places: Place, size: tuple[int, int] = (17, 12), label: int = 1) -> Tensor:
    labels = torch.zeros(1, 1, *size, dtype=torch.uint8)
    for i, j in places:
        labels[0, 0, i, j] = label
    return labels


def test_an_object_is_a_gaussian_around_its_center() -> None:
    labels = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    labels[..., 19:22, 16:18] = 1  # center (20, 16.5): (9.75, 8) in voxels of twice the edge
    found = object_density(labels, 2, 1.5)[0, 0]
    assert found.shape == (20, 20)
    i, j = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    away = (i - 9.75) ** 2 + (j - 8.0) ** 2
    expected = torch.exp(-away / (2 * 1.5**2)) / (2 * pi * 1.5**2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


places = st.lists(
    st.tuples(st.integers(0, 8).map(lambda i: 2 * i), st.integers(0, 5).map(lambda j: 2 * j)),
    unique=True,
    max_size=6,
)


@given(places=places, sigma=st.floats(0.5, 4.0))
def test_densities_sum_to_the_number_of_objects_wherever_they_lie(
    places: list[Place], sigma: float
) -> None:
    found = object_density(labels_at(*places), 2, sigma)
    assert found.shape == (1, 1, 9, 6)
    assert found.sum().item() == pytest.approx(len(places), rel=1e-5)
    assert found.min() >= 0


def test_objects_are_the_connected_parts_of_each_label_of_each_case() -> None:
    first = labels_at((2, 2), (3, 3), (10, 2))  # touching at an edge is touching
    first += labels_at((4, 4), label=2)
    second = labels_at((8, 8), label=2) + labels_at((2, 2), (4, 9), label=3)
    counts = object_density(torch.cat([first, second]), 3, 1.0).sum((2, 3))
    torch.testing.assert_close(counts, torch.tensor([[2.0, 1.0], [0.0, 1.0]]))


def small(**options: object) -> WNetDensity:
    torch.manual_seed(0)
    chosen = {"width": 4, "sigma": 2.0, "norm": "instance", "spatial_dims": 2, **options}
    network = build_network("wnet_density", 1, 3, options=chosen)
    assert isinstance(network, WNetDensity)
    return network


def test_a_perfect_density_costs_nothing_and_is_counted_and_labeled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = small().eval()
    labels = labels_at((8, 4), (26, 21), size=(33, 30)) + labels_at((8, 21), size=(33, 30), label=2)
    heights = object_density(labels, 3, 1.0) / network.highest
    assert network.highest == pytest.approx(1 / (2 * pi))

    def perfect(image: Tensor) -> tuple[Tensor, Tensor]:
        return heights, 100 * (heights.amax(1, keepdim=True) - 0.1)

    monkeypatch.setattr(network, "_maps", perfect)
    image = torch.zeros(1, 1, 33, 30)
    assert network.objective(NO_LOSS, image, labels) < 0.05
    wrong = network.objective(NO_LOSS, image, labels_at((2, 2), size=(33, 30)))
    assert wrong > network.objective(NO_LOSS, image, labels) + 0.05
    torch.testing.assert_close(network.density(image).sum((2, 3)), torch.tensor([[2.0, 1.0]]))
    found = network(image).argmax(1)
    assert [int(found[0][place]) for place in ((8, 4), (26, 21), (8, 21), (16, 12))] == [1, 1, 2, 0]


def test_what_nobody_annotated_is_not_learned() -> None:
    network = small().eval()
    image = torch.randn(1, 1, 16, 16)
    unknown = torch.full((1, 1, 16, 16), 3)
    loss = network.objective(NO_LOSS, image, unknown)
    assert loss == 0
    half = unknown.clone()
    half[..., :8] = 0
    other = image.clone()
    assert network.objective(NO_LOSS, other, half) > 0


def test_a_closed_gate_lets_nothing_through() -> None:
    network = small().eval()
    image = torch.randn(1, 1, 16, 16)
    torch.nn.init.constant_(network.gate.bias, -1e4)
    maps, _ = network._maps(image)
    torch.testing.assert_close(maps, network.head.bias.reshape(1, 2, 1, 1).expand_as(maps))


def test_it_learns_to_count() -> None:
    generator = np.random.default_rng(0)
    labels = torch.zeros(6, 1, 32, 32, dtype=torch.uint8)
    for case in range(6):
        for spot in generator.choice(9, case + 1, replace=False):
            i, j = 10 * (spot // 3) + 4, 10 * (spot % 3) + 4
            labels[case, 0, i : i + 3, j : j + 3] = 1
    image = labels.float() + 0.05 * torch.from_numpy(generator.normal(size=labels.shape)).float()
    torch.manual_seed(0)
    network = WNetDensity(1, 2, width=4, sigma=3.0, spatial_dims=2).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        network.objective(NO_LOSS, image, labels).backward()
        optimizer.step()
    counts = network.eval().density(image).sum((1, 2, 3))
    assert (counts - torch.arange(1.0, 7.0)).abs().max() < 0.5


def test_a_plan_gives_it_norms_which_training_from_nothing_needs() -> None:
    topology = Topology(patch_size=(16, 16, 16), strides=((2, 2, 2),), kernels=((3, 3, 3),) * 2)
    network = build_network("wnet_density", 1, 3, options=planned_options("wnet_density", topology))
    assert any(isinstance(module, InstanceNorm) for module in network.modules())
