"""What happens around the steps: budget, validation, history, checkpoints.

For lightning there is one epoch without end; ours are stretches of steps that are counted here.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from medseg3d.errors import MedSeg3DError
from medseg3d.progress import Progress
from medseg3d.training.budget import Budget, learning_rate
from medseg3d.training.course import Course
from medseg3d.training.history import History
from medseg3d.training.interrupts import Interrupts
from medseg3d.training.keeper import Keeper
from medseg3d.training.module import SegmentationModule
from medseg3d.training.plateau import Plateau
from medseg3d.training.team import ALONE, Team

log = logging.getLogger("medseg3d")

VALIDATION_SHARE = 0.05
"""Automatic validation takes about this part of the time."""

Validate = Callable[[nn.Module, int | None], Sequence[float]]
"""Dice of each foreground label over the first so many whole held-out cases, or over all of
them; nan where none has the label."""


@dataclass(frozen=True)
class Stage:
    """Part of a network's training, begun when ``start`` of the budget is used."""

    name: str
    start: float


class Pace(Callback):
    """Learning rate, training stage and end of the run, from the budget that is used up.

    Must stand before all others: it ends what a step must not be cut in.

    Args:
        budget: Steps or seconds.
        course: Counted here.
        keeper: Holds the average of the weights, which is updated here.
        interrupts: Held back from the moment the weights change until the step is counted.
        seed: Makes the random numbers of each step (dropout) independent of what ran before, so
            that a resumed run repeats an uninterrupted one.
        stages: In order; for networks with ``set_stage(name)``.
        team: Processes that keep the pace of the first one.

    Attributes:
        stage: The stage in hand, if the network has stages.
        begun_at: Part of the budget that was used when the step in hand began, for all processes.
    """

    def __init__(
        self,
        budget: Budget,
        course: Course,
        keeper: Keeper,
        interrupts: Interrupts,
        *,
        seed: int,
        stages: Sequence[Stage] = (),
        team: Team = ALONE,
    ) -> None:
        self.budget = budget
        self.seed = seed
        self.stages = tuple(stages)
        self.stage: str | None = None
        self.begun_at = 0.0
        self._course = course
        self._keeper = keeper
        self._interrupts = interrupts
        self._team = team
        self._progress: Progress | None = None

    @property
    def used(self) -> float:
        """Fraction of the budget that is used up."""
        return self.budget.used(self._course.step, self._course.seconds)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals from lightning and start the clock."""
        self._interrupts.install()
        self._interrupts.check()
        self._course.start_clock()
        self._progress = Progress("Training", total=self.budget.steps, unit="step")
        self._progress.__enter__()
        self._progress.advance(self._course.step)
        if self.used >= 1:  # resumed after its last step
            trainer.should_stop = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set learning rate and stage of this step."""
        assert isinstance(pl_module, SegmentationModule)
        self._interrupts.check()
        if not pl_module.begins_step(batch_idx):
            return
        used = self.begun_at = self._team.agreed(self.used)
        settings = pl_module.settings
        rate = learning_rate(
            used, peak=settings.learning_rate, warmup=settings.warmup, power=settings.decay_power
        )
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.begin_stage(pl_module.network)
        if hasattr(pl_module.network, "set_progress"):
            pl_module.network.set_progress(used)  # type: ignore[operator]
        others = (self._team.number,) if self._team.number else ()
        torch.manual_seed(hash((self.seed, self._course.step, *others)) & 0x7FFFFFFF)
        self._keeper.note_buffers(pl_module.network)

    def begin_stage(self, network: nn.Module) -> None:
        """Set the stage that is due."""
        due = [stage.name for stage in self.stages if stage.start <= self.used]
        if due and due[-1] != self.stage:
            self.stage = due[-1]
            network.set_stage(self.stage)  # type: ignore[operator]
            log.info("training stage %s", self.stage)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step and stop when the budget is used up."""
        assert isinstance(pl_module, SegmentationModule)
        assert self._progress is not None
        assert self._keeper.averaging is not None
        if not pl_module.ends_step(batch_idx):
            return
        self._keeper.averaging.update()
        self._keeper.forget_buffers()
        pl_module.end_step()
        self._course.step += 1
        self._course.losses.append(pl_module.step_loss)
        self._interrupts.release()
        self._course.losses[-1] = self._team.mean(pl_module.step_loss)
        note = f"loss {_mean(self._course.losses[-20:]):.3f}"
        if self.budget.steps is None:
            self._progress.set_progress(self.used, note=note)
        else:
            self._progress.advance(1, note=note)
        if self.used >= 1:
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the progress display, however training ended."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None


class Recorder(Callback):
    """Ends epochs: validates whole cases, keeps the best weights, writes history, checkpoints.

    Args:
        folder: Run folder.
        pace: Tells how much of the budget is used.
        course: Where the history grows.
        keeper: Writes checkpoints.
        interrupts: Tells whether the state is whole when something stops the training.
        label_names: Foreground labels, in the order of ``validate``.
        validate: Gives Dice per foreground label.
        num_held_out: Cases that a validation takes.
        save_best: Called with the network when its mean Dice is the best so far.
        steps_per_epoch: Steps after which an epoch ends.
        every: Epochs between validations; by default so that they take a small share of the time.
        plateau: Tells when to stop before the budget's end.
    """

    def __init__(
        self,
        folder: Path,
        pace: Pace,
        course: Course,
        keeper: Keeper,
        interrupts: Interrupts,
        *,
        label_names: Sequence[str],
        validate: Validate,
        num_held_out: int,
        save_best: Callable[[nn.Module, float], None],
        steps_per_epoch: int,
        every: int | None = None,
        plateau: Plateau,
    ) -> None:
        self.folder = folder
        self.pace = pace
        self.history = History(label_names, course.rows)
        self._course = course
        self._keeper = keeper
        self._interrupts = interrupts
        self._validate = validate
        self._save_best = save_best
        self._every = every
        self._num_held_out = num_held_out
        self._steps_per_epoch = steps_per_epoch
        self._plateau = plateau
        self._validated_at = 0.0
        self._cost = math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End what a checkpoint left unended, measure what a validation costs."""
        assert isinstance(pl_module, SegmentationModule)
        network = pl_module.network
        if self._plateau.is_reached(self._course.rows):  # resumed after it had stopped
            trainer.should_stop = True
        ends = trainer.should_stop
        if self._every is None and (not ends or self._course.losses):
            with self._course.paused():  # one large case could take all of the budget
                self._validate(network, 1)  # the first one also pays for compiling kernels
                begun = time.monotonic()
                self._validate(network, 1)
                self._validated_at = time.monotonic()
            self._cost = (self._validated_at - begun) * self._num_held_out
        self.pace.begin_stage(network)
        if self._epoch_ends(trainer):
            self._end_epoch(trainer, network)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the epoch if this was its last step; write a checkpoint from time to time."""
        assert isinstance(pl_module, SegmentationModule)
        if not pl_module.ends_step(batch_idx):
            return
        if self._epoch_ends(trainer):
            self._end_epoch(trainer, pl_module.network)
        if trainer.should_stop or self._keeper.is_due():
            self._keeper.save(trainer, pl_module.network)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write a checkpoint of the last whole step, whatever came between."""
        assert isinstance(pl_module, SegmentationModule)
        if not self._interrupts.is_whole:
            return
        self._interrupts.hold()  # when one of several processes has ended, a signal soon follows
        try:
            self._keeper.save(trainer, pl_module.network, anew=False)
        except MedSeg3DError as error:
            log.warning("no new checkpoint: %s", error)
        finally:
            self._interrupts.is_whole = True

    def _epoch_ends(self, trainer: Trainer) -> bool:
        num_losses = len(self._course.losses)
        return num_losses >= self._steps_per_epoch or (trainer.should_stop and num_losses > 0)

    def _end_epoch(self, trainer: Trainer, network: nn.Module) -> None:
        course, ends = self._course, trainer.should_stop
        epoch = -(-course.step // self._steps_per_epoch)
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": course.step,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "loss": _mean(course.losses),
        }
        assert self._keeper.averaging is not None
        with self._keeper.averaging.in_place(), torch.no_grad():
            names = ends and hasattr(network, "name_segments")  # which only a validation tells
            due = names or self._is_due(epoch, ends=ends)
            scores = self._scores(network) if due else None
            if ends and scores is None:
                self._save_best(network, math.nan)  # no validation was affordable
        row["minutes"] = course.seconds / 60
        if scores is not None:
            row["dice"] = _mean(scores)
            row |= {
                f"dice_{name}": score
                for name, score in zip(self.history.label_names, scores, strict=True)
            }
            log.info("epoch %d, %.1f min: %s", epoch, row["minutes"], self._in_words(row))
        course.rows.append(row)
        course.losses = []
        if scores is not None and not ends and self._plateau.is_reached(course.rows):
            trainer.should_stop = True
        self.history.write_csv(self.folder / "history.csv")
        if scores is not None or ends:
            self.history.draw(self.folder / "history.png")

    def _scores(self, network: nn.Module) -> Sequence[float]:
        begun = time.monotonic()
        course = self._course
        scores = self._validate(network, None)
        mean = _mean(scores)
        if self.pace.stage != course.stage:  # the stages before it only prepare the last one
            course.stage, course.best = self.pace.stage, -math.inf
        unknown = math.isnan(mean) and math.isinf(course.best)
        if mean > course.best or unknown or keeps_last(network):
            self._save_best(network, mean)
            course.best = -math.inf if math.isnan(mean) else mean
        self._validated_at = time.monotonic()
        self._cost = self._validated_at - begun
        return scores

    def _is_due(self, epoch: int, *, ends: bool) -> bool:
        if self._every is not None:
            return ends or epoch % self._every == 0
        if ends and math.isfinite(self._course.best):
            return True  # or an earlier validation alone would say which weights are kept
        since = time.monotonic() - self._validated_at
        return (self._course.seconds if ends else since) * VALIDATION_SHARE >= self._cost

    def _in_words(self, row: dict[str, Any]) -> str:
        parts = [f"{name} {row[f'dice_{name}']:.3f}" for name in self.history.label_names]
        return f"loss {row['loss']:.3f}, Dice {row['dice']:.3f} ({', '.join(parts)})"


def keeps_last(network: nn.Module) -> bool:
    """Whether the last weights are kept, because validation does not tell which are best."""
    return bool(getattr(network, "keeps_last", False))


def _mean(scores: Sequence[float]) -> float:
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan
