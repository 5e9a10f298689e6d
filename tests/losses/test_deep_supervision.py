"""Deep supervision: weights, nearest labels, and single tensors."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medseg3d.errors import DataError
from medseg3d.losses import LOSSES
from medseg3d.losses.building import build_loss
from medseg3d.losses.case_maps import CutMaps
from medseg3d.losses.deep_supervision import DeepSupervision, resize_labels, resize_maps


class FirstLogit(nn.Module):
    """A loss whose value is known, and that remembers its targets."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Tensor] = []

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.targets.append(target)
        return logits.flatten()[0]


def levels(*values: float, size: int = 8) -> list[Tensor]:
    return [
        torch.full((1, 2, size >> place, size >> place, size >> place), value)
        for place, value in enumerate(values)
    ]


TARGET = torch.arange(512).view(1, 1, 8, 8, 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [((3.0,), 3.0), ((1.0, 4.0), 2.0), ((7.0, 0.0, 0.0), 4.0), ((0.0, 0.0, 7.0), 1.0)],
)
def test_each_level_weighs_half_of_the_finer_one(values, expected: float) -> None:
    loss = DeepSupervision(FirstLogit())
    assert loss(levels(*values), TARGET).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("decay", "values", "expected"),
    [(1.0, (1.0, 4.0, 7.0), 4.0), (0.25, (1.0, 6.0), 2.0), (0.25, (21.0, 0.0, 0.0), 16.0)],
)
def test_a_decay_is_the_weight_over_that_of_the_finer_level(decay, values, expected) -> None:
    loss = DeepSupervision(FirstLogit(), decay)
    assert loss(levels(*values), TARGET).item() == pytest.approx(expected)


def test_the_finest_of_several_levels_may_have_a_loss_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 3, size, 8, 8, generator=generator) for size in (8, 4)]
    target = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=generator)
    plain, focal = LOSSES.build("tversky"), LOSSES.build("focal_tversky")
    dice = LOSSES.build("dice")
    small = resize_labels(target, (4, 8, 8))
    published = (plain(logits[0], target) + focal(logits[1], small)) / 2
    apart = DeepSupervision(focal, 1.0, finest_apart=True)
    torch.testing.assert_close(apart(logits, target), published)
    torch.testing.assert_close(apart(logits[:1], target), focal(logits[0], target))
    together = (focal(logits[0], target) + focal(logits[1], small)) / 2
    torch.testing.assert_close(DeepSupervision(focal, 1.0)(logits, target), together)
    whole = build_loss("dice+0.5*focal_tversky", {"include_background": False})
    dices = (dice(logits[0], target) + dice(logits[1], small)) / 2
    apart = DeepSupervision(whole, 1.0, finest_apart=True)
    torch.testing.assert_close(apart(logits, target), dices + 0.5 * published)


def test_a_single_tensor_passes_through() -> None:
    inner = FirstLogit()
    (finest,) = levels(5.0)
    assert DeepSupervision(inner)(finest, TARGET).item() == 5.0
    assert inner.targets[0] is TARGET


def test_levels_of_full_size_see_the_target_itself() -> None:
    inner = FirstLogit()
    full = [torch.full((1, 2, 8, 8, 8), value) for value in (1.0, 4.0)]
    assert DeepSupervision(inner)(full, TARGET).item() == pytest.approx(2.0)
    assert all(target is TARGET for target in inner.targets)


def test_the_loss_of_equal_levels_is_the_loss_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, 8, generator=generator)
    target = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=generator, dtype=torch.uint8)
    loss = LOSSES.build("dice_ce")
    torch.testing.assert_close(DeepSupervision(loss)([logits] * 3, target), loss(logits, target))


@pytest.mark.parametrize("size", [(4, 4, 4), (8, 4, 2), (3, 5, 8), (1, 7, 16)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_labels_are_resized_as_torch_resizes_floats(size, dtype: torch.dtype) -> None:
    labels = (TARGET * 7919 % 251).to(dtype)
    expected = interpolate(labels.double(), size=size, mode="nearest-exact")
    found = resize_labels(labels, size)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected)


@pytest.mark.parametrize("length", range(1, 34))
@pytest.mark.parametrize("scale", [1, 2, 4, 16])
def test_a_level_of_a_padded_grid_gets_the_labels_in_its_voxels(length: int, scale: int) -> None:
    labels, divisor = torch.arange(length)[None, None], 16
    wanted = -(-length // scale)
    found = resize_labels(labels, (wanted,), (divisor,)).flatten()
    if length % divisor == 0:
        assert torch.equal(found, resize_labels(labels, (wanted,)).flatten())
    if wanted > 1:
        middles = torch.arange(wanted) * scale + scale // 2
        assert found.tolist() == middles.clamp(max=length - 1).tolist()
    assert (found // scale == torch.arange(wanted)).all()


def test_deep_supervision_knows_the_padded_grid() -> None:
    inner = FirstLogit()
    target = torch.arange(6).reshape(1, 1, 6, 1, 1)
    logits = [torch.zeros(1, 2, size, 1, 1) for size in (6, 2)]
    DeepSupervision(inner, divisor=(4, 1, 1))(logits, target)
    assert [each.flatten().tolist() for each in inner.targets] == [[0, 1, 2, 3, 4, 5], [2, 5]]
    cut = CutMaps.of(target.float())
    assert resize_maps(cut, (2, 1, 1), (4, 1, 1)).coarseness == (4, 1, 1)
    assert resize_maps(cut, (2, 1, 1)).coarseness == (3, 1, 1)


def test_every_level_gets_gradients() -> None:
    logits = [x.requires_grad_() for x in levels(0.1, 0.2, 0.3)]
    DeepSupervision(LOSSES.build("dice_ce"))(logits, TARGET % 2).backward()
    assert all(x.grad.any() for x in logits)


def test_no_logits_are_refused() -> None:
    with pytest.raises(DataError, match="empty list of logits"):
        DeepSupervision(FirstLogit())([], TARGET)
