"""Showing a run: when, at what cost, and that nothing that goes wrong with it stops a training."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg3d.training import loggers
from medseg3d.training.budget import Budget
from medseg3d.training.history import History
from medseg3d.training.live import SHARE, Moment
from tests.training.small_runs import small_settings, train_small

EPOCHS = 6


class Bright:
    """Patches whose label is 1 where the image is bright; each may take a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __getitem__(self, n: int) -> dict[str, Any]:
        time.sleep(self.seconds)
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


@pytest.fixture(autouse=True)
def without_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the history, which takes longer than such a run."""
    monkeypatch.setattr(History, "draw", lambda *_: None)


def run(
    folder: Path,
    publish: Callable[[Moment], None] | None = None,
    *,
    seconds: float = 0.0,
    validate: Callable[..., list[float]] = lambda *_: [0.5],
    logger: loggers.LoggerName | None = None,
    resume: bool = False,
) -> tuple[History, nn.Module]:
    torch.manual_seed(0)
    network = Flat()
    history = train_small(
        network,
        Bright(seconds),
        folder,
        small_settings(
            budget=Budget(steps=2 * EPOCHS),
            batch_size=1,
            steps_per_epoch=2,
            validate_every=1,
            logger=logger,
            checkpoint_seconds=0,
        ),
        validate=validate,
        resume=resume,
        publish=publish,
    )
    return history, network


def test_a_run_is_shown_from_its_start_to_its_end(tmp_path: Path) -> None:
    shown: list[Moment] = []
    history, _ = run(tmp_path, shown.append)
    assert [moment.state for moment in shown] == ["training"] * EPOCHS + ["over"]
    assert [moment.step for moment in shown] == [0, 2, 4, 6, 8, 10, 12]
    assert [len(moment.rows) for moment in shown] == list(range(EPOCHS + 1))
    assert list(shown[-1].rows) == history.rows
    assert [moment.used for moment in shown] == pytest.approx([n / 6 for n in range(7)])
    assert shown[0].seconds_left is None
    assert shown[3].seconds_left == pytest.approx(shown[3].seconds)
    assert shown[-1].seconds_left == 0


def test_showing_it_takes_a_hundredth_of_the_time(tmp_path: Path) -> None:
    shown: list[Moment] = []

    def slowly(moment: Moment) -> None:
        time.sleep(0.02)
        shown.append(moment)

    run(tmp_path, slowly, seconds=0.1)  # 0.2 s an epoch
    running = [moment for moment in shown if moment.state == "training"]
    assert shown[-1].state == "over"
    assert 1 <= len(running) <= 1 + SHARE * shown[-1].seconds / 0.02


def test_what_fails_in_showing_it_is_told_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(moment: Moment) -> None:
        raise OSError(28, "No space left on device", "index.html")

    _, network = run(tmp_path / "failing", fail)
    _, other = run(tmp_path / "plain")
    assert all(map(torch.equal, network.parameters(), other.parameters()))
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [
        "the page of this run failed, training goes on: index.html: No space left on device"
    ]


def test_a_run_that_is_stopped_is_shown_as_such_and_goes_on(tmp_path: Path) -> None:
    shown: list[Moment] = []
    calls = 0

    def interrupted(*_: object) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return [0.5]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, shown.append, validate=interrupted)
    assert [moment.state for moment in shown] == ["training"] * 3 + ["stopped"]
    resumed: list[Moment] = []
    run(tmp_path, resumed.append, resume=True)
    assert resumed[0].step == 6
    assert (resumed[-1].state, resumed[-1].step) == ("over", 12)


def test_ctrl_c_while_it_is_shown_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    def interrupt(moment: Moment) -> None:
        if moment.step == 4 and moment.state == "training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", interrupt)
    resumed, network = run(tmp_path / "cut", resume=True)
    whole, other = run(tmp_path / "whole")
    assert [row["loss"] for row in resumed.rows] == [row["loss"] for row in whole.rows]
    assert all(map(torch.equal, network.parameters(), other.parameters()))
