"""The line for logs and the bar for terminals, on a clock that the tests turn themselves."""

import io
import logging
from collections.abc import Iterator

import pytest

from medseg3d import progress as module
from medseg3d.progress import LOGGER, Progress, StderrHandler, duration, track


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def run(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, logger="medseg3d"):
        yield


def test_line_tells_steps_rate_time_left_and_note(clock: Clock) -> None:
    with Progress("Training", total=400, unit="step", clock=clock, terminal=False) as progress:
        clock.run(60)
        progress.advance(120, note="loss 0.31")
        assert progress.status() == "120 of 400 steps, 2.0 steps/s, 2 min 20 s left, loss 0.31"


def test_a_line_is_logged_every_thirty_seconds_and_at_the_end(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with Progress("Training", total=100, clock=clock, terminal=False) as progress:
        for _ in range(7):
            clock.run(10)
            progress.advance(10)
    assert caplog.messages == [
        "Training: 30 of 100 steps, 1.0 steps/s, 1 min 10 s left",
        "Training: 60 of 100 steps, 1.0 steps/s, 40 s left",
        "Training: 70 of 100 steps in 1 min 10 s",
    ]


def test_note_stays_until_it_is_replaced(clock: Clock) -> None:
    with Progress("Training", total=4, clock=clock, terminal=False) as progress:
        progress.advance(note="loss 0.9")
        progress.advance()
        assert progress.status().endswith("loss 0.9")
        progress.advance(note="")
        assert "loss" not in progress.status()


def test_time_budget_gives_the_time_left(clock: Clock) -> None:
    with Progress("Training", unit="step", clock=clock, terminal=False) as progress:
        clock.run(90)
        progress.advance(180)
        progress.set_progress(0.25, note="loss 0.5")
        assert progress.status() == "180 steps, 25%, 2.0 steps/s, 4 min 30 s left, loss 0.5"


def test_fraction_outside_zero_to_one_is_clipped(clock: Clock) -> None:
    with Progress("Training", clock=clock, terminal=False) as progress:
        clock.run(10)
        progress.set_progress(1.7)
        assert progress.status() == "100%"
        progress.set_progress(-1)
        assert progress.status() == "0%"


def test_fraction_of_a_known_total_counts_whole_cases(clock: Clock) -> None:
    with Progress("Predicting", total=4, unit="case", clock=clock, terminal=False) as progress:
        clock.run(10)
        progress.set_progress(0.6)
        assert progress.status().startswith("2 of 4 cases, 60%")


def test_no_time_left_is_promised_before_the_first_step(clock: Clock) -> None:
    with Progress("Training", total=10, clock=clock, terminal=False) as progress:
        assert progress.status() == "0 of 10 steps"
        clock.run(5)
        assert progress.status() == "0 of 10 steps"


def test_slow_steps_are_told_in_time_per_step(clock: Clock) -> None:
    with Progress("Predicting", total=3, unit="case", clock=clock, terminal=False) as progress:
        clock.run(75)
        progress.advance()
        assert "1 min 15 s per case" in progress.status()


def test_failure_is_told_as_stopped(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    work = Progress("Scoring", total=3, unit="case", clock=clock, terminal=False)
    work.advance()
    with pytest.raises(ValueError, match="broken"), work:
        raise ValueError("broken")
    assert caplog.messages == ["Scoring: stopped after 1 of 3 cases in 0 s"]


@pytest.mark.parametrize(
    ("number", "unit", "expected"),
    [(1, "case", "1 case"), (2, "case", "2 cases"), (0, "patch", "0 patches")],
)
def test_units_are_counted_in_words(number: int, unit: str, expected: str) -> None:
    with Progress("Work", unit=unit, terminal=False) as progress:
        progress.advance(number)
        assert progress.status().split(", ")[0] == expected


def test_track_yields_every_item_and_knows_the_length(caplog: pytest.LogCaptureFixture) -> None:
    assert list(track(["a", "b"], "Reading")) == ["a", "b"]
    assert caplog.messages == ["Reading: 2 of 2 cases in 0 s"]


def test_track_takes_the_total_of_an_iterator(caplog: pytest.LogCaptureFixture) -> None:
    assert sum(track(iter([1, 2]), "Adding", total=2, unit="number")) == 3
    assert caplog.messages == ["Adding: 2 of 2 numbers in 0 s"]


def test_quiet_logger_says_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    LOGGER.setLevel(logging.WARNING)
    with Progress("Training", total=2, clock=clock, terminal=True) as progress:
        clock.run(60)
        progress.advance(2)
    assert caplog.messages == []
    assert capsys.readouterr().err == ""


def test_terminal_gets_a_bar_and_no_lines(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(module, "_console", lambda: console)
    with Progress("Training", total=4, clock=clock, terminal=True) as progress:
        clock.run(10)
        progress.advance(2, note="loss [0.3]")
    last = screen.getvalue().split("\r")[-1]
    assert "Training" in last
    assert "10 s" in last
    assert "2 of 4 steps, 0.2 steps/s, 10 s left, loss [0.3]" in last
    assert caplog.messages == []


def test_bar_is_drawn_ten_times_a_second_at_most(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    monkeypatch.setattr(Progress, "_draw", lambda _: drawn.append(clock.seconds))
    with Progress("Training", total=1000, clock=clock, terminal=True) as progress:
        for _ in range(100):
            clock.run(0.01)
            progress.advance()
    assert len(drawn) == pytest.approx(12, abs=2)


def test_durations_have_two_units() -> None:
    assert [duration(s) for s in (0.4, 59.6, 3599, 7300)] == [
        "0 s",
        "1 min 0 s",
        "59 min 59 s",
        "2 h 1 min",
    ]


def test_a_service_without_stderr_needs_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with Progress("Training", total=1) as progress:
        progress.advance()


def test_a_message_that_does_not_fit_its_values_ends_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "fold %d", ("Oslo",), None)
    StderrHandler().handle(record)
    told = capsys.readouterr().err
    assert "fold %d" in told
    assert "Oslo" in told
