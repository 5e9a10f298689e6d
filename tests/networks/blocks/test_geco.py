"""The weight of a reconstruction step by step, and which voxels are hard."""

import math

import pytest
import torch

from medseg3d.networks.blocks.geco import WEIGHTS, Geco, hard_voxels


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, requires_grad=True)


def test_the_first_calls_by_hand() -> None:
    geco = Geco(limit=0.5, decay=0.9, rate=0.1)
    first, rest = scalar(2.0), scalar(7.0)
    loss = geco(first, rest)
    assert loss.item() == pytest.approx(1 * (2.0 - 0.5) + 7.0)
    loss.backward()
    assert first.grad == 1
    assert rest.grad == 1
    weight = math.exp(0.1 * (2.0 - 0.5))
    assert geco.weight.item() == pytest.approx(weight)
    second = scalar(1.0)
    loss = geco(second, scalar(0.0))
    assert loss.item() == pytest.approx(weight * (1.5 - 0.5))  # the mean of 2 and 1
    loss.backward()
    assert second.grad is not None
    assert second.grad.item() == pytest.approx(weight)
    assert geco.weight.item() == pytest.approx(weight * math.exp(0.1 * (1.5 - 0.5)))


def test_the_average_is_even_at_first_and_then_a_moving_one() -> None:
    geco = Geco(limit=0.0, decay=0.75, rate=0.0)
    values = [4.0, 0.0, 8.0, 2.0, 6.0, 1.0]
    average = 0.0
    for number, value in enumerate(values, start=1):
        share = max(1 / number, 0.25)
        average += share * (value - average)
        assert geco(scalar(value), scalar(0.0)).item() == pytest.approx(average)
    assert geco.weight == 1


@pytest.mark.parametrize(("value", "end"), [(1e3, WEIGHTS[1]), (-1e3, WEIGHTS[0])])
def test_the_weight_stays_in_its_bounds(value: float, end: float) -> None:
    geco = Geco()
    for _ in range(3):
        assert geco(scalar(value), scalar(0.0)).isfinite()
    assert geco.weight.item() == pytest.approx(end)


def test_what_it_learned_is_part_of_the_state() -> None:
    geco, twin = Geco(), Geco()
    for value in (3.0, 2.0, 1.0):
        geco(scalar(value), scalar(0.0))
    twin.load_state_dict(geco.state_dict())
    assert twin(scalar(0.5), scalar(0.2)) == geco(scalar(0.5), scalar(0.2))
    assert not list(geco.parameters())


def logits_of(losses: list[float]) -> torch.Tensor:
    """Logits of two labels for which label 0 costs these."""
    values = torch.tensor(losses, dtype=torch.float64).expm1().log()
    return torch.stack([torch.zeros_like(values), values])[None]


def test_all_voxels_together_are_the_mean_cross_entropy() -> None:
    logits, labels = logits_of([0.5, 1.0, 3.0]), torch.zeros(1, 1, 3, dtype=torch.uint8)
    found, number = hard_voxels(logits, labels, 1.0)
    assert number == 3
    assert found.item() == pytest.approx(1.5)


def test_voxels_are_chosen_as_often_as_they_are_bad() -> None:
    torch.manual_seed(0)
    logits, labels = logits_of([0.5, 1.5, 2.0]), torch.zeros(1, 1, 3, dtype=torch.int64)
    drawn = [hard_voxels(logits, labels, 0.3)[0].item() for _ in range(2000)]
    for loss in (0.5, 1.5, 2.0):
        often = sum(abs(each - loss) < 1e-6 for each in drawn) / len(drawn)
        assert often == pytest.approx(loss / 4, abs=0.04)


def test_gradients_reach_the_chosen_voxels_only() -> None:
    torch.manual_seed(0)
    logits = logits_of([1e-6] * 9 + [5.0]).requires_grad_()
    labels = torch.zeros(1, 1, 10, dtype=torch.int64)
    found, number = hard_voxels(logits, labels, 0.1)
    assert (number, found.item()) == (1, pytest.approx(5.0))
    found.backward()
    assert logits.grad is not None
    assert logits.grad[0, :, 9].abs().min() > 0.5
    assert not logits.grad[0, :, :9].any()


def test_voxels_that_nobody_knows_do_not_count() -> None:
    torch.manual_seed(0)
    logits = logits_of([0.7, 9.0, 9.0, 9.0])
    labels = torch.tensor([[[0, 2, 2, 2]]])
    assert hard_voxels(logits, labels, 1.0)[1] == 1
    assert hard_voxels(logits, labels, 0.5)[0].item() == pytest.approx(0.7)
    nothing, number = hard_voxels(logits.requires_grad_(), torch.full_like(labels, 2), 0.5)
    nothing.backward()
    assert (nothing, number) == (0, 1)
