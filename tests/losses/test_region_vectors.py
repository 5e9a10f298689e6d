"""Losses of regions and voxels: four voxels worked out by hand, MONAI, and identities."""

import inspect

import pytest
import torch
from monai.losses import FocalLoss, GeneralizedDiceLoss, TverskyLoss
from torch import Tensor

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES

P_FOREGROUND = torch.tensor([0.9, 0.6, 0.3, 0.2], dtype=torch.float64)
LOGITS = torch.stack([1 - P_FOREGROUND, P_FOREGROUND]).log()[None, :, None]  # (1, 2, 1, 4)
TARGET = torch.tensor([1, 1, 1, 0])[None, None, None]
BOTH = {"include_background": True}
EXACT = {"include_background": True, "smooth": 0.0}
FOREGROUND = {"include_background": False, "smooth": 0.0}


def value(name: str, **options) -> float:
    return float(LOSSES.build(name, **options)(LOGITS, TARGET))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cross_entropy", {"weight": [0.25, 0.75]}, 0.568362),
        ("cross_entropy", {"weight": [0.25, 0.75], "normalize": "count"}, 0.355226),
        ("top_k", {"percent": 25}, 1.203973),
        ("top_k", {"percent": 50}, 0.857399),
        ("top_k", {"percent": 1}, 1.203973),
        ("focal", {"gamma": 1.0}, 0.275569),
        ("focal", {"gamma": 2.0}, 0.170415),
        ("focal", {"gamma": 0.0}, 0.510826),
        ("iou", EXACT, 0.536932),
        ("iou", FOREGROUND, 0.437500),
        ("tversky", {"alpha": 0.3, "beta": 0.7, **EXACT}, 0.358974),
        ("tversky", {"alpha": 0.3, "beta": 0.7, **FOREGROUND}, 0.333333),
        ("focal_tversky", EXACT, 0.463542),
        ("focal_tversky", FOREGROUND, 0.438691),
        ("asymmetric_similarity", {"beta": 1.5, **EXACT}, 0.359832),
        ("asymmetric_similarity", {"beta": 1.5, **FOREGROUND}, 0.331429),
        ("generalized_dice", {"weighting": "square", **EXACT}, 0.437500),
        ("generalized_dice", {"weighting": "simple", **EXACT}, 0.400000),
        ("generalized_dice", {"weighting": "uniform", **EXACT}, 0.350000),
        ("penalty_dice", {"k": 2.5, **EXACT}, 0.731343),
        ("sensitivity_specificity", {"sensitivity_weight": 0.1, **EXACT}, 0.130000),
        ("sensitivity_specificity", {"sensitivity_weight": 0.1, **FOREGROUND}, 0.058000),
        ("lovasz", BOTH, 0.445833),
        ("lovasz", {}, 0.408333),
    ],
)
def test_four_voxels_give_the_published_values(name: str, options, expected: float) -> None:
    assert value(name, **options) == pytest.approx(expected, abs=1e-6)


def random_pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 4, 6, 5, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 4, (3, 1, 6, 5, 4), generator=generator)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
def test_tversky_agrees_with_monai(batch: bool, include_background: bool) -> None:
    options = {"alpha": 0.2, "beta": 0.9, "batch": batch, "include_background": include_background}
    theirs = TverskyLoss(to_onehot_y=True, softmax=True, **options)
    ours = LOSSES.build("tversky", **options)
    torch.testing.assert_close(ours(*random_pair()), theirs(*random_pair()))


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
@pytest.mark.parametrize("batch", [False, True])
def test_generalized_dice_agrees_with_monai(weighting: str, batch: bool) -> None:
    logits, target = random_pair()
    target[target == 3] = 2  # an absent label
    theirs = GeneralizedDiceLoss(
        to_onehot_y=True, softmax=True, w_type=weighting, batch=batch, smooth_nr=0, smooth_dr=0
    )
    ours = LOSSES.build("generalized_dice", weighting=weighting, batch=batch, **EXACT)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))


def test_focal_is_that_of_monai_times_the_number_of_labels() -> None:
    logits, target = random_pair()
    theirs = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)(logits, target)
    torch.testing.assert_close(LOSSES.build("focal")(logits, target).float(), 4 * theirs)


def test_one_alpha_weighs_structures_and_leaves_the_rest_to_the_background() -> None:
    logits, target = random_pair()
    pair = LOSSES.build("focal", alpha=0.75)(logits, target)
    spelled = LOSSES.build("focal", alpha=[0.25, 0.75, 0.75, 0.75])(logits, target)
    torch.testing.assert_close(pair, spelled)
    assert value("focal", alpha=0.75) == pytest.approx(2 * 0.063348, abs=2e-6)


def test_kin_are_what_they_say() -> None:
    pair = random_pair()
    build = LOSSES.build

    def same(first, second) -> None:
        torch.testing.assert_close(first(*pair), second(*pair))

    same(build("tversky", alpha=0.5, beta=0.5, smooth=0.0), build("dice", smooth=0.0))
    same(build("tversky", alpha=1.0, beta=1.0), build("iou"))
    same(build("focal_tversky", gamma=1.0), build("tversky"))
    same(build("asymmetric_similarity", beta=1.0, smooth=0.0), build("dice", smooth=0.0))
    same(build("penalty_dice", k=0.0), build("generalized_dice"))
    same(build("top_k", percent=100.0), build("cross_entropy"))
    dice = 1 - build("generalized_dice", **EXACT)(*pair)
    torch.testing.assert_close(
        build("penalty_dice", k=2.5, **EXACT)(*pair), 1 - dice / (1 + 2.5 * (1 - dice))
    )


