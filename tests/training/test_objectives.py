"""Networks with an objective of their own: what of a batch they get, and which weights are kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import Stage
from tests.training.small_runs import small_settings, train_small


class Pairs(Dataset[dict[str, Any]]):
    """Patches with an image of another domain beside them."""

    def __getitem__(self, n: int) -> dict[str, Any]:
        image = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(n))
        labels = (image > 0).to(torch.uint8)
        return {"image": image, "labels": labels, "case": f"case_{n}", "target": image + 10}

    def case_id(self, n: int) -> str:
        return f"case_{n}"


class Adapting(nn.Module):
    """Keeps its last weights in the second stage."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)
        self.stage = "first"
        self.seen: list[tuple[str, Tensor, Tensor]] = []

    @property
    def keeps_last(self) -> bool:
        return self.stage == "second"

    def set_stage(self, stage: str) -> None:
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def objective(self, loss: Any, image: Tensor, labels: Tensor, *, target: Tensor) -> Tensor:
        self.seen.append((self.stage, image, target))
        return loss(self(image), labels)


class Levels(nn.Module):
    """Remembers how the levels that it gives are weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)
        self.decays: list[float] = []

    def objective(self, loss: DeepSupervision, image: Tensor, labels: Tensor, **_: Any) -> Tensor:
        self.decays.append(loss.decay)
        return loss([self.layer(image), self.layer(image)], labels)


class AlikeLevels(Levels):
    level_decay = 1.0


@pytest.mark.parametrize(
    ("network", "asked", "expected"),
    [
        (Levels(), None, 0.5),
        (AlikeLevels(), None, 1.0),
        (AlikeLevels(), 0.25, 0.25),
    ],
    ids=["by_default", "of_the_network", "of_the_user"],
)
def test_levels_weigh_as_the_network_or_the_user_says(
    network: Levels, asked: float | None, expected: float, tmp_path: Path
) -> None:
    settings = small_settings(budget=Budget(steps=1), steps_per_epoch=1, level_decay=asked)
    train_small(network, Pairs(), tmp_path, settings)
    assert network.decays == [expected]


def run(folder: Path, scores: list[float], *, validate_every: int | None = 1) -> list[float]:
    kept: list[float] = []
    network = Adapting()
    left = iter(scores)

    def validate(_: nn.Module, num_cases: int | None) -> list[float]:
        return [next(left) if num_cases is None else 0.0]

    train_small(
        network,
        Pairs(),
        folder,
        small_settings(
            budget=Budget(steps=8),
            steps_per_epoch=2,
            validate_every=validate_every,
            stages=(Stage("first", 0.0), Stage("second", 0.5)),
        ),
        validate=validate,
        save_best=lambda _, score: kept.append(score),
    )
    assert [stage for stage, _, _ in network.seen] == ["first"] * 4 + ["second"] * 4
    assert all(torch.equal(target, image + 10) for _, image, target in network.seen)
    return kept


def test_the_last_weights_are_kept_where_validation_cannot_tell(tmp_path: Path) -> None:
    assert run(tmp_path, [0.9, 0.8, 0.7, 0.6]) == [0.9, 0.7, 0.6]


def test_the_last_weights_are_kept_even_if_nothing_was_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.training.callbacks.VALIDATION_SHARE", 0.0)
    kept = run(tmp_path, [], validate_every=None)
    assert len(kept) == 1
    assert kept[0] != kept[0]
