"""How far a long piece of work has come: a bar on a terminal, else a line now and then."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

T = TypeVar("T")

LOGGER = logging.getLogger("medseg3d")
SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_FRAMES = 0.1


class StderrHandler(logging.Handler):
    """Writes to the stderr of the moment, which a progress bar replaces while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; warnings and errors say what they are."""
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        try:
            with suppress(OSError, ValueError, AttributeError):  # nobody listens, the work goes on
                sys.stderr.write(f"{level}{self.format(record)}\n")
        except Exception:  # a message that does not fit its values
            self.handleError(record)


def track(
    iterable: Iterable[T], description: str, *, total: int | None = None, unit: str = "case"
) -> Iterator[T]:
    """Yield the items and show how many of them are done.

    Args:
        iterable: What to work on.
        description: The work in a word or two: ``"Preprocessing"``.
        total: How many items there are; by default the length of ``iterable`` if it has one.
        unit: One item, in the singular.

    Examples:
        >>> sum(track([1, 2, 3], "Adding", unit="number"))
        6
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(description, total=total, unit=unit) as progress:
        for item in iterable:
            yield item
            progress.advance()


class Progress:
    """Shows the state of one piece of work while its ``with`` block runs.

    On a terminal a bar is drawn on stderr; elsewhere a line goes to the ``medseg3d`` logger
    every 30 s and once at the end. A logger that is set above ``INFO`` switches both off.
    Work with a number of steps gives ``total`` and calls :meth:`advance`; work with a time
    budget also says with :meth:`set_progress` which share of it is used.

    Args:
        description: The work in a word or two: ``"Training"``.
        total: Number of steps, if it is known.
        unit: One step, in the singular.
        clock: Seconds from any start; tests hand in their own.
        terminal: Whether to draw a bar; by default whether stderr is a terminal.

    Examples:
        >>> with Progress("Training", total=400, unit="step") as progress:
        ...     progress.advance(120, note="loss 0.31")
        ...     progress.status().split(", ")[0]
        '120 of 400 steps'
    """

    def __init__(
        self,
        description: str,
        *,
        total: int | None = None,
        unit: str = "step",
        clock: Callable[[], float] = time.monotonic,
        terminal: bool | None = None,
    ) -> None:
        self._description = description
        self._total = total
        self._unit = unit
        self._clock = clock
        # a service may run without any stderr
        has_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._terminal = has_terminal if terminal is None else terminal
        self._done = 0
        self._fraction: float | None = None
        self._note = ""
        self._start = self._shown = clock()
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        self._start = self._shown = self._clock()
        if self._terminal and LOGGER.level <= logging.INFO:
            self._bar = _new_bar(self._description)
            self._bar.start()
            self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()
            return
        ended = "" if kind is None else "stopped after "
        LOGGER.info("%s: %s%s", self._description, ended, self._summary())

    def advance(self, steps: int = 1, *, note: str | None = None) -> None:
        """Count ``steps`` more as done; ``note`` is shown behind the numbers."""
        self._done += steps
        self._note = self._note if note is None else note
        self._show()

    def set_progress(self, fraction: float, *, note: str | None = None) -> None:
        """Say which share of the work, or of its time budget, is done, in ``[0, 1]``."""
        self._fraction = min(max(fraction, 0.0), 1.0)
        self._note = self._note if note is None else note
        self._show()

    def status(self) -> str:
        """Steps, steps per second, time left and the note, as one line."""
        seconds = self._clock() - self._start
        fraction = self._share()
        parts = [self._steps()]
        if self._fraction is not None:
            parts.append(f"{self._fraction:.0%}")
        if self._done and seconds > 0:
            parts.append(_rate(self._done / seconds, self._unit))
        if fraction and seconds > 0 and fraction < 1:
            parts.append(f"{duration(seconds * (1 - fraction) / fraction)} left")
        return ", ".join(part for part in [*parts, self._note] if part)

    def _show(self) -> None:
        now = self._clock()
        pause = SECONDS_BETWEEN_LINES if self._bar is None else SECONDS_BETWEEN_FRAMES
        if now - self._shown < pause:
            return
        self._shown = now
        if self._bar is None:
            LOGGER.info("%s: %s", self._description, self.status())
        else:
            self._draw()

    def _draw(self) -> None:
        assert self._bar is not None
        [task] = self._bar.task_ids
        used = duration(self._clock() - self._start)
        completed = self._share() or 0.0
        self._bar.update(task, completed=completed, used=used, status=self.status(), refresh=True)

    def _share(self) -> float | None:
        """Share of the work that is done, or None if nobody can know."""
        if self._fraction is not None:
            return self._fraction
        return self._done / self._total if self._total else None

    def _steps(self) -> str:
        if self._total is not None:
            done = self._done or int(self._total * (self._fraction or 0.0))
            return f"{done} of {_count(self._total, self._unit)}"
        return _count(self._done, self._unit) if self._done or self._fraction is None else ""

    def _summary(self) -> str:
        parts = [self._steps() or f"{self._fraction or 0:.0%}", self._note]
        parts[0] += f" in {duration(self._clock() - self._start)}"
        return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """A time span with its two largest units.

    Examples:
        >>> duration(7.3), duration(133), duration(3 * 3600 + 240)
        ('7 s', '2 min 13 s', '3 h 4 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _count(number: int, unit: str) -> str:
    ending = "" if number == 1 else "es" if unit.endswith(("ch", "s", "x")) else "s"
    return f"{number} {unit}{ending}"


def _rate(per_second: float, unit: str) -> str:
    if per_second < 0.1:
        return f"{duration(1 / per_second)} per {unit}"
    return f"{per_second:.1f} {_count(2, unit).removeprefix('2 ')}/s"


@cache
def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)  # one for all, so that a bar inside a bar is drawn below it


def _new_bar(description: str) -> "Bar":
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[used]}", markup=False),
        TextColumn("{task.fields[status]}", markup=False),
        console=_console(),
        auto_refresh=False,
    )
    bar.add_task(description, total=1.0, used="", status="")
    return bar
