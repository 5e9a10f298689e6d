"""What every registered loss keeps: finite, ordered, blind to ignored voxels, float32."""

import inspect

import pytest
import torch
from torch import Tensor

from medseg3d.errors import DataError
from medseg3d.losses import LOSSES

IGNORED = 255
OF_LABELS = [name for name in LOSSES if LOSSES.facts(name).get("target", "labels") == "labels"]
BY_VOXEL = [
    name
    for name in OF_LABELS
    if LOSSES.facts(name).get("by") != "distance" and name not in ("cldice", "boundary")
]
PER_CASE = [name for name in OF_LABELS if "batch" in inspect.signature(LOSSES[name]).parameters]
SMOOTHED = [name for name in PER_CASE if "smooth" in inspect.signature(LOSSES[name]).parameters]
each_loss = pytest.mark.parametrize("name", OF_LABELS)
each_voxelwise = pytest.mark.parametrize("name", BY_VOXEL)


def pair(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits (2, 3, 5, 4, 6) and labels in which every label occurs in both cases."""
    generator = torch.Generator().manual_seed(11)
    target = torch.randint(0, 3, (2, 1, 5, 4, 6), generator=generator)
    assert all(set(case.unique().tolist()) == {0, 1, 2} for case in target)
    return torch.randn(2, 3, 5, 4, 6, generator=generator).to(dtype), target


def one_hot_logits(target: Tensor, height: float) -> Tensor:
    return height * (2.0 * (target == torch.arange(3).view(1, 3, 1, 1, 1)) - 1.0)


def test_the_registry_has_every_loss_of_the_list() -> None:
    assert set(LOSSES) == {
        "asymmetric_similarity",
        "border_weighted",
        "boundary",
        "cldice",
        "cross_entropy",
        "dice",
        "dice_ce",
        "distance_penalized",
        "exponential_logarithmic",
        "focal",
        "focal_tversky",
        "generalized_dice",
        "hausdorff_distance",
        "iou",
        "lovasz",
        "penalty_dice",
        "semantic_encoding",
        "sensitivity_specificity",
        "smooth_truncated",
        "soft_normalized_cut",
        "top_k",
        "tversky",
    }


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_names_its_paper(name: str) -> None:
    assert len(LOSSES.facts(name)["paper"]) > 10


@each_loss
def test_options_are_keywords_with_defaults(name: str) -> None:
    options = list(inspect.signature(LOSSES[name]).parameters.values())
    assert all(option.kind is option.KEYWORD_ONLY for option in options)
    assert all(option.default is not option.empty for option in options)
    assert len(options) <= 7


@each_loss
def test_a_perfect_prediction_costs_nothing(name: str) -> None:
    _, target = pair()
    loss = LOSSES.build(name)(one_hot_logits(target, 30.0), target)
    if name == "boundary":  # the inside counts below 0
        assert loss.item() <= 0.0
    else:
        assert loss.item() == pytest.approx(0.0, abs=1e-6)


@each_loss
def test_gradients_of_confident_errors_are_finite(name: str) -> None:
    _, target = pair()
    logits = one_hot_logits((target + 1) % 3, 100.0).requires_grad_()
    loss = LOSSES.build(name)(logits, target)
    loss.backward()
    assert loss.isfinite()
    assert loss.item() > (0.2 if name == "boundary" else 0.4)
    assert logits.grad.isfinite().all()


@each_loss
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    logits, target = pair()
    logits.requires_grad_()
    loss = LOSSES.build(name)(logits, target)
    loss.backward()
    assert logits.grad.any()
    assert LOSSES.build(name)(logits.detach() - logits.grad, target) < loss


@each_loss
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    logits, target = pair(torch.float64)
    small = logits[:, :, :2, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(LOSSES.build(name), (small, target[:, :, :2, :2, :2]))


@pytest.mark.parametrize(
    "name",
    [*PER_CASE, "cross_entropy", "focal", "boundary", "hausdorff_distance", "distance_penalized"],
)
def test_a_batch_is_the_mean_of_its_cases(name: str) -> None:
    logits, target = pair()
    if name == "exponential_logarithmic":  # its label frequencies are those of the batch
        target = torch.stack([target[0], target[0].flip(1)])
    options = {"batch": False} if name in PER_CASE else {}
    loss = LOSSES.build(name, **options)
    alone = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(loss(logits, target), torch.stack(alone).mean())


@each_voxelwise
def test_the_order_of_voxels_does_not_matter(name: str) -> None:
    logits, target = pair()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    mixed = [x.flatten(2)[..., order].view_as(x) for x in (logits, target)]
    loss = LOSSES.build(name)
    torch.testing.assert_close(loss(*mixed), loss(logits, target))


@each_loss
def test_a_plane_equals_a_volume_of_one_slice(name: str) -> None:
    logits, target = pair()
    loss = LOSSES.build(name)
    plane = loss(logits[..., 0], target[..., 0])
    torch.testing.assert_close(plane, loss(logits[..., :1], target[..., :1]))


@each_loss
def test_ignored_voxels_have_no_say(name: str) -> None:
    logits, target = pair()
    target[:, :, 3:] = IGNORED
    loss = LOSSES.build(name, ignore_index=IGNORED)
    logits.requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert not logits.grad[:, :, 3:].any()
    assert logits.grad[:, :, :3].any()

    other = logits.detach().clone()
    other[:, :, 3:] = 50.0 * torch.randn(2, 3, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    assert loss(other, target) == value
    if name in BY_VOXEL:
        cut = LOSSES.build(name)(logits[:, :, :3], target[:, :, :3])
        torch.testing.assert_close(value, cut)


@each_loss
def test_labels_that_a_patch_lacks_and_single_voxels_leave_everything_finite(name: str) -> None:
    logits = pair()[0].requires_grad_()
    for target in (torch.zeros(2, 1, 5, 4, 6, dtype=torch.long), pair()[1].clamp_max(1)):
        target[0, 0, 2, 2, 2] = 1
        for each in (logits, 100.0 * logits):
            loss = LOSSES.build(name)(each, target)
            (gradient,) = torch.autograd.grad(loss, logits)
            assert loss.isfinite()
            assert gradient.isfinite().all()


UNSMOOTHED = [{}, {"empty": "skip"}, {"batch": True}, {"include_background": True}]


@pytest.mark.parametrize("options", UNSMOOTHED, ids=str)
@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("height", [1.0, 20.0, 1000.0])
def test_without_smoothing_absent_labels_leave_everything_finite(
    name: str, options: dict[str, object], height: float
) -> None:
    known = inspect.signature(LOSSES[name]).parameters
    options = {key: value for key, value in options.items() if key in known}
    for target in (torch.zeros(2, 1, 5, 4, 6, dtype=torch.long), pair()[1].clamp_max(1)):
        logits = one_hot_logits(target, height).requires_grad_()
        loss = LOSSES.build(name, smooth=0.0, **options)(logits, target)
        (gradient,) = torch.autograd.grad(65536.0 * loss, logits)
        assert gradient.isfinite().all()
        if height == 1000.0:
            assert loss.item() == 0.0  # nothing of the absent label is predicted


@each_loss
def test_a_patch_without_known_voxels_costs_nothing(name: str) -> None:
    logits, target = pair()
    logits.requires_grad_()
    loss = LOSSES.build(name, ignore_index=IGNORED)(logits, torch.full_like(target, IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_compared_in_single(name: str, dtype: torch.dtype) -> None:
    logits, target = pair()
    low = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES.build(name)(low, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES.build(name)(low.detach().float(), target))
    loss.backward()
    assert low.grad.dtype == dtype
    assert low.grad.isfinite().all()


@each_loss
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_may_be_small_integers(name: str, dtype: torch.dtype) -> None:
    logits, target = pair()
    loss = LOSSES.build(name, ignore_index=2)
    torch.testing.assert_close(loss(logits, target.to(dtype)), loss(logits, target))


@each_loss
@pytest.mark.parametrize(("ignored", "wrapped"), [(256, 0), (-100, 156), (257, 1)])
def test_an_index_beyond_the_type_of_the_labels_ignores_nothing(
    name: str, ignored: int, wrapped: int
) -> None:
    logits, target = pair()
    assert torch.tensor(ignored).byte() == wrapped
    loss = LOSSES.build(name, ignore_index=ignored)
    torch.testing.assert_close(loss(logits, target.byte()), LOSSES.build(name)(logits, target))


@each_loss
def test_a_target_that_does_not_fit_is_refused(name: str) -> None:
    logits, target = pair()
    loss = LOSSES.build(name)
    with pytest.raises(DataError, match=r"expected a target of shape \(2, 1, 5, 4, 6\)"):
        loss(logits, target[:, 0])
    with pytest.raises(DataError, match=r"float32; expected integer labels"):
        loss(logits, target.float())
    with pytest.raises(DataError, match="L >= 2"):
        loss(logits[:, :1], target)
