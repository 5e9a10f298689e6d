"""How far training has come."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Course:
    """Steps, time and history; what a checkpoint holds beside its tensors.

    Args:
        facts: Of a checkpoint to go on from; by default training begins.

    Attributes:
        step: Optimizer steps taken.
        losses: Losses of the epoch that has not ended.
        rows: History, one row per epoch that has ended.
        best: Best mean Dice of the stage.
        stage: Training stage in which it was reached.
        seconds_before: Training time until the clock was last started.

    Examples:
        >>> course = Course({"step": 3, "losses": [0.5], "seconds": 60.0})
        >>> course.step, course.facts()["losses"], course.seconds
        (3, [0.5], 60.0)
    """

    def __init__(self, facts: Mapping[str, Any] | None = None) -> None:
        facts = facts or {}
        self.step: int = facts.get("step", 0)
        self.losses: list[float] = facts.get("losses", [])
        self.rows: list[dict[str, Any]] = facts.get("rows", [])
        self.best: float = facts.get("best", -math.inf)
        self.stage: str | None = facts.get("stage")
        self.seconds_before: float = facts.get("seconds", 0.0)
        self._begun: float | None = None

    @property
    def seconds(self) -> float:
        """Training time so far, of earlier parts of a resumed run too."""
        if self._begun is None:
            return self.seconds_before
        return self.seconds_before + time.monotonic() - self._begun

    def start_clock(self) -> None:
        """Count time from now on."""
        self._begun = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count no time inside; the clock goes on after it, whatever ends it."""
        self.seconds_before, self._begun = self.seconds, None
        try:
            yield
        finally:
            self.start_clock()

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        names = ("step", "losses", "rows", "best", "stage", "seconds")
        return {name: getattr(self, name) for name in names}