def test_an_absent_label_does_not_spoil_a_generalized_dice() -> None:
    target = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    target[..., :2] = 1
    logits = 20.0 * (2.0 * (target == torch.arange(3).view(1, 3, 1, 1)) - 1.0)
    assert LOSSES.build("generalized_dice")(logits, target).item() < 1e-4
    assert LOSSES.build("penalty_dice")(logits, target).item() < 1e-4


def test_skipped_labels_cost_nothing_and_do_not_thin_the_mean() -> None:
    logits, target = random_pair()
    target[target == 3] = 2
    skipped = LOSSES.build("dice", empty="skip", batch=True)(logits, target)
    every = LOSSES.build("dice", batch=True)(logits, target)  # of labels 1, 2 and 3, which costs 1
    torch.testing.assert_close(skipped, (3 * every - 1) / 2, atol=1e-6, rtol=0)


WITH_EMPTY = [name for name in LOSSES if "empty" in inspect.signature(LOSSES[name]).parameters]


def test_losses_that_can_skip_labels() -> None:
    kin = {"tversky", "asymmetric_similarity", "sensitivity_specificity"}
    assert {"dice", "iou"} | kin == set(WITH_EMPTY)


@pytest.mark.parametrize("name", WITH_EMPTY)
def test_a_batch_of_unlike_labels_is_the_mean_of_its_cases(name: str) -> None:
    logits, target = random_pair()
    target[0][target[0] == 3] = 2
    target[1] = 0
    loss = LOSSES.build(name, empty="skip")
    alone = [loss(logits[n : n + 1], target[n : n + 1]) for n in range(3)]
    assert alone[1] == 0
    torch.testing.assert_close(loss(logits, target), torch.stack(alone).mean())


def test_a_skipped_label_of_one_case_by_hand() -> None:
    logits = torch.zeros(2, 3, 4)  # one third everywhere
    target = torch.tensor([[[1, 1, 2, 0]], [[1, 0, 0, 0]]])
    # label 1: 1 - (4/3) / (4/3 + 2) = .6 and 1 - (2/3) / (4/3 + 1) = 5/7; label 2: 5/7
    loss = LOSSES.build("dice", empty="skip", smooth=0.0)(logits, target)
    assert float(loss) == pytest.approx(((0.6 + 5 / 7) / 2 + 5 / 7) / 2, abs=1e-6)


def test_top_k_ranks_only_voxels_that_count() -> None:
    logits, target = LOGITS.clone(), TARGET.clone()
    target[..., 2] = 9  # the worst
    loss = LOSSES.build("top_k", percent=34, ignore_index=9)
    assert float(loss(logits, target)) == pytest.approx((0.510826 + 0.223144) / 2, abs=1e-6)


def test_top_k_leaves_out_cases_that_nobody_annotated() -> None:
    logits, target = torch.cat([LOGITS] * 2), torch.cat([TARGET, torch.full_like(TARGET, 9)])
    for batch in (False, True):
        loss = LOSSES.build("top_k", percent=50, ignore_index=9, batch=batch)
        assert float(loss(logits, target)) == pytest.approx(0.857399, abs=1e-6)


def test_lovasz_charges_an_absent_label_its_largest_probability() -> None:
    target = torch.zeros_like(TARGET)
    assert float(LOSSES.build("lovasz")(LOGITS, target)) == 0.0
    every = LOSSES.build("lovasz", labels="all")
    assert float(every(LOGITS, target)) == pytest.approx(0.9, abs=1e-9)


def test_exponential_logarithmic_by_hand() -> None:
    dice = torch.tensor([8 / 15, 0.72], dtype=torch.float64)  # V1: costs .466667 and .28
    entropy = -torch.tensor([0.9, 0.6, 0.3, 0.8], dtype=torch.float64).log()
    root = torch.tensor([4 / 3, 4 / 3, 4 / 3, 4.0], dtype=torch.float64).sqrt()
    expected = 0.8 * (-dice.log()).pow(0.3).mean() + 0.2 * (root * entropy.pow(0.3)).mean()
    found = value("exponential_logarithmic", **EXACT)
    assert found == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cross_entropy", {"weight": [1.0, 1.0, 1.0]}, "3 values; expected 2, one per label"),
        ("cross_entropy", {"weight": [0.0, 0.0]}, "not all 0"),
        ("cross_entropy", {"normalize": "sum"}, "weights or count, got 'sum'"),
        ("top_k", {"percent": 0}, r"\(0, 100\], got 0"),
        ("focal", {"gamma": -1}, "gamma must be at least 0"),
        ("focal", {"alpha": 1.5}, r"\[0, 1\], got 1.5"),
        ("focal", {"alpha": [1.0]}, "1 values; expected 2"),
        ("tversky", {"alpha": -0.1}, "weights must be at least 0"),
        ("focal_tversky", {"gamma": 0.5}, r"gamma must lie in \[1, 3\], got 0.5"),
        ("asymmetric_similarity", {"beta": 0.0}, "beta must be above 0"),
        ("generalized_dice", {"weighting": "cube"}, "square, simple, uniform, got 'cube'"),
        ("penalty_dice", {"k": -1.0}, "k must be at least 0"),
        ("sensitivity_specificity", {"sensitivity_weight": 2}, r"\[0, 1\], got 2"),
        ("lovasz", {"labels": "some"}, "present or all, got 'some'"),
        ("dice", {"empty": "drop"}, "smooth or skip, got 'drop'"),
        ("exponential_logarithmic", {"gamma": 0.0}, "gamma must be above 0"),
        ("cldice", {"iterations": 0}, "iterations must be at least 1"),
        ("cldice", {"dice_weight": 2.0}, r"dice_weight must lie in \[0, 1\]"),
    ],
)
def test_options_without_meaning_are_refused(name: str, options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        value(name, **options)
