"""Showing a run while it goes on: at little cost, and whatever goes wrong with it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from medseg3d.process import sentence
from medseg3d.training.callbacks import Pace
from medseg3d.training.course import Course

log = logging.getLogger("medseg3d")

SHARE = 0.01
"""Showing a run takes at most about this part of its time."""

State = Literal["training", "stopped", "over"]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """How far a run has come.

    Attributes:
        rows: History, one row per epoch that has ended.
        step: Optimizer steps taken.
        used: Fraction of the budget that is used up.
        seconds: Training time so far.
        state: Whether training goes on, was stopped before its end, or is over.
    """

    rows: Sequence[Mapping[str, Any]]
    step: int
    used: float
    seconds: float
    state: State

    @property
    def seconds_left(self) -> float | None:
        """Time that the rest of the budget takes; None while nobody can know.

        Examples:
            >>> Moment(rows=(), step=5, used=0.25, seconds=60.0, state="training").seconds_left
            180.0
        """
        return self.seconds * (1 - self.used) / self.used if self.used else None


Publish = Callable[[Moment], None]


class Bystander:
    """Lets training go on when something fails that it does not need.

    Args:
        what: What may fail, to begin the warning with.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._was_told = False

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Turn any error inside into a warning, the first time, and into nothing from then on."""
        try:
            yield
        except Exception as error:
            if not self._was_told:
                log.warning("%s failed, training goes on: %s", self._what, sentence(error))
            self._was_told = True


class Live(Callback):
    """Publishes the run at its start and end, and when an epoch has ended and it is affordable.

    Must stand after :class:`medseg3d.training.callbacks.Recorder`, which ends epochs and writes
    checkpoints.

    Args:
        pace: Tells how much of the budget is used.
        course: What is shown.
        publish: Shows it; its errors are told once and otherwise ignored.
    """

    def __init__(self, pace: Pace, course: Course, publish: Publish) -> None:
        self._pace = pace
        self._course = course
        self._publish = publish
        self._bystander = Bystander("the page of this run")
        self._num_shown = 0
        self._spent = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that training has begun."""
        self._show("training")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show an epoch that has ended."""
        is_new = len(self._course.rows) > self._num_shown
        if is_new and not trainer.should_stop and self._spent <= SHARE * self._course.seconds:
            self._show("training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that training is over."""
        self._show("over")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Show that training was stopped."""
        self._show("stopped")

    def _show(self, state: State) -> None:
        begun = time.monotonic()
        course = self._course
        with self._bystander.attempt():
            self._publish(
                Moment(
                    rows=tuple(course.rows),
                    step=course.step,
                    used=self._pace.used,
                    seconds=course.seconds,
                    state=state,
                )
            )
        self._num_shown = len(course.rows)
        self._spent += time.monotonic() - begun
