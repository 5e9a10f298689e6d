"""Edges: of labels, of images, what they cost, and that they are learned."""

from itertools import product

import pytest
import torch
from torch import nn

from medseg3d.networks import build_network
from medseg3d.networks.dense.saunet import differences, edge_loss, label_edges
from tests.networks.rows import ROWS


def test_edges_are_voxels_beside_another_label() -> None:
    labels = torch.randint(0, 3, (2, 1, 4, 5, 3), generator=torch.Generator().manual_seed(0))
    found = label_edges(labels)
    steps = [step for step in product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
    for case, *voxel in product(range(2), range(4), range(5), range(3)):
        beside = [tuple(a + b for a, b in zip(voxel, step, strict=True)) for step in steps]
        inside = [
            each for each in beside if all(0 <= a < n for a, n in zip(each, (4, 5, 3), strict=True))
        ]
        own = labels[case, 0][tuple(voxel)]
        differ = any(labels[case, 0][each] != own for each in inside)
        assert found[case, 0][tuple(voxel)] == differ
    assert not label_edges(torch.ones(1, 1, 1, 1, 4)).any()


def test_differences_of_an_image_are_added_over_axes_and_averaged_over_channels() -> None:
    image = torch.tensor([[[[1.0, 4.0], [3.0, 3.0]], [[0.0, 0.0], [0.0, 8.0]]]])
    # first channel |down| + |right|: 2+3, 1+0 / 0+0, 0; second: 0, 8 / 8, 0
    assert differences(image).tolist() == [[[[2.5, 4.5], [4.0, 0.0]]]]


def test_edges_and_the_rest_weigh_the_same() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0, -1.0]).reshape(1, 1, 4)
    edges = torch.tensor([True, False, False, False]).reshape(1, 1, 4)
    of_edge = torch.log(torch.tensor(2.0))
    of_rest = torch.stack([each.exp().log1p() for each in (logits[0, 0, 1:])]).mean()
    found = edge_loss(logits, edges, torch.ones_like(edges))
    torch.testing.assert_close(found, (of_edge + of_rest) / 2)


@pytest.mark.parametrize(("edges", "known"), [(True, True), (False, True), (False, False)])
def test_a_patch_of_nothing_but_edges_or_none_costs_a_finite_loss(edges: bool, known: bool) -> None:
    logits = torch.full((1, 1, 4), 3.0, requires_grad=True)
    loss = edge_loss(logits, torch.full((1, 1, 4), edges), torch.full((1, 1, 4), known))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_the_objective_adds_the_edges_to_the_loss_that_was_chosen() -> None:
    torch.manual_seed(0)
    network = build_network("saunet", 1, 3, options=ROWS["saunet"].options).train()
    image = torch.randn(1, 1, 16, 16, 16)
    labels = torch.randint(0, 3, (1, 1, 16, 16, 16))

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, labels[:, 0])

    of_labels = loss(network(image), labels)
    whole = network.objective(loss, image, labels)
    edges = network._both(image)[1]
    borders, known = label_edges(labels), torch.ones_like(labels, dtype=torch.bool)
    torch.testing.assert_close(whole - of_labels, edge_loss(edges, borders, known))
    optimizer = torch.optim.SGD(network.shape.parameters(), 0.01)
    (whole - of_labels).backward()
    optimizer.step()
    assert edge_loss(network._both(image)[1], borders, known) < whole - of_labels


def test_what_nobody_annotated_has_no_edges_and_no_say_in_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network("saunet", 1, 3, options=ROWS["saunet"].options)
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    labels[:, :, 2:6, 2:6, 2:6] = 1
    logits, edges = torch.zeros(1, 3, 8, 8, 8), torch.randn(1, 1, 8, 8, 8, requires_grad=True)
    monkeypatch.setattr(network, "_both", lambda _: (logits, edges))

    def objective(labels: torch.Tensor) -> torch.Tensor:
        return network.objective(lambda *_: torch.zeros(()), logits, labels)

    half = labels.clone()
    half[:, :, 4:] = 3
    found = objective(half)
    found.backward()
    assert not edges.grad[:, :, 4:].any()
    assert edges.grad[:, :, :4].all()
    edges = edges.detach()[:, :, :4]
    torch.testing.assert_close(found, objective(labels[:, :, :4]))
