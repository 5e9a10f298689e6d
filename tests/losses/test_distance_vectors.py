"""Losses by distance and of other targets: a few voxels by hand, MONAI, and identities."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import BoundaryLoss, HausdorffDTLoss, LogHausdorffDTLoss, SoftclDiceLoss
from scipy import ndimage
from torch import Tensor

from medseg3d.errors import ConfigError, DataError
from medseg3d.losses import LOSSES
from medseg3d.losses.border_weights import BorderWeighted
from medseg3d.losses.building import build_loss
from medseg3d.losses.distances import (
    depth_below_deepest,
    signed,
    to_border,
    two_nearest,
)

P_FOREGROUND = torch.tensor([0.1, 0.2, 0.8, 0.9, 0.6, 0.6, 0.1], dtype=torch.float64)
LOGITS = torch.stack([1 - P_FOREGROUND, P_FOREGROUND]).log()[None]  # (1, 2, 7)
TARGET = torch.tensor([0, 0, 1, 1, 1, 0, 0])[None, None]
MASK = TARGET[0, 0].numpy() == 1


def value(name: str, **options) -> float:
    return float(LOSSES.build(name, **options)(LOGITS, TARGET))


def test_distances_of_seven_voxels() -> None:
    assert signed(MASK, (1.0,)).tolist() == [2, 1, 0, -1, 0, 1, 2]
    assert signed(MASK, (2.0,)).tolist() == [4, 2, 0, -2, 0, 2, 4]
    assert signed(MASK, (1.0,), rim=False).tolist() == [2, 1, -1, -2, -1, 1, 2]
    assert signed(MASK, (2.0,), rim=False).tolist() == [4, 2, -2, -4, -2, 2, 4]
    assert to_border(MASK, (1.0,)).tolist() == [2, 1, 1, 2, 1, 1, 2]
    assert to_border(P_FOREGROUND.numpy() > 0.5, (1.0,)).tolist() == [2, 1, 1, 2, 2, 1, 1]
    inside = depth_below_deepest(MASK, (1.0,), normalize=False)
    outside = depth_below_deepest(~MASK, (1.0,), normalize=False)
    assert (inside + outside).tolist() == [0, 1, 1, 0, 1, 1, 0]
    for empty in (np.zeros(4, bool), np.ones(4, bool)):
        assert not signed(empty, (1.0,)).any()
        assert not to_border(empty, (1.0,)).any()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("boundary", {}, 0.042857),
        ("boundary", {"include_background": True}, -0.050000),
        ("boundary", {"spacing": [2.0]}, 2 * 0.0428571),
        ("boundary", {"convention": "symmetric"}, (0.2 + 0.2 - 0.8 - 1.8 - 0.6 + 0.6 + 0.2) / 7),
        ("boundary", {"convention": "symmetric", "spacing": [2.0]}, 2 * -2.0 / 7),
        ("hausdorff_distance", {"alpha": 2.0}, 0.2700),
        ("hausdorff_distance", {"alpha": 1.0}, 0.2100),
        ("hausdorff_distance", {"alpha": 2.0, "spacing": [3.0]}, 9 * 0.2700),
        ("hausdorff_distance", {"alpha": 2.0, "logarithm": True}, math.log(1.27)),
        ("distance_penalized", {"normalize": False}, 0.580413),
        ("distance_penalized", {}, 0.580413),  # the deepest voxel is one deeper than the rim
        ("distance_penalized", {"normalize": False, "spacing": [2.0]}, 2 * 0.580413 - 0.312784),
        ("cross_entropy", {}, 0.312784),
    ],
)
def test_seven_voxels_give_the_published_values(name: str, options, expected: float) -> None:
    assert value(name, **options) == pytest.approx(expected, abs=1e-6)


def blobs() -> tuple[Tensor, Tensor]:
    """Logits (2, 3, 8, 7, 9) and labels of compact structures, both cases with both labels."""
    generator = torch.Generator().manual_seed(4)
    target = torch.zeros(2, 1, 8, 7, 9, dtype=torch.long)
    target[0, 0, 1:5, 2:5, 2:6] = 1
    target[0, 0, 5:7, 1:4, 4:8] = 2
    target[1, 0, 2:6, 1:3, 1:7] = 2
    target[1, 0, 2:4, 4:6, 3:8] = 1
    logits = torch.randn(2, 3, 8, 7, 9, generator=generator, dtype=torch.float64)
    return logits + 3 * (target == torch.arange(3).view(1, 3, 1, 1, 1)), target


@pytest.mark.parametrize("include_background", [False, True])
def test_distance_losses_agree_with_monai(include_background: bool) -> None:
    logits, target = blobs()
    options = {"include_background": include_background}
    usual = {"to_onehot_y": True, "softmax": True, **options}
    for name, given_options, theirs in (
        ("boundary", {}, BoundaryLoss(**usual)),
        ("hausdorff_distance", {}, HausdorffDTLoss(**usual)),
        ("hausdorff_distance", {"logarithm": True}, LogHausdorffDTLoss(**usual)),
    ):
        ours = LOSSES.build(name, **given_options, **options)(logits, target)
        torch.testing.assert_close(
            ours.float(), theirs(logits.float(), target).float(), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("options", "iterations", "smooth"),
    [({}, 3, 1.0), ({"iterations": 1}, 1, 1.0), ({"smooth": 0.25}, 3, 0.25)],
)
def test_cldice_of_one_structure_is_that_of_monai(
    options: dict[str, float], iterations: int, smooth: float
) -> None:
    logits, target = blobs()
    logits, target = logits[:, :2], target.clamp_max(1)  # MONAI sums over the structures
    one_hot = (target == torch.arange(2).view(1, 2, 1, 1, 1)).double()
    theirs = SoftclDiceLoss(
        iter_=iterations,
        smooth_nr=smooth,
        smooth_dr=smooth,
        smooth=1e-12,
        include_background=False,
    )
    ours = LOSSES.build("cldice", dice_weight=0.0, **options)(logits, target)
    assert 0.1 < ours.item() < 0.9
    assert ours.item() == pytest.approx(float(theirs(logits.softmax(1), one_hot)), abs=1e-6)
    other = LOSSES.build("cldice", dice_weight=0.0, iterations=2, smooth=0.5)(logits, target)
    assert abs(ours.item() - other.item()) > 1e-4


def test_cldice_is_mixed_with_dice() -> None:
    logits, target = blobs()
    ours = LOSSES.build("cldice", dice_weight=0.0)(logits, target)
    mixed = LOSSES.build("cldice", dice_weight=0.25)(logits, target)
    dice = LOSSES.build("dice")(logits, target)
    torch.testing.assert_close(mixed, 0.25 * dice + 0.75 * ours)


def test_a_broken_vessel_costs_more_center_line_than_dice() -> None:
    target = torch.zeros(1, 1, 24, 7, 7, dtype=torch.long)
    target[:, :, 2:22, 2:5, 2:5] = 1
    whole = 10.0 * (2.0 * (target == torch.arange(2).view(1, 2, 1, 1, 1)) - 1.0)
    thin, broken = whole.clone(), whole.clone()
    thin[:, :, :, 2:5, 4] = whole[:, :, :, 2:5, 0]  # one third lost along the whole length
    broken[:, :, 8:15] = whole[:, :, :1].expand(-1, -1, 7, -1, -1)  # one third lost in a gap
    dice, line = LOSSES.build("dice"), LOSSES.build("cldice", dice_weight=0.0)
    assert dice(thin, target).item() == pytest.approx(dice(broken, target).item(), abs=0.02)
    assert line(broken, target).item() > 2 * line(thin, target).item()


def test_border_weights_of_seven_voxels() -> None:
    labels = torch.tensor([1, 0, 0, 0, 2, 0, 0])[None, None]
    expected = [1, 8.2615, 8.2615, 8.2615, 1, 5.8675, 3.7804]
    weights = BorderWeighted().weights(torch.zeros(1, 3, 7), labels)[0]
    assert weights.tolist() == pytest.approx(expected, abs=1e-4)
    everywhere = BorderWeighted(everywhere=True).weights(torch.zeros(1, 3, 7), labels)[0]
    assert everywhere[[0, 4]].tolist() == pytest.approx([8.2615, 8.2615], abs=1e-4)
    stretched = BorderWeighted(spacing=[2.0], sigma=10.0).weights(torch.zeros(1, 3, 7), labels)[0]
    assert stretched.tolist() == pytest.approx(expected, abs=1e-4)
    one = BorderWeighted(weight=[1.0, 3.0]).weights(
        torch.zeros(1, 2, 7), labels.clamp_max(1) * (labels < 2)
    )
    assert one[0].tolist() == [3, 1, 1, 1, 1, 1, 1]  # a single object has no gap


def test_the_border_weighted_loss_is_the_weighted_mean() -> None:
    loss = BorderWeighted(gap_weight=4.0)
    weights = loss.weights(LOGITS, TARGET)
    entropy = -torch.where(TARGET[0, 0] == 1, P_FOREGROUND, 1 - P_FOREGROUND).log()
    assert float(loss(LOGITS, TARGET)) == pytest.approx(float((weights * entropy).mean()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 2))
def test_the_two_nearest_objects_are_those_of_a_search(seed: int, spacing) -> None:
    labels = np.random.default_rng(seed).choice([0, 0, 0, 0, 0, 1, 2], size=(6, 5)).astype(np.int64)
    found, near = two_nearest(labels, spacing), two_nearest(labels, spacing, reach=2.0)
    places = []
    for label in (1, 2):
        objects, number = ndimage.label(labels == label, np.ones((3, 3)))
        places += [np.argwhere(objects == one) for one in range(1, number + 1)]
    for voxel in np.ndindex(labels.shape):
        gaps = sorted(
            np.linalg.norm((each - voxel) * np.array(spacing), axis=1).min() for each in places
        )
        gaps += [np.inf] * 2
        assert [field[voxel] for field in found] == pytest.approx(gaps[:2])
        for field, gap in zip(near, gaps, strict=False):
            assert field[voxel] == pytest.approx(gap) or field[voxel] > gap > 2.0


@pytest.mark.parametrize(
    ("segments", "expected"),
    [([1, 1, 0, 0], 0.450650), ([1, 0, 1, 0], 0.972243), ([0.5] * 4, 1.0)],
)
def test_soft_normalized_cut_of_four_voxels(segments, expected: float) -> None:
    p = torch.tensor(segments, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    logits = torch.stack([p, 1 - p]).log()[None]
    image = torch.tensor([0.0, 0.0, 10.0, 10.0])[None, None]
    loss = LOSSES.build("soft_normalized_cut", radius=5)
    assert float(loss(logits, image)) == pytest.approx(expected, abs=1e-6)


def test_soft_normalized_cut_agrees_with_the_matrix() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 4, 3, 5, generator=generator, dtype=torch.float64)
    image = 20 * torch.rand(2, 2, 4, 3, 5, generator=generator, dtype=torch.float64)
    places = torch.stack(torch.meshgrid(*map(torch.arange, (4, 3, 5)), indexing="ij"))
    apart = (places.flatten(1)[:, :, None] - places.flatten(1)[:, None]).square().sum(0)
    totals = []
    for n in range(2):
        values = image[n].flatten(1)
        unlike = (values[:, :, None] - values[:, None]).square().sum(0)
        weights = torch.exp(-unlike / 100 - apart / 16) * (apart < 9)
        p = logits[n].softmax(0).flatten(1)
        within = torch.einsum("ku,uv,kv->k", p, weights, p)
        totals.append(3 - (within / (p @ weights.sum(1))).sum())
    loss = LOSSES.build("soft_normalized_cut", radius=3)
    torch.testing.assert_close(loss(logits, image), torch.stack(totals).mean(), atol=1e-6, rtol=0)
    with pytest.raises(DataError, match="same batch and spatial axes"):
        loss(logits, image[..., 1:])


def test_semantic_encoding_of_three_labels() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([[[1, 3, 0, 255]]])
    loss = LOSSES.build("semantic_encoding", weight=1.0)
    assert float(loss(logits, target)) == pytest.approx(0.377779, abs=1e-6)
    assert float(LOSSES.build("semantic_encoding")(logits, target)) == pytest.approx(
        0.075556, abs=1e-6
    )
    with_background = LOSSES.build("semantic_encoding", weight=1.0, include_background=True)
    assert float(with_background(logits, target)) == pytest.approx(0.711112, abs=1e-6)
    with pytest.raises(DataError, match=r"expected \(1, L\)"):
        loss(torch.zeros(2, 3), target)


def test_semantic_encoding_of_voxels_looks_at_the_surest_one() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0], [2.0, -1.0, 0.5], [-3.0, 0.0, 4.0]]])
    target = torch.tensor([[[1, 0, 0]]])
    others = [torch.log(torch.tensor(1.0 + math.exp(-3.0))), math.log(1.0 + math.exp(0.5))]
    row = torch.tensor([[2.0 - others[0], 4.0 - others[1]]])
    loss = LOSSES.build("semantic_encoding", weight=1.0)
    torch.testing.assert_close(loss(logits, target), loss(row, target))
    assert loss(logits, target) == pytest.approx(
        (math.log1p(math.exp(-row[0, 0])) + math.log1p(math.exp(row[0, 1]))) / 2, abs=1e-6
    )


def test_semantic_encoding_of_voxels_is_blind_where_nobody_annotated() -> None:
    logits = torch.full((1, 3, 4), -100.0)
    logits[:, 2] = 100.0
    logits.requires_grad_()
    loss = LOSSES.build("semantic_encoding", ignore_index=255, weight=1.0)
    nothing = loss(logits, torch.full((1, 1, 4), 255))
    nothing.backward()
    assert nothing == 0.0
    assert not logits.grad.any()
    target = torch.tensor([[[0, 255, 255, 255]]])
    assert loss(logits, target).item() == pytest.approx(0.5 * (200.0 - math.log(2)), rel=1e-4)
    loss(logits, target).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, :, 0].any()
    assert not logits.grad[0, :, 1:].any()


@pytest.mark.parametrize("of_voxels", [False, True])
def test_semantic_encoding_leaves_out_cases_that_nobody_annotated(of_voxels: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    shape = (2, 3, 4) if of_voxels else (2, 2)
    logits = torch.randn(shape, generator=generator).requires_grad_()
    target = torch.tensor([[[0, 1, 2, 0]], [[255] * 4]])
    loss = LOSSES.build("semantic_encoding", ignore_index=255, weight=1.0)
    torch.testing.assert_close(loss(logits, target), loss(logits[:1], target[:1]))
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    assert gradient[0].any()
    assert not gradient[1].any()
    nothing = loss(logits, torch.full_like(target, 255))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing == 0.0
    assert not gradient.any()


def test_semantic_encoding_beside_another_loss_adds_its_gradient() -> None:
    logits = torch.zeros(2, 3, 4, 4, 4, requires_grad=True)
    target = torch.randint(0, 2, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    losses = [
        build_loss("dice_ce+semantic_encoding", {"semantic_encoding": {"weight": 1.0}}),
        LOSSES.build("dice_ce"),
        LOSSES.build("semantic_encoding", weight=1.0),
    ]
    both, voxels, presence = (
        torch.autograd.grad(loss(logits, target), logits)[0] for loss in losses
    )
    assert presence.any()
    torch.testing.assert_close(both, voxels + presence)


def test_semantic_encoding_of_voxels_is_that_of_the_largest_log_odds() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 40 * torch.randn(2, 4, 5, 6, 7, generator=generator)  # of which many round to 1
    target = torch.randint(0, 4, (2, 1, 5, 6, 7), generator=generator)
    target[:, :, :3] = 255
    odds = torch.stack(
        [
            logits[:, label] - logits[:, [each for each in range(4) if each != label]].logsumexp(1)
            for label in range(4)
        ],
        dim=1,
    )
    rows = odds[:, :, 3:].flatten(2).amax(2)
    for first, options in enumerate([{"include_background": True}, {}]):
        loss = LOSSES.build("semantic_encoding", ignore_index=255, **options)
        torch.testing.assert_close(loss(logits, target), loss(rows[:, first:], target))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("boundary", {"spacing": [0.0]}, "lengths above 0"),
        ("boundary", {"convention": "outer"}, "rim or symmetric, got 'outer'"),
        ("boundary", {"spacing": [1.0, 1.0]}, "2 lengths for 1 spatial axes"),
        ("hausdorff_distance", {"alpha": 0.0}, "alpha must be above 0"),
        ("border_weighted", {"sigma": 0.0}, "sigma above 0"),
        ("border_weighted", {"weight": [1.0]}, "1 values; expected 2"),
        ("soft_normalized_cut", {"radius": 0}, "radius at least 1"),
        ("semantic_encoding", {"weight": -1.0}, "weight must be at least 0"),
    ],
)
def test_options_without_meaning_are_refused(name: str, options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        value(name, **options)
