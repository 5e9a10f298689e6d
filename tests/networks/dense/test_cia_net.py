"""CIA-Net: contours of labels, what they cost, and what the objective is made of."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.networks import build_network
from medseg3d.networks.dense.cia_net import contour_loss
from medseg3d.networks.dense.saunet import label_edges
from tests.networks.rows import ROWS

LABELS = 3


def test_voxels_that_nobody_annotated_make_no_contour() -> None:
    labels = torch.tensor([[[0, 0, 3, 3, 1, 2, 2]]], dtype=torch.uint8)
    assert label_edges(labels, unknown=3).flatten().tolist() == [0, 0, 0, 0, 1, 1, 0]
    assert label_edges(labels).flatten().tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_contours_cost_their_dice() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0]).reshape(1, 1, 4)
    edges = torch.tensor([True, True, False, False]).reshape(1, 1, 4)
    known = torch.tensor([True, True, True, False]).reshape(1, 1, 4)
    p = logits.sigmoid().flatten()
    expected = 1 - (2 * (p[0] + p[1]) + 1) / (p[0] + p[1] + p[2] + 2 + 1)
    torch.testing.assert_close(contour_loss(logits, edges, known), expected)


def test_a_thin_contour_survives_coarse_logits() -> None:
    edges = torch.zeros(2, 1, 8, 6, dtype=torch.bool)
    edges[0, 0, 3, 4] = True
    known = torch.ones_like(edges)
    sure = torch.full((2, 1, 4, 3), -30.0)
    sure[0, 0, 1, 2] = 30.0  # the coarse voxel of that fine one
    torch.testing.assert_close(contour_loss(sure, edges, known), torch.tensor(0.0))
    assert contour_loss(-sure, edges, known) > 0.8


def test_a_contour_at_the_end_of_a_padded_patch_is_in_the_last_coarse_voxel() -> None:
    edges = torch.zeros(1, 1, 6, 4, dtype=torch.bool)
    edges[0, 0, 3, 0] = True
    known = torch.ones_like(edges)
    sure = torch.full((1, 1, 2, 1), -30.0)
    sure[0, 0, 0, 0] = 30.0  # holds the first four of six voxels; an even half, three
    torch.testing.assert_close(contour_loss(sure, edges, known, (4, 4)), torch.tensor(0.0))
    assert contour_loss(sure, edges, known) > 0.5


def test_the_objective_adds_the_contours_of_all_stages() -> None:
    torch.manual_seed(0)
    network = build_network("cia_net", 1, LABELS, options=ROWS["cia_net"].options).train()
    size = (16, 16, 12)
    image, labels = torch.randn(2, 1, *size), torch.zeros(2, 1, *size, dtype=torch.uint8)
    labels[:, :, 4:9, 3:9, 2:8] = 1
    labels[1] = LABELS  # nobody annotated the second

    class CrossEntropy(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(logits, labels[:, 0].long(), ignore_index=LABELS)

    loss = DeepSupervision(CrossEntropy())
    regions, contours = network._both(image)
    assert [tuple(each.shape[2:]) for each in regions] == [size, (4, 4, 3)]
    assert [tuple(each.shape[2:]) for each in contours] == [size, (4, 4, 3)]
    edges, known = label_edges(labels, LABELS), labels != LABELS
    fine, coarse = (contour_loss(each, edges, known) for each in contours)
    expected = loss(regions, labels) + (2 * fine + coarse) / 3
    torch.testing.assert_close(network.objective(loss, image, labels), expected)
    torch.testing.assert_close(network.eval()(image), regions[0])


def test_contours_are_learned() -> None:
    torch.manual_seed(0)
    network = build_network("cia_net", 1, 2, options=ROWS["cia_net"].options).train()
    labels = torch.zeros(1, 1, 16, 16, 16, dtype=torch.uint8)
    labels[:, :, 5:11, 4:12, 4:12] = 1
    image = labels + 0.1 * torch.randn(labels.shape)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    costs = []
    for _ in range(30):
        optimizer.zero_grad()
        cost = network.objective(lambda logits, _: 0 * logits[0].sum(), image, labels)
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.7 * costs[0]
