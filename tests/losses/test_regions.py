"""Losses of regions, against hand-worked values, plain formulas and the loss of each by itself."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from medseg3d.errors import ConfigError, DataError
from medseg3d.losses import LOSSES
from medseg3d.losses.building import WeightedSum, build_loss
from medseg3d.losses.case_maps import CutMaps, make_maps, mapped_parts, mirrored_maps
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.losses.regions import OfRegion, build_region_loss

TUMOR = ((1, 2, 3), (2, 3), (3,))


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 3, 4, 5, generator=generator)
    return logits, torch.randint(0, 4, (2, 1, 3, 4, 5), generator=generator)


def test_a_value_worked_by_hand() -> None:
    """Two voxels; probabilities .2 .3 .5 of labels 1 and 0, regions {1, 2} and {2}."""
    probabilities = torch.tensor([[0.5, 0.1], [0.3, 0.1], [0.2, 0.8]])[None]  # (1, 3, 2)
    target = torch.tensor([[[0, 1]]])
    loss = build_region_loss("dice_ce", {"smooth": 0.0}, ((1, 2), (2,)))
    # whole: p 0.5, 0.9, g 0, 1; inner: p 0.2, 0.8, g 0, 0
    dice = (1 - 2 * 0.9 / (1.4 + 1)) / 2 + (1 - 0) / 2
    entropy = -(log(0.5) + log(0.9) + log(0.8) + log(0.2)) / 4
    assert loss(probabilities.log(), target).item() == pytest.approx(dice + entropy, abs=1e-6)
    for weights in ((0.0, 2.0), (3.0, 0.0)):
        shares = {"dice_weight": weights[0], "cross_entropy_weight": weights[1]}
        own = build_region_loss("dice_ce", {"smooth": 0.0} | shares, ((1, 2), (2,)))
        expected = weights[0] * dice + weights[1] * entropy
        assert own(probabilities.log(), target).item() == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 99))
def test_the_sigmoid_of_a_region_is_the_sum_of_its_softmax(seed: int) -> None:
    logits, _ = pair(seed)
    of_each = [OfRegion(LOSSES.build("dice"), region) for region in TUMOR]
    found = torch.stack([each.two_logits(logits).softmax(dim=1)[:, 1] for each in of_each], dim=1)
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
    torch.testing.assert_close(
        build_region_loss("dice_ce", {"batch": batch}, [[1]])(logits, target), expected
    )


def test_ignored_voxels_have_no_say() -> None:
    logits, target = pair()
    target[:, :, 1] = 4
    other = logits.clone()
    other[:, :, 1] *= 50
    loss = build_region_loss("dice_ce", {}, TUMOR, ignore_index=4)
    torch.testing.assert_close(loss(other, target), loss(logits, target))
    rest = [0, 2]
    torch.testing.assert_close(
        loss(logits, target),
        build_region_loss("dice_ce", {}, TUMOR)(logits[:, :, rest], target[:, :, rest]),
    )
    labels = target.clamp_max(3)  # of which the last is ignored now, though it is in regions
    again = build_region_loss("dice_ce", {}, TUMOR, ignore_index=3)
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
    loss = build_region_loss("dice_ce", {}, TUMOR)(logits, target)
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
    found = build_region_loss("dice_ce", {}, TUMOR)(logits.bfloat16(), target.to(torch.uint8))
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, build_region_loss("dice_ce", {}, TUMOR)(logits.bfloat16().float(), target)
    )


def test_it_learns_regions_through_deep_supervision() -> None:
    torch.manual_seed(0)
    _, target = pair()
    fine, coarse = torch.zeros(2, 4, 3, 4, 5), torch.zeros(2, 4, 2, 2, 3)
    levels = [fine.requires_grad_(), coarse.requires_grad_()]
    optimizer = torch.optim.Adam(levels, lr=0.5)
    loss = DeepSupervision(build_region_loss("dice_ce", {}, TUMOR))
    for _ in range(60):
        optimizer.zero_grad()
        loss(levels, target).backward()
        optimizer.step()
    assert torch.equal(fine.argmax(dim=1, keepdim=True), target), "regions tell labels apart"


@pytest.mark.parametrize("ignored", [None, 4])
@pytest.mark.parametrize(
    "name",
    ["focal", "tversky", "dice+0.3*cldice", "dice_ce+0.1*boundary", "top_k", "border_weighted"],
)
def test_any_loss_is_the_mean_over_regions_of_that_of_two_labels(
    name: str, ignored: int | None
) -> None:
    logits, target = pair()
    if ignored is not None:
        target[:, :, 0] = ignored
    expected = []
    for region in TUMOR:
        odds = logits[:, list(region)].logsumexp(1) - logits[
            :, [label for label in range(4) if label not in region]
        ].logsumexp(1)
        inside = torch.isin(target, torch.tensor(region)).long()
        inside[target == 4] = 2
        loss = build_loss(name, ignore_index=None if ignored is None else 2)
        expected.append(loss(torch.stack([torch.zeros_like(odds), odds], dim=1), inside))
    found = build_region_loss(name, {}, TUMOR, ignore_index=ignored)(logits, target)
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_labels_are_weighed_by_what_lies_in_each_region() -> None:
    options = {"weight": "auto"}
    loss = build_region_loss("cross_entropy", options, TUMOR, label_counts=[60, 20, 15, 5])
    assert isinstance(loss, WeightedSum)
    for part, counts in zip(loss.losses, ((60, 40), (80, 20), (95, 5)), strict=True):
        expected = build_loss("cross_entropy", options, label_counts=counts)
        assert isinstance(part, OfRegion)
        assert part.loss.weight == expected.weight


def test_maps_of_whole_cases_are_those_of_the_regions() -> None:
    logits, target = pair()
    target[:, :, 0, 0] = 4
    loss = build_region_loss("dice_ce+boundary", {}, TUMOR, spacing=(1.0, 2.0, 0.5), ignore_index=4)
    maps = torch.stack([torch.from_numpy(make_maps(loss, case[0].numpy(), 4)) for case in target])
    assert maps.shape == (2, 6, 3, 4, 5), "outside and inside of three regions"
    assert maps.shape[1] == sum(part.num_maps(4) for part in mapped_parts(loss))
    assert loss(logits, target, CutMaps.of(maps)) == loss(logits, target)
    assert loss(logits, target, CutMaps.of(maps + 1)) != loss(logits, target)
    levels = [logits, logits[..., ::2]]
    supervised = DeepSupervision(loss)
    assert supervised(levels, target, CutMaps.of(maps)) == supervised(levels, target)
    kinds = {str(part.map_facts()) for part in mapped_parts(loss)}
    assert len(kinds) == 3, "each region has maps of its own in the cache"


def test_maps_stay_where_regions_have_both_sides() -> None:
    loss = build_region_loss("boundary", {}, [(1, 2), (1, 2, 3)])
    assert mirrored_maps(loss, (0, 2, 1, 3), 4) == [0, 1, 2, 3]
    one_side = build_region_loss("boundary", {}, [(1, 3)])
    with pytest.raises(ConfigError, match=r"labels \[1, 3\] becomes that of \[2, 3\] .* --mirror"):
        mirrored_maps(one_side, (0, 2, 1, 3), 4)


def test_the_finest_level_may_be_compared_otherwise() -> None:
    logits, target = pair()
    loss = build_region_loss("focal_tversky", {}, TUMOR)
    plain = build_loss("focal_tversky").finest
    assert isinstance(loss, WeightedSum)
    assert isinstance(plain, torch.nn.Module)
    assert loss.finest is not None
    expected = torch.stack([OfRegion(plain, region)(logits, target) for region in TUMOR]).mean()
    torch.testing.assert_close(loss.finest(logits, target), expected)
    assert loss(logits, target) != expected


def test_the_finest_level_takes_the_maps_of_the_others() -> None:
    logits, target = pair()
    levels = [logits, logits[..., ::2]]
    loss = build_region_loss("focal_tversky+0.1*boundary", {}, TUMOR[:2])
    supervised = DeepSupervision(loss, 1.0, finest_apart=True)
    maps = torch.stack(
        [torch.from_numpy(make_maps(supervised, case[0].numpy(), 4)) for case in target]
    )
    assert maps.shape[1] == 4, "outside and inside of two regions, once"
    found = supervised(levels, target, CutMaps.of(maps))
    assert found == supervised(levels, target)
    assert isinstance(loss, WeightedSum)
    assert loss.finest is not None
    coarse = DeepSupervision(loss)([levels[1]], target, CutMaps.of(maps))
    finest = loss.finest(logits, target, CutMaps.of(maps))
    torch.testing.assert_close(found, (finest + coarse) / 2)


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ConfigError, match="no option 'gamma'"):
        build_region_loss("dice_ce", {"gamma": 2}, TUMOR)
    with pytest.raises(ConfigError, match="has 4 values; expected 2"):  # outside and inside
        build_region_loss("cross_entropy", {"weight": [1, 1, 1, 1]}, TUMOR)
    with pytest.raises(DataError, match="expected a target of shape"):
        build_region_loss("dice_ce", {}, TUMOR)(
            torch.zeros(1, 4, 3, 3, 3), torch.zeros(1, 1, 3, 3, 4).long()
        )
