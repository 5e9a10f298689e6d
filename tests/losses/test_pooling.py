"""A pooled batch in two processes with equal patches is one batch that holds each patch twice."""

import pytest
import torch
from torch import Tensor, nn

from medseg3d.losses import pooling
from medseg3d.losses.building import build_loss
from medseg3d.losses.pooling import pool_over_processes
from medseg3d.losses.regions import build_region_loss

SMOOTH = {"smooth": 3.0, "batch": True}
"""Without smoothing, twice the sums are the same fraction."""


def losses() -> dict[str, nn.Module]:
    return {
        "dice_ce": build_loss("dice_ce", SMOOTH),
        "dice": build_loss("dice+0.5*cross_entropy", {"dice": SMOOTH}),
        "tversky": build_loss("tversky", SMOOTH),
        "regions": build_region_loss("dice_ce", SMOOTH, [(1, 2), (2,)]),
    }


def of_two(values: Tensor) -> None:
    values.mul_(2)


def value_and_slope(loss: nn.Module, times: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 5, 6), generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (2, 1, 4, 5, 6), generator=generator)
    value = loss(torch.cat([logits] * times), torch.cat([labels] * times))
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("name", losses())
def test_two_processes_pool_their_patches(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    loss = losses()[name]
    expected, alone = value_and_slope(loss, 2), value_and_slope(loss, 1)
    monkeypatch.setattr(pooling.distributed, "all_reduce", of_two)
    pool_over_processes(loss)
    found = value_and_slope(loss, 1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found[0], alone[0])


IGNORED, WEIGHTS = {"ignore_index": 0}, {"weight": [0.5, 1.0, 3.0]}


@pytest.mark.parametrize(
    "loss",
    [
        build_loss("dice_ce", {"smooth": 0.0} | IGNORED),
        build_loss("cross_entropy", WEIGHTS),
        build_loss("cross_entropy", WEIGHTS | IGNORED | {"label_smoothing": 0.1}),
        build_region_loss("dice_ce", {"smooth": 0.0}, [(1, 2), (2,)], ignore_index=0),
        build_loss("exponential_logarithmic", {"batch": True}),
    ],
    ids=["ignored", "weighted", "both", "regions", "frequencies"],
)
def test_processes_with_unlike_patches_are_one_batch(
    monkeypatch: pytest.MonkeyPatch, loss: nn.Module
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn((1, 3, 4, 5, 6), generator=generator) for _ in range(2)]
    many = torch.randint(0, 3, (1, 1, 4, 5, 6), generator=generator)
    few = many.clone()
    few[:, :, 1:] = 0
    expected = loss(torch.cat(logits), torch.cat([many, few]))
    pool_over_processes(loss)
    given: list[list[Tensor]] = []  # by each process, one after the other
    for patch, labels in zip(logits, (many, few), strict=True):
        own: list[Tensor] = []
        monkeypatch.setattr(
            pooling.distributed, "all_reduce", lambda sums, own=own: own.append(sums.clone())
        )
        loss(patch, labels)
        given.append(own)
    found = []
    for patch, labels, of_other in zip(logits, (many, few), given[::-1], strict=True):
        monkeypatch.setattr(
            pooling.distributed,
            "all_reduce",
            lambda sums, other=iter(of_other): sums.add_(next(other)),
        )
        found.append(loss(patch, labels))
    torch.testing.assert_close(sum(found) / 2, expected)


def test_what_does_not_pool_its_batch_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = build_loss("dice", {"batch": False})
    expected = value_and_slope(loss, 1)
    monkeypatch.setattr(pooling.distributed, "all_reduce", None)
    pool_over_processes(loss)
    torch.testing.assert_close(value_and_slope(loss, 1), expected)
