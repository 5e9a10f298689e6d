"""Graphs: neighbors on a grid, choosing nodes, putting them back."""

from itertools import product

import pytest
import torch
from torch import Tensor

from medseg3d.networks.blocks.graph import GraphConv, GraphPool, GraphUNet, grid_graph


def random_graph(nodes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(nodes, nodes, generator=generator) < 0.25
    edges = (edges | edges.T | torch.eye(nodes, dtype=torch.bool)).double()
    return edges / edges.sum(1, keepdim=True)


@pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 4), (1, 1, 1)])
def test_a_grid_joins_voxels_that_touch(size: tuple[int, ...]) -> None:
    voxels = list(product(*map(range, size)))
    near = torch.tensor(
        [
            [all(abs(a - b) <= 1 for a, b in zip(one, other, strict=True)) for other in voxels]
            for one in voxels
        ]
    )
    graph = grid_graph(size, torch.zeros((), dtype=torch.float64))
    assert torch.equal(graph > 0, near)
    torch.testing.assert_close(graph, near.double() / near.sum(1, keepdim=True))


def test_pooling_keeps_the_best_nodes_times_their_scores() -> None:
    pool = GraphPool(1, 0.5).double()
    with torch.no_grad():
        pool.score.weight.fill_(1.0)
        pool.score.bias.zero_()
    nodes = torch.tensor([[[0.0], [3.0], [-1.0], [2.0], [1.0]]], dtype=torch.float64)
    chain = grid_graph((5,), nodes)[None]
    graph, kept, places = pool(chain, nodes)
    assert places.tolist() == [[1, 3]]
    expected = torch.tensor([3.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(kept[0, :, 0], expected * expected.sigmoid())
    # 1 and 3 are not neighbors but two steps apart
    torch.testing.assert_close(graph, torch.full((1, 2, 2), 0.5, dtype=torch.float64))


def test_pooled_nodes_are_joined_by_two_steps_of_the_graph_they_come_from() -> None:
    torch.manual_seed(0)
    pool, graph = GraphPool(3, 0.6).double(), random_graph(9)
    nodes = torch.randn(1, 9, 3, dtype=torch.float64)
    found, _, places = pool(graph[None], nodes)
    near = graph > 0
    for row, start in enumerate(places[0].tolist()):
        for column, end in enumerate(places[0].tolist()):
            by_two = any(near[start, middle] and near[middle, end] for middle in range(9))
            assert (found[0, row, column] > 0) == by_two
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 5, dtype=torch.float64))


@pytest.mark.parametrize(("nodes", "ratio", "left"), [(10, 0.55, 5), (3, 0.1, 2), (1, 0.5, 1)])
def test_two_nodes_are_left_if_there_are_two(nodes: int, ratio: float, left: int) -> None:
    pool = GraphPool(2, ratio).double()
    graph = random_graph(nodes)[None]
    assert pool(graph, torch.randn(1, nodes, 2, dtype=torch.float64))[2].shape == (1, left)


def test_a_convolution_maps_the_mean_of_the_neighbors() -> None:
    conv = GraphConv(1, 1, dropout=0.0).double()
    with torch.no_grad():
        conv.linear.weight.fill_(2.0)
        conv.linear.bias.fill_(1.0)
    nodes = torch.tensor([[[1.0], [3.0], [8.0]]], dtype=torch.float64)
    expected = torch.tensor([5.0, 9.0, 12.0], dtype=torch.float64)
    torch.testing.assert_close(conv(grid_graph((3,), nodes), nodes)[0, :, 0], expected)


def test_the_order_of_the_nodes_does_not_matter() -> None:
    torch.manual_seed(0)
    network, graph = GraphUNet(4, (0.8, 0.6)).double().eval(), random_graph(12)
    nodes = torch.randn(2, 12, 4, dtype=torch.float64)
    order = torch.randperm(12)
    again = network(graph[order][:, order], nodes[:, order])
    torch.testing.assert_close(again, network(graph, nodes)[:, order])


def test_nodes_that_no_path_reaches_change_nothing() -> None:
    torch.manual_seed(0)
    network = GraphUNet(4, (1.0, 1.0)).double().eval()
    parts = torch.block_diag(random_graph(6, 1), random_graph(5, 2))
    nodes = torch.randn(1, 11, 4, dtype=torch.float64)
    other = nodes.clone()
    other[:, 6:] += 1.0
    torch.testing.assert_close(network(parts, other)[:, :6], network(parts, nodes)[:, :6])
    assert not torch.allclose(network(parts, other)[:, 6:], network(parts, nodes)[:, 6:])


def test_half_precision_keeps_the_same_nodes() -> None:
    torch.manual_seed(0)
    pool, graph = GraphPool(4, 0.5), random_graph(200).float()
    nodes = 0.1 * torch.randn(1, 200, 4)
    _, _, expected = pool(graph[None], nodes)
    with torch.autocast("cpu", torch.bfloat16):
        _, _, places = pool(graph[None], nodes)
    assert torch.equal(places, expected)
