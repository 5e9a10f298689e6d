"""A U on graphs: nodes are chosen going down and put back going up.

Reference:
    Gao and Ji, "Graph U-Nets", ICML 2019. arXiv:1905.05178
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DROPOUT = 0.3


def grid_graph(size: Sequence[int], like: Tensor) -> Tensor:
    """Weights ``(N, N)`` between the voxels of a grid: even over each voxel and its neighbors.

    Neighbors share a face, an edge or a corner. Voxels are in the order of ``flatten``.

    Args:
        size: Voxels per axis, of which ``N`` is the product.
        like: Gives device and type.

    Examples:
        >>> grid_graph((3,), torch.zeros(()))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333],
                [0.0000, 0.5000, 0.5000]])
    """
    graph = like.new_ones(1, 1)
    for length in size:
        steps = torch.arange(length, device=like.device)
        near = ((steps[:, None] - steps).abs() <= 1).to(like.dtype)
        graph = torch.kron(graph, near / near.sum(1, keepdim=True))
    return graph


class GraphConv(nn.Module):
    """Mean over the neighbors, then the same linear map and activation for all nodes.

    Shape:
        - graph: ``(N, N)`` or ``(B, N, N)``, each row adds up to 1
        - nodes: ``(B, N, in_features)``
        - output: ``(B, N, out_features)``
    """

    def __init__(self, in_features: int, out_features: int, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_features, out_features)
        self.act = nn.ELU()

    def forward(self, graph: Tensor, nodes: Tensor) -> Tensor:
        """Look around and map."""
        result: Tensor = self.act(self.linear(graph @ self.dropout(nodes)))
        return result


class GraphPool(nn.Module):
    """The nodes with the highest learned score, times their scores.

    Those that were two steps apart become neighbors, so that no part of the graph is cut off.

    Args:
        features: Of a node.
        ratio: Share of the nodes to keep, at least two of them.

    Shape:
        - graph: ``(B, N, N)``
        - nodes: ``(B, N, features)``
        - output: graph ``(B, M, M)``, nodes ``(B, M, features)``, kept places ``(B, M)``
    """

    def __init__(self, features: int, ratio: float) -> None:
        super().__init__()
        self.score = nn.Linear(features, 1)
        self.ratio = ratio

    def forward(self, graph: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keep the best."""
        number = nodes.shape[1]
        with torch.autocast(nodes.device.type, enabled=False):  # in half precision many are equal
            scores = self.score(nodes.to(self.score.weight.dtype)).squeeze(-1)
        best, kept = scores.topk(min(number, max(2, int(self.ratio * number))), dim=1)
        share = best.sigmoid().to(nodes.dtype)[..., None]
        nodes = nodes.gather(1, kept[..., None].expand(-1, -1, nodes.shape[2])) * share
        leaving = graph.gather(1, kept[..., None].expand(-1, -1, number))
        arriving = graph.gather(2, kept[:, None].expand(-1, number, -1))
        near = (leaving @ arriving > 0).to(nodes.dtype)
        return near / near.sum(-1, keepdim=True), nodes, kept


class GraphUNet(nn.Module):
    """Graph convolutions and poolings down, the same way up, with added skips.

    Args:
        features: Of each node, on all levels.
        ratios: Share of the nodes that each pooling keeps.

    Shape:
        - graph: ``(N, N)``, each row adds up to 1
        - nodes: ``(B, N, features)``
        - output: ``(B, N, features)``
    """

    def __init__(self, features: int, ratios: Sequence[float]) -> None:
        super().__init__()
        self.down = nn.ModuleList(GraphConv(features, features) for _ in ratios)
        self.pools = nn.ModuleList(GraphPool(features, ratio) for ratio in ratios)
        self.bottom = GraphConv(features, features)
        self.up = nn.ModuleList(GraphConv(features, features) for _ in ratios)

    def forward(self, graph: Tensor, nodes: Tensor) -> Tensor:
        """Features of all nodes."""
        first = nodes
        graph = graph.expand(len(nodes), -1, -1)
        levels = []
        for conv, pool in zip(self.down, self.pools, strict=True):
            nodes = conv(graph, nodes)
            fewer, chosen, kept = pool(graph, nodes)
            levels.append((graph, nodes, kept))
            graph, nodes = fewer, chosen
        nodes = self.bottom(graph, nodes)
        for conv, (graph, skip, kept) in zip(self.up, levels[::-1], strict=True):
            spread = torch.zeros_like(skip, dtype=nodes.dtype)
            places = kept[..., None].expand(-1, -1, skip.shape[2])
            nodes = conv(graph, spread.scatter(1, places, nodes)) + skip
        return nodes + first
