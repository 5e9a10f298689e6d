"""A whole run on toy patches: learning, history, best weights, averaging, exact resume."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from medseg3d.errors import RunError
from medseg3d.training.averaging import Averaging
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import Stage
from medseg3d.training.checkpoint import LAST
from medseg3d.training.history import History
from medseg3d.training.interrupts import Interrupts
from tests.training.small_runs import small_settings, stored, train_small


class BrightVoxels(Dataset[dict[str, Any]]):
    """Patches whose label is 1 where the image is bright; sample ``n`` is always the same."""

    def __init__(self, poison: int | None = None) -> None:
        self.poison = poison

    def __getitem__(self, n: int) -> dict[str, Any]:
        image = torch.randn(1, 6, 6, 6, generator=torch.Generator().manual_seed(n))
        if n == self.poison:
            image[0, 0, 0, 0] = torch.nan
        return {"image": image, "labels": (image > 0.3).to(torch.uint8), "case": f"case_{n}"}

    def case_id(self, n: int) -> str:
        return f"case_{n}"


class Dropping(nn.Module):
    """Two convolutions with dropout, whose randomness a resumed run must repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 4, 1), nn.LeakyReLU(), nn.Dropout(0.2), nn.Conv3d(4, 2, 1)
        )
        self.stages: list[str] = []
        self.progress: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def set_stage(self, name: str) -> None:
        self.stages.append(name)

    def set_progress(self, used: float) -> None:
        self.progress.append(used)


class Segmenting(Dropping):
    """Has segments that validation gives to labels."""

    def name_segments(self, names: list[int]) -> None:
        """Here they have none."""


def accuracy(network: nn.Module) -> list[float]:
    with torch.no_grad():
        sample = BrightVoxels()[10_000]
        return [
            float(
                (network.eval()(sample["image"][None]).argmax(1) == sample["labels"]).float().mean()
            )
        ]


def run(
    folder: Path,
    *,
    epochs: int,
    total_epochs: int | None = None,
    resume: bool = False,
    poison: int | None = None,
    kept: list[float] | None = None,
    stages: tuple[Stage, ...] = (),
    budget: Budget | None = None,
    stop_after: int | None = None,
    workers: int = 0,
    validate_every: int | None = 1,
    scores: list[float] | None = None,
) -> tuple[History, Dropping]:
    torch.manual_seed(0)
    network = Dropping()
    validations = 0

    def validate(network: nn.Module, num_cases: int | None) -> list[float]:
        nonlocal validations
        validations += num_cases is None
        if stop_after is not None and validations > stop_after:
            raise KeyboardInterrupt
        if scores is not None:
            return [scores[max(0, validations - 1)]]
        return accuracy(network)

    history = train_small(
        network,
        BrightVoxels(poison),
        folder,
        small_settings(
            budget=budget or Budget(steps=epochs * 5),
            steps_per_epoch=5,
            validate_every=validate_every,
            workers=workers,
            checkpoint_seconds=0,
            stages=stages,
        ),
        validate=validate,
        save_best=lambda _, score: kept.append(score) if kept is not None else None,
        resume=resume,
    )
    return history, network


