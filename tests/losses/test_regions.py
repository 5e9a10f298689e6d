"""Dice and binary cross entropy of regions, against hand-worked values and plain formulas."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from medseg3d.errors import ConfigError, DataError
from medseg3d.losses import LOSSES
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.losses.regions import RegionDiceCE, build_region_loss

TUMOR = ((1, 2, 3), (2, 3), (3,))


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 3, 4, 5, generator=generator)
    return logits, torch.randint(0, 4, (2, 1, 3, 4, 5), generator=generator)


def test_a_value_worked_by_hand() -> None:
    """Two voxels; probabilities .2 .3 .5 of labels 1 and 0, regions {1, 2} and {2}."""
    probabilities = torch.tensor([[0.5, 0.1], [0.3, 0.1], [0.2, 0.8]])[None]  # (1, 3, 2)
    target = torch.tensor([[[0, 1]]])
    loss = RegionDiceCE(((1, 2), (2,)), smooth=0.0)
    # whole: p 0.5, 0.9, g 0, 1; inner: p 0.2, 0.8, g 0, 0
    dice = (1 - 2 * 0.9 / (1.4 + 1)) / 2 + (1 - 0) / 2
    entropy = -(log(0.5) + log(0.9) + log(0.8) + log(0.2)) / 4
    assert loss(probabilities.log(), target).item() == pytest.approx(dice + entropy, abs=1e-6)
    for weights in ((0.0, 2.0), (3.0, 0.0)):
        own = RegionDiceCE(
            ((1, 2), (2,)), smooth=0.0, dice_weight=weights[0], cross_entropy_weight=weights[1]
        )
        expected = weights[0] * dice + weights[1] * entropy
        assert own(probabilities.log(), target).item() == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 99))
def test_the_sigmoid_of_a_region_is_the_sum_of_its_softmax(seed: int) -> None:
    logits, _ = pair(seed)
    found = RegionDiceCE(TUMOR).region_logits(logits).sigmoid()
    softmax = logits.softmax(dim=1)
    expected = torch.stack([softmax[:, list(region)].sum(dim=1) for region in TUMOR], dim=1)
    torch.testing.assert_close(found, expected)
    assert (found[:, 0] >= found[:, 1] - 1e-6).all(), "nested regions are nested"
    assert (found[:, 1] >= found[:, 2] - 1e-6).all()


@pytest.mark.parametrize("batch", [True, False])
def test_one_label_and_one_region_are_dice_and_cross_entropy(batch: bool) -> None:
    """With two labels, softmax and sigmoid are the same."""
    logits, target = pair()
    logits, target = logits[:, :2], target.clamp_max(1)
    expected = LOSSES.build("dice", batch=batch)(logits, target)
    expected = expected + functional.cross_entropy(logits, target[:, 0])
    torch.testing.assert_close(RegionDiceCE([[1]], batch=batch)(logits, target), expected)


def test_ignored_voxels_have_no_say() -> None:
    logits, target = pair()
    target[:, :, 1] = 4
    other = logits.clone()
    other[:, :, 1] *= 50
    loss = RegionDiceCE(TUMOR, ignore_index=4)
    torch.testing.assert_close(loss(other, target), loss(logits, target))
    rest = [0, 2]
    torch.testing.assert_close(
        loss(logits, target), RegionDiceCE(TUMOR)(logits[:, :, rest], target[:, :, rest])
    )
    labels = target.clamp_max(3)  # of which the last is ignored now, though it is in regions
    again = RegionDiceCE(TUMOR, ignore_index=3)
    torch.testing.assert_close(again(logits, labels), loss(logits, labels + (labels == 3)))
    nothing = loss(logits.requires_grad_(), torch.full_like(target, 4))
    nothing.backward()
    assert nothing.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("height", [100.0, -100.0])
def test_steep_logits_have_finite_gradients(height: float) -> None:
    _, target = pair()
    one_hot = (target == torch.arange(4).view(1, 4, 1, 1, 1)).float()
    logits = (height * (2 * one_hot - 1)).requires_grad_()
    loss = RegionDiceCE(TUMOR)(logits, target)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if height > 0:
        assert loss.item() == pytest.approx(0, abs=1e-3)
    else:
        assert loss.item() > 10


def test_half_precision_is_computed_in_single() -> None:
    logits, target = pair()
    found = RegionDiceCE(TUMOR)(logits.bfloat16(), target.to(torch.uint8))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, RegionDiceCE(TUMOR)(logits.bfloat16().float(), target))


def test_it_learns_regions_through_deep_supervision() -> None:
    torch.manual_seed(0)
    _, target = pair()
    fine, coarse = torch.zeros(2, 4, 3, 4, 5), torch.zeros(2, 4, 2, 2, 3)
    levels = [fine.requires_grad_(), coarse.requires_grad_()]
    optimizer = torch.optim.Adam(levels, lr=0.5)
    loss = DeepSupervision(RegionDiceCE(TUMOR))
    for _ in range(60):
        optimizer.zero_grad()
        loss(levels, target).backward()
        optimizer.step()
    assert torch.equal(fine.argmax(dim=1, keepdim=True), target), "regions tell labels apart"


def test_what_cannot_be_built_is_said() -> None:
    assert isinstance(build_region_loss("dice_ce", {"smooth": 0.1}, TUMOR), RegionDiceCE)
    with pytest.raises(ConfigError, match="'focal' has no form for regions; leave it out"):
        build_region_loss("focal", {}, TUMOR)
    with pytest.raises(ConfigError, match=r"has the options batch, .*, got gamma"):
        build_region_loss("dice_ce", {"gamma": 2}, TUMOR)
    with pytest.raises(DataError, match="expected a target of shape"):
        RegionDiceCE(TUMOR)(torch.zeros(1, 4, 3, 3, 3), torch.zeros(1, 1, 3, 3, 4).long())
