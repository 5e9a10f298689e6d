"""Early stop: counted by hand, the same after a resume, off unless asked for."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from medseg3d.config import FitConfig
from medseg3d.training.budget import Budget
from medseg3d.training.history import History
from medseg3d.training.plateau import WINDOW, Plateau, since_best, smoothed
from tests.training.small_runs import small_settings, train_small

GOOD_THEN_FLAT = [0.25, 0.5, 0.75, 0.75, 0.75, 0.75, 0.5, 0.75, 0.75, 0.75]
# means of three:              0.5,  0.67, 0.75, 0.75, 0.67, 0.67, 0.67, 0.75


def rows(scores: list[float]) -> list[dict[str, Any]]:
    return [{"epoch": n, "minutes": n / 2, "dice": dice} for n, dice in enumerate(scores, start=1)]


@pytest.mark.parametrize(("patience", "stops_at"), [(1, 6), (2, 7), (4, 9), (5, 10), (6, None)])
def test_it_stops_after_so_many_validations_without_a_better_mean(
    patience: int, stops_at: int | None
) -> None:
    plateau = Plateau(patience)
    numbers = range(1, len(GOOD_THEN_FLAT) + 1)
    reached = [n for n in numbers if plateau.is_reached(rows(GOOD_THEN_FLAT[:n]))]
    assert (reached[0] if reached else None) == stops_at


def test_it_says_when_the_best_was_and_why_it_stops(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "medseg3d"):
        assert Plateau(2).is_reached(rows(GOOD_THEN_FLAT[:7]))
    assert caplog.messages == [
        "stopping early: no better Dice in 2 validations (the mean of 3 was at most 0.7500, at "
        "epoch 5 after 2.5 min); the best weights are kept"
    ]


def test_epochs_that_were_not_validated_or_have_no_label_do_not_count() -> None:
    scored = rows(GOOD_THEN_FLAT[:7])
    unscored = [{"epoch": 0, "minutes": 0.0}, {"epoch": 0, "minutes": 0.0, "dice": math.nan}]
    mixed = [row for one in scored for row in (*unscored, one)]
    assert Plateau(2).is_reached(mixed)
    assert not Plateau(2).is_reached(unscored * 50)
    assert not Plateau(3).is_reached(mixed)


def test_without_patience_nothing_stops() -> None:
    assert not Plateau(None).is_reached(rows([0.9] * 100))
    assert FitConfig(data=Path()).early_stop is None


@given(st.lists(st.integers(0, 64), max_size=30))
def test_counts_agree_with_the_definition(numbers: list[int]) -> None:
    scores = [number / 64 for number in numbers]
    means = smoothed(scores)
    expected = [
        sum(numbers[n : n + WINDOW]) / 64 / WINDOW for n in range(len(numbers) - WINDOW + 1)
    ]
    assert means == pytest.approx(expected)
    whole = [float(sum(numbers[n : n + WINDOW])) for n in range(len(numbers) - WINDOW + 1)]
    later = [n for n in range(len(whole)) if max(whole[: n + 1]) == max(whole)]
    assert since_best(whole) == (len(later) - 1 if later else 0)


class Bright:
    def __getitem__(self, n: int) -> dict[str, Any]:
        image = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(n))
        return {"image": image, "labels": (image > 0).to(torch.uint8), "case": "case"}

    def case_id(self, n: int) -> str:
        return f"case_{n}"


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def run(
    folder: Path, scores: list[float], *, early_stop: int | None, resume: bool = False
) -> History:
    left = iter(scores)
    torch.manual_seed(0)
    return train_small(
        Flat(),
        Bright(),
        folder,
        small_settings(
            budget=Budget(steps=20),
            batch_size=1,
            steps_per_epoch=2,
            validate_every=1,
            early_stop=early_stop,
            checkpoint_seconds=0,
        ),
        validate=lambda _, __: [next(left, 0.0)],
        resume=resume,
    )


def test_a_run_on_a_plateau_ends_before_its_budget_with_a_checkpoint(tmp_path: Path) -> None:
    history = run(tmp_path, GOOD_THEN_FLAT, early_stop=2)
    assert [row["dice"] for row in history.rows] == GOOD_THEN_FLAT[:7]
    assert history.rows[-1]["step"] == 14
    assert (tmp_path / "history.png").is_file()
    resumed = run(tmp_path, [], early_stop=2, resume=True)
    assert [row["step"] for row in resumed.rows] == [row["step"] for row in history.rows]


def test_a_run_without_it_takes_the_whole_budget(tmp_path: Path) -> None:
    history = run(tmp_path, [0.5] * 10, early_stop=None)
    assert history.rows[-1]["step"] == 20


def test_stages_and_early_stop_exclude_each_other() -> None:
    stages = [{"name": "2d", "share": 1.0}]
    with pytest.raises(ValueError, match="early_stop and stages exclude each other"):
        FitConfig(data=Path(), stages=stages, early_stop=3)
