"""What is learned about whole images: known presence, given classes, images without a mask."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from medseg3d.losses.building import build_loss
from medseg3d.losses.pooling import pool_over_processes
from medseg3d.networks.blocks.classes import (
    annotated_loss,
    averaged,
    class_loss,
    presence,
    presence_loss,
)
from medseg3d.training.team import Team
from tests.api.processes import begin

LABELS = 4
UNKNOWN = LABELS
voxels = st.lists(st.integers(0, UNKNOWN), min_size=1, max_size=6)


@given(first=voxels, second=voxels)
def test_presence_is_what_every_completion_of_the_labels_agrees_on(
    first: list[int], second: list[int]
) -> None:
    size = min(len(first), len(second))
    labels = torch.tensor([first[:size], second[:size]])[:, None]
    shown, known = presence(labels, LABELS)
    for case in range(2):
        row = labels[case, 0].tolist()
        for place, label in enumerate(range(1, LABELS)):
            certain, possible = label in row, label in row or UNKNOWN in row
            assert known[case, place] == (certain == possible)
            if known[case, place]:
                assert shown[case, place] == certain


def test_what_is_not_known_costs_nothing() -> None:
    labels = torch.tensor([[[0, 1, UNKNOWN]], [[0, 2, 0]]], dtype=torch.uint8)
    logits = torch.tensor([[0.5, 9.0, -9.0], [1.0, -2.0, 0.0]], requires_grad=True)
    loss = presence_loss(logits, labels)
    # known are: label 1 of the first; of the second that 1 and 3 are absent, 2 is there
    costs = [(-0.5, 1), (1.0, 1), (2.0, 1), (0.0, 1)]
    expected = sum(torch.tensor(value).exp().log1p() for value, _ in costs) / len(costs)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (logits.grad == 0).tolist() == [[False, True, True], [False, False, False]]


def test_nothing_known_costs_nothing() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = presence_loss(logits, torch.full((2, 1, 2, 2), UNKNOWN))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_a_class_that_is_given_stands_above_the_labels() -> None:
    logits, classes = torch.randn(3, 5).bfloat16(), torch.tensor([4, 0, 2])
    labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    found = class_loss(logits, labels, classes)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, functional.cross_entropy(logits.float(), classes))
    of_labels = class_loss(logits[:, :3], labels, None)
    torch.testing.assert_close(of_labels, presence_loss(logits[:, :3], labels))


def summed(logits: Tensor, labels: Tensor) -> Tensor:
    """A loss that would notice any image too many."""
    assert len(logits) == len(labels)
    return (logits[:, 0] * (labels[:, 0] + 1)).sum() / len(logits)


@pytest.mark.parametrize("known", [(True, True), (True, False), (False, True)])
def test_images_without_a_mask_are_left_out_of_the_mean(known: tuple[bool, ...]) -> None:
    logits, labels = torch.randn(2, LABELS, 3, 3), torch.randint(0, LABELS, (2, 1, 3, 3))
    labels[:, :, 0, 0] = UNKNOWN  # one voxel that nobody annotated leaves the image in
    for case, is_known in enumerate(known):
        if not is_known:
            labels[case] = UNKNOWN
    kept = torch.tensor(known)
    assert annotated_loss(summed, logits, labels) == summed(logits[kept], labels[kept])


def test_a_batch_without_any_mask_costs_nothing_but_reaches_every_logit() -> None:
    logits = torch.randn(2, LABELS, 3, requires_grad=True)
    loss = annotated_loss(summed, logits, torch.full((2, 1, 3), UNKNOWN))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def half_of_a_batch() -> None:
    """The first of two processes has images with a mask, the second has none."""
    torch.manual_seed(0)
    logits = torch.randn(2, LABELS, 4, 4, requires_grad=True)
    labels = torch.randint(0, LABELS, (2, 1, 4, 4))
    loss = build_loss("dice_ce", ignore_index=UNKNOWN)
    [expected] = torch.autograd.grad(loss(logits, labels), logits)
    team = Team.join()
    pool_over_processes(loss)
    if not team.leads:
        labels = torch.full_like(labels, UNKNOWN)
    value = annotated_loss(loss, logits, labels)
    [gradient] = torch.autograd.grad(value, logits)
    assert value > 0, "that of all patches"
    assert team.agreed(7.0 if team.leads else 0.0) == 7, "all are at the same place"
    if team.leads:  # the gradient of a pooled loss is that of the sum over the processes
        torch.testing.assert_close(gradient, 2 * expected)
    else:
        assert not gradient.any()


def test_a_process_without_any_mask_pools_with_those_that_have_some(tmp_path: Path) -> None:
    ranks = begin(2, half_of_a_batch, tmp_path)
    assert ranks.wait(120) == [0, 0], ranks.texts()


@pytest.mark.parametrize("size", [(2, 2), (2, 2, 2)])
def test_parts_are_averaged(size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *(2 * edge for edge in size))
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[len(size)]
    torch.testing.assert_close(averaged(x, size), pool(x, 2))
