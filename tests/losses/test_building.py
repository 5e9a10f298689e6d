"""Losses by name and in sums."""

import pytest
import torch

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.building import build_loss

GENERATOR = torch.Generator().manual_seed(1)
LOGITS = torch.randn(2, 3, 4, 4, 4, generator=GENERATOR)
TARGET = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=GENERATOR)


def test_a_sum_is_the_sum_of_its_weighted_parts() -> None:
    found = build_loss("dice + 0.5*focal+2e-1*top_k", {"focal": {"gamma": 1.0}})(LOGITS, TARGET)
    dice, focal, top_k = (
        LOSSES.build(name, **options)(LOGITS, TARGET)
        for name, options in (("dice", {}), ("focal", {"gamma": 1.0}), ("top_k", {}))
    )
    torch.testing.assert_close(found, dice + 0.5 * focal + 0.2 * top_k)
    own = LOSSES.build("dice", include_background=True)(LOGITS, TARGET)
    torch.testing.assert_close(build_loss("3*dice")(LOGITS, TARGET), 3 * own)


def test_losses_that_nobody_else_tells_of_the_background_count_it() -> None:
    alone = ["dice", "iou", "tversky", "focal_tversky", "asymmetric_similarity", "lovasz"]
    alone += ["generalized_dice", "penalty_dice", "boundary", "hausdorff_distance"]
    assert all(build_loss(name).include_background for name in alone)
    assert not any(LOSSES.build(name).include_background for name in alone)
    assert not build_loss("dice", {"include_background": False}).include_background
    together = build_loss("dice+0.5*tversky", {"dice": {"include_background": False}})
    assert [part.include_background for part in together.losses] == [False, True]
    for others in ("cross_entropy", "focal", "border_weighted", "dice_ce"):
        assert not build_loss(f"dice+{others}").losses[0].include_background
    for silent in ("cldice", "semantic_encoding", "boundary"):
        assert build_loss(f"dice+0.3*{silent}").losses[0].include_background
    assert build_loss("cldice").dice.include_background
    assert not build_loss("dice+0.3*cldice").losses[1].dice.include_background


def test_the_background_of_distances_does_not_hang_on_their_partner() -> None:
    for partner in ("dice", "dice_ce", "cross_entropy"):
        assert not build_loss(f"{partner}+0.1*boundary").losses[1].include_background


def test_dice_plus_cross_entropy_is_dice_ce() -> None:
    both = build_loss("dice+cross_entropy", {"batch": True})
    torch.testing.assert_close(both(LOGITS, TARGET), build_loss("dice_ce")(LOGITS, TARGET))


def test_options_go_to_all_parts_that_have_them() -> None:
    loss = build_loss("dice+cross_entropy", {"ignore_index": 2, "batch": True})
    assert [part.ignore_index for part in loss.losses] == [2, 2]
    assert loss.losses[0].batch is True


def test_the_spacing_goes_to_losses_that_measure() -> None:
    loss = build_loss("dice+boundary", spacing=(1.0, 1.0, 3.0))
    assert loss.losses[1].spacing == (1.0, 1.0, 3.0)
    own = build_loss("boundary", {"spacing": [2.0, 2.0, 2.0]}, spacing=(1.0, 1.0, 3.0))
    assert own.spacing == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dise", {}, "unknown loss 'dise'; did you mean dice"),
        ("dice+focl", {}, "did you mean focal"),
        ("dice+", {}, "'' is no term of a sum"),
        ("x*dice", {}, r"'x\*dice' is no term of a sum"),
        ("dice+-1*focal", {}, "is no term of a sum"),
        ("dice+0*focal", {}, "factor above 0"),
        ("dice+focal", {"gama": 2}, "no part has an option 'gama'"),
        ("dice+focal", {"focal": {"gama": 2}}, "did you mean gamma"),
        ("dice+focal", {"dice": 0.5}, "dice has options by name.* got 0.5; its weight is a factor"),
        ("border_weighted", {"weight": "heavy"}, "one number per label or auto, got 'heavy'"),
        ("border_weighted", {"weight": [1, -1]}, "weight must be at least 0 and not all 0"),
        ("focal", {"alpha": "auto"}, "alpha must be one number per label or one for all"),
        ("focal", {"alpha": [0, 0]}, "alpha must be at least 0 and not all 0"),
        ("cross_entropy", {"weight": [1, "x"]}, "weight must be one number per label or auto"),
        ("soft_normalized_cut", {}, "compares with the image instead of labels"),
        ("semantic_encoding", {}, "and not where; add it to another, such as dice_ce\\+semantic"),
        ("2*semantic_encoding", {}, "such as dice_ce\\+semantic_encoding"),
    ],
)
def test_what_cannot_be_built_is_said(name: str, options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_loss(name, options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cross_entropy", {"weight": [1, 2]}, "cross_entropy: weight has 2 values; expected 3"),
        ("dice+focal", {"alpha": (1, 2, 3, 4)}, "focal: alpha has 4 values; expected 3"),
    ],
)
def test_weights_must_be_as_many_as_labels(name: str, options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_loss(name, options, num_labels=3)
    with pytest.raises(ConfigError, match=message):
        build_loss(name, options)(torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4).long())
    build_loss("focal", {"alpha": 0.5}, num_labels=3)
