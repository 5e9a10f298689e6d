"""The loss against probabilities: that of labels where these are sure."""

import pytest
import torch

from medseg3d.losses import LOSSES
from medseg3d.losses.soft_labels import soft_dice_ce
from medseg3d.losses.voxels import softmax_and_one_hot


def case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 3, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 3, (2, 1, 4, 5, 3), generator=generator)


def test_of_sure_labels_it_is_their_loss() -> None:
    logits, labels = case()
    _, one_hot = softmax_and_one_hot(logits, labels, None)
    expected = LOSSES.build("cross_entropy")(logits, labels) + LOSSES.build("dice")(logits, labels)
    assert float(soft_dice_ce(logits, one_hot, labels)) == pytest.approx(float(expected))


def test_voxels_that_nobody_annotated_count_for_nothing() -> None:
    logits, labels = case()
    labels[:, :, 2:] = 3
    believed = torch.rand(2, 3, 4, 5, 3, dtype=torch.float64).softmax(1)
    found = soft_dice_ce(logits, believed, labels, ignore_index=3)
    near = (each[:, :, :2] for each in (logits, believed, labels))
    assert float(found) == pytest.approx(float(soft_dice_ce(*near)))


def test_its_cross_entropy_is_least_where_the_belief_is() -> None:
    believed = torch.tensor([[0.2, 0.5, 0.3]]).reshape(1, 3, 1, 1, 1)
    labels = torch.zeros(1, 1, 1, 1, 1, dtype=torch.long)
    logits = torch.zeros(1, 3, 1, 1, 1, requires_grad=True)
    # by hand: log 3 + mean over labels 1, 2 of 1 - 2 * 1/3 * p / (1/3 + p)
    expected = 1.098612 + 1 - (1 / 3 / (5 / 6) + 0.2 / (19 / 30)) / 2
    assert float(soft_dice_ce(logits.detach(), believed, labels)) == pytest.approx(expected, 1e-4)
    soft_dice_ce(logits, believed, labels).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] < 0
