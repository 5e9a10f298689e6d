"""Dice, cross entropy and their sum: four voxels worked out by hand, and MONAI."""

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES

P_FOREGROUND = torch.tensor([0.9, 0.6, 0.3, 0.2], dtype=torch.float64)
LOGITS = torch.stack([1 - P_FOREGROUND, P_FOREGROUND]).log()[None, :, None]  # (1, 2, 1, 4)
TARGET = torch.tensor([1, 1, 1, 0])[None, None, None]
ALL = {"include_background": True, "smooth": 0.0}


def value(name: str, **options) -> float:
    return float(LOSSES.build(name, **options)(LOGITS, TARGET))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cross_entropy", {}, 0.510826),
        ("dice", ALL, 0.373333),
        ("dice", {**ALL, "include_background": False}, 0.280000),
        ("dice", {**ALL, "squared": True}, 0.233569),
        ("dice", {**ALL, "squared": True, "include_background": False}, 0.162791),
        ("dice_ce", ALL, 0.884159),
        ("dice_ce", {**ALL, "include_background": False}, 0.790826),
        ("dice_ce", {**ALL, "dice_weight": 0.5, "cross_entropy_weight": 2.0}, 1.208318),
    ],
)
def test_four_voxels_give_the_published_values(name: str, options, expected: float) -> None:
    assert value(name, **options) == pytest.approx(expected, abs=1e-6)


def test_label_smoothing_mixes_in_the_mean_over_labels() -> None:
    log_p = LOGITS.log_softmax(dim=1)
    expected = 0.9 * 0.510826 + 0.1 * -log_p.mean().item()
    assert value("cross_entropy", label_smoothing=0.1) == pytest.approx(expected, abs=1e-6)


def test_dice_of_an_absent_label_is_smoothed_to_nothing_only_if_nothing_is_predicted() -> None:
    target = torch.zeros(1, 1, 8, dtype=torch.long)
    quiet = torch.stack([torch.full((8,), 40.0), torch.full((8,), -40.0)])[None]
    assert LOSSES.build("dice")(quiet, target).item() == pytest.approx(0.0, abs=1e-6)
    assert LOSSES.build("dice")(torch.zeros(1, 2, 8), target).item() == pytest.approx(1, abs=1e-4)


def test_a_pooled_batch_is_one_case_of_all_its_voxels() -> None:
    logits, target = random_pair()
    end_to_end = torch.cat(list(logits), dim=1)[None], torch.cat(list(target), dim=1)[None]
    pooled = LOSSES.build("dice", batch=True)(logits, target)
    torch.testing.assert_close(pooled, LOSSES.build("dice")(*end_to_end))


def random_pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 4, 6, 5, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 4, (3, 1, 6, 5, 4), generator=generator)


@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 2, 9])
def test_dice_agrees_with_monai(include_background, batch, squared, ignore_index) -> None:
    logits, target = random_pair()
    if ignore_index == 9:
        target[:, :, :2] = 9
    options = {"include_background": include_background, "batch": batch}
    ours = LOSSES.build("dice", squared=squared, ignore_index=ignore_index, **options)
    theirs = DiceLoss(
        to_onehot_y=True,
        softmax=True,
        squared_pred=squared,
        ignore_index=ignore_index,
        **options,
    )
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))


@pytest.mark.parametrize("include_background", [False, True])
def test_the_sum_agrees_with_monai(include_background: bool) -> None:
    logits, target = random_pair()
    theirs = DiceCELoss(
        to_onehot_y=True, softmax=True, batch=True, include_background=include_background
    )
    ours = LOSSES.build("dice_ce", include_background=include_background)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dice", {"smooth": -1.0}, "smooth must be at least 0, got -1"),
        ("cross_entropy", {"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ("dice_ce", {"dice_weight": -1.0}, "dice_weight and cross_entropy_weight must be"),
        ("dice_ce", {"dice_weight": 0.0, "cross_entropy_weight": 0.0}, "not both 0, got 0.0"),
        ("dice_ce", {"label_smoothing": -0.1}, "label_smoothing"),
    ],
)
def test_options_without_meaning_are_refused(name: str, options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LOSSES.build(name, **options)
