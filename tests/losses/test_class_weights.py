"""Weights of labels in the cross entropy: given, or made of their frequency."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.building import build_loss
from medseg3d.losses.cross_entropy import frequency_weights

GENERATOR = torch.Generator().manual_seed(1)
LOGITS = torch.randn(2, 3, 4, 4, 4, generator=GENERATOR)
TARGET = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=GENERATOR)
COUNTS = (64, 16, 1)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=6).filter(any))
def test_the_mean_voxel_weighs_one(counts: list[int]) -> None:
    weights = frequency_weights(counts)
    total = sum(counts)
    mean = sum(count * weight for count, weight in zip(counts, weights, strict=True)) / total
    assert mean == pytest.approx(1)
    products = [w * count**0.5 for count, w in zip(counts, weights, strict=True) if count]
    assert products == pytest.approx([products[0]] * len(products)), "inverse to the root"
    assert all(w == 0 for count, w in zip(counts, weights, strict=True) if not count)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_auto_is_the_inverse_root_of_the_frequency(smoothing: float) -> None:
    options = {"weight": "auto", "label_smoothing": smoothing}
    found = build_loss("cross_entropy", options, label_counts=COUNTS)(LOGITS, TARGET)
    weight = torch.tensor([1 / 8, 1 / 4, 1.0])  # of 64, 16 and 1; torch divides their scale out
    expected = functional.cross_entropy(
        LOGITS, TARGET[:, 0], weight=weight, label_smoothing=smoothing
    )
    torch.testing.assert_close(found, expected)


def test_auto_weighs_the_labels_of_border_weights_too() -> None:
    options = {"weight": "auto", "gap_weight": 0.0}
    found = build_loss("border_weighted", options, label_counts=COUNTS)(LOGITS, TARGET)
    weight = torch.tensor(frequency_weights(COUNTS))
    losses = functional.cross_entropy(LOGITS, TARGET[:, 0], weight=weight, reduction="none")
    torch.testing.assert_close(found, losses.mean())


@pytest.mark.parametrize("weight", ["auto", [0.5, 1.0, 4.0]])
def test_a_sum_weighs_its_cross_entropy(weight: object) -> None:
    options = {"weight": weight, "label_smoothing": 0.05}
    cross_entropy = build_loss("cross_entropy", options, label_counts=COUNTS)(LOGITS, TARGET)
    dice = LOSSES.build("dice", batch=True)(LOGITS, TARGET)
    found = build_loss("dice+cross_entropy", options | {"batch": True}, label_counts=COUNTS)
    torch.testing.assert_close(found(LOGITS, TARGET), dice + cross_entropy)


def test_counts_alone_change_nothing() -> None:
    for name in ("cross_entropy", "dice_ce"):
        plain = build_loss(name)(LOGITS, TARGET)
        assert torch.equal(build_loss(name, label_counts=COUNTS)(LOGITS, TARGET), plain)


def test_ignored_voxels_have_no_weight() -> None:
    target = TARGET.clone()
    target[:, :, 0] = 3
    options = {"weight": "auto", "label_smoothing": 0.1}
    loss = build_loss("cross_entropy", options, label_counts=COUNTS, ignore_index=3)
    rest = build_loss("cross_entropy", options, label_counts=COUNTS)
    torch.testing.assert_close(loss(LOGITS, target), rest(LOGITS[:, :, 1:], TARGET[:, :, 1:]))


@pytest.mark.parametrize("name", ["dice_ce", "dice+0.5*focal"])
def test_the_index_to_ignore_goes_to_every_part(name: str) -> None:
    target = TARGET.clone()
    target[:, :, 0] = 3
    other = LOGITS.clone()
    other[:, :, 0] = 100 * torch.randn(other[:, :, 0].shape)
    loss = build_loss(name, ignore_index=3)
    torch.testing.assert_close(loss(LOGITS, target), loss(other, target))


def test_a_loss_that_cannot_ignore_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES._parts, "stubborn", torch.nn.Module)
    monkeypatch.setitem(LOSSES._facts, "stubborn", {})
    with pytest.raises(ConfigError, match="'stubborn' cannot leave out voxels that nobody"):
        build_loss("dice+stubborn", ignore_index=3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"weight": "heavy"}, "must be one number per label or auto, got 'heavy'"),
        ({"weight": [0, 0, 0]}, "not all 0"),
        ({"weight": [1, -1, 0]}, "at least 0"),
    ],
)
def test_wrong_weights_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_loss("cross_entropy", options)


@pytest.mark.parametrize("name", ["dice+cross_entropy", "border_weighted"])
def test_auto_needs_counts_only_when_it_is_used(name: str) -> None:
    loss = build_loss(name, {"weight": "auto"})
    with pytest.raises(ConfigError, match="needs label_counts"):
        loss(LOGITS, TARGET)


def test_a_label_of_no_weight_costs_nothing_beside_smoothing() -> None:
    loss = build_loss("cross_entropy", {"weight": [0.0, 1.0, 1.0], "label_smoothing": 0.1})
    logits = LOGITS.clone().requires_grad_()
    nothing = loss(logits, torch.zeros_like(TARGET))
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert not logits.grad.any()
    weighed = functional.cross_entropy(
        LOGITS,
        TARGET[:, 0],
        weight=torch.tensor([0.0, 1.0, 1.0]),
        label_smoothing=0.1,
        ignore_index=0,
    )
    torch.testing.assert_close(loss(LOGITS, TARGET), weighed)