def test_it_learns_and_leaves_history_picture_and_checkpoint(tmp_path: Path) -> None:
    kept: list[float] = []
    history, network = run(tmp_path, epochs=8, kept=kept)
    assert accuracy(network)[0] > 0.9
    assert kept == sorted(kept)
    assert kept[-1] == max(row["dice"] for row in history.rows)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(5 * n) for n in range(1, 9)]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert rows[-1]["dice_bright"]
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "checkpoints" / LAST).is_file()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path, workers: int) -> None:
    whole, network = run(tmp_path / "whole", epochs=6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", epochs=6, stop_after=3, workers=workers)
    resumed, other = run(tmp_path / "cut", epochs=6, resume=True, workers=workers)
    assert [row["loss"] for row in resumed.rows] == [row["loss"] for row in whole.rows]
    assert [row["dice"] for row in resumed.rows] == [row["dice"] for row in whole.rows]
    for ours, theirs in zip(other.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_time_budget_ends_with_a_validation(tmp_path: Path) -> None:
    history, _ = run(tmp_path, epochs=0, budget=Budget(seconds=0.4))
    assert history.rows[-1]["dice"] is not None
    assert history.rows[-1]["minutes"] * 60 < 20


def test_a_validation_that_is_never_affordable_leaves_the_last_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.training.callbacks.VALIDATION_SHARE", 0.0)
    kept: list[float] = []
    history, _ = run(tmp_path, epochs=3, validate_every=None, kept=kept)
    assert all("dice" not in row for row in history.rows)
    assert len(kept) == 1
    assert kept[0] != kept[0]


def test_segments_get_their_names_in_the_end_whatever_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.training.callbacks.VALIDATION_SHARE", 0.0)
    kept: list[float] = []
    history = train_small(
        Segmenting(),
        BrightVoxels(),
        tmp_path,
        small_settings(budget=Budget(steps=10), steps_per_epoch=5),
        save_best=lambda _, score: kept.append(score),
    )
    assert ["dice" in row for row in history.rows] == [False, True]
    assert kept == [0.5]


class Clock:
    """Time that passes when it is told to, and a little with every look at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, tick: float = 0.0) -> None:
        self.now, self.tick = 0.0, tick
        for module in ("callbacks", "course"):
            monkeypatch.setattr(f"medseg3d.training.{module}.time", self)

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def test_the_last_weights_are_validated_whatever_it_costs_if_earlier_ones_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    kept: list[float] = []
    scores = iter([0.5, 0.9])

    def dearer_than_measured(_: nn.Module, num_cases: int | None) -> list[float]:
        if num_cases is not None:
            return [0.0]
        clock.now += 0.3
        return [next(scores)]

    history = train_small(
        Dropping(),
        BrightVoxels(),
        tmp_path,
        small_settings(budget=Budget(steps=15), steps_per_epoch=5),
        validate=dearer_than_measured,
        save_best=lambda _, score: kept.append(score),
    )
    assert ["dice" in row for row in history.rows] == [True, False, True]
    assert kept == [0.5, 0.9]


def test_measuring_what_a_validation_costs_takes_nothing_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, tick=0.005)
    measured = 0

    def slow(_: nn.Module, num_cases: int | None) -> list[float]:
        nonlocal measured
        assert num_cases == 1
        measured += 1
        clock.now += 0.6
        if measured == 2:
            raise KeyboardInterrupt
        return [0.5]

    def train(*, resume: bool) -> History:
        return train_small(
            Dropping(),
            BrightVoxels(),
            tmp_path,
            small_settings(budget=Budget(seconds=1.0), steps_per_epoch=5),
            validate=slow,
            resume=resume,
        )

    with pytest.raises(KeyboardInterrupt):
        train(resume=False)
    assert stored(tmp_path).facts["seconds"] < 0.6
    history = train(resume=True)
    assert measured == 4
    assert history.rows[0]["learning_rate"] > 0
    assert history.rows[-1]["step"] > 1


def test_every_epoch_has_samples_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = BrightVoxels.__getitem__

    def noted(self: BrightVoxels, n: int) -> dict[str, Any]:
        seen.append(n)
        return plain(self, n)

    monkeypatch.setattr(BrightVoxels, "__getitem__", noted)
    run(tmp_path, epochs=3)
    assert [n for n in seen if n < 10_000] == list(range(30))


def test_a_loss_that_is_not_finite_names_the_cases(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"step 3 on cases case_6, case_7"):
        run(tmp_path, epochs=2, poison=7)


def test_stages_begin_at_their_share_of_the_budget(tmp_path: Path) -> None:
    _, network = run(tmp_path, epochs=4, stages=(Stage("first", 0.0), Stage("second", 0.5)))
    assert network.stages == ["first", "second"]


def test_the_best_of_an_earlier_stage_does_not_count(tmp_path: Path) -> None:
    kept: list[float] = []
    stages = (Stage("first", 0.0), Stage("second", 0.5))
    history, _ = run(tmp_path, epochs=4, stages=stages, kept=kept, scores=[0.9, 0.8, 0.5, 0.6])
    assert [row["dice"] for row in history.rows] == [0.9, 0.8, 0.5, 0.6]
    assert kept == [0.9, 0.5, 0.6]


def test_averaging_is_the_moving_average_it_claims() -> None:
    network = nn.BatchNorm1d(2)
    averaging = Averaging(network, 0.9, Interrupts())
    weights = averaging.tensors["weight"]

    def step(value: float, count: int) -> None:
        with torch.no_grad():
            network.weight.fill_(value)
            network.num_batches_tracked.fill_(count)
        averaging.update()

    step(0.0, 1)
    assert weights.tolist() == [0, 0], "the first update copies"
    step(1.0, 2)
    torch.testing.assert_close(weights, torch.full((2,), 1 - 2 / 11))
    assert averaging.tensors["num_batches_tracked"] == 2
    averaging.updates = 1000
    step(2.0, 3)
    torch.testing.assert_close(weights, torch.full((2,), 0.9 * (1 - 2 / 11) + 0.1 * 2))
    with averaging.in_place():
        torch.testing.assert_close(network.weight.detach(), torch.full((2,), 0.9 * 9 / 11 + 0.2))
    assert network.weight.tolist() == [2, 2]


def test_the_network_is_told_how_much_of_the_training_is_over(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, epochs=3, stop_after=1)
    _, network = run(tmp_path, epochs=3, resume=True)
    assert network.progress == pytest.approx([n / 15 for n in range(10, 15)])
