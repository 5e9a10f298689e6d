"""What happens around the steps: budget, validation, checkpoints, history, averaging."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.utils.data import Sampler

from medseg3d.progress import Progress
from medseg3d.training.budget import Budget, learning_rate
from medseg3d.training.history import History
from medseg3d.training.module import SegmentationModule

log = logging.getLogger("medseg3d")

NEVER = 1 << 30
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


class EpochNumbers(Sampler[int]):
    """Global numbers of the samples of one epoch; lightning tells it which epoch it is."""

    def __init__(self, per_epoch: int) -> None:
        self.per_epoch = per_epoch
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples come next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.per_epoch
        return iter(range(first, first + self.per_epoch))

    def __len__(self) -> int:
        return self.per_epoch


class Pace(Callback):
    """Learning rate, training stage and end of the run, from the budget that is used up.

    Args:
        budget: Steps or seconds.
        numbers: Sampler of the training patches, told where a resumed run goes on.
        seed: Makes the random numbers of each step (dropout) independent of what ran before, so
            that a resumed run repeats an uninterrupted one.
        stages: In order; for networks with ``set_stage(name)``.
    """

    def __init__(
        self,
        budget: Budget,
        numbers: EpochNumbers,
        *,
        seed: int,
        stages: Sequence[Stage] = (),
    ) -> None:
        self.budget = budget
        self.numbers = numbers
        self.seed = seed
        self.stages = tuple(stages)
        self.stage: str | None = None
        self._seconds_before = 0.0
        self._begun = 0.0
        self._progress: Progress | None = None

    @property
    def seconds(self) -> float:
        """Training time so far, of earlier parts of a resumed run too."""
        return self._seconds_before + (time.monotonic() - self._begun if self._begun else 0.0)

    def used(self, trainer: Trainer) -> float:
        """Fraction of the budget that is used up."""
        return self.budget.used(trainer.global_step, self.seconds)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begun = time.monotonic()
        self._progress = Progress("Training", total=self.budget.steps, unit="step")
        self._progress.__enter__()
        if self.used(trainer) >= 1:  # resumed after its last step
            trainer.should_stop = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set learning rate and stage of this step."""
        assert isinstance(pl_module, SegmentationModule)
        used = self.used(trainer)
        settings = pl_module.settings
        rate = learning_rate(
            used, peak=settings.learning_rate, warmup=settings.warmup, power=settings.decay_power
        )
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate
        due = [stage.name for stage in self.stages if stage.start <= used]
        if due and due[-1] != self.stage:
            self.stage = due[-1]
            pl_module.network.set_stage(self.stage)  # type: ignore[operator]
            log.info("training stage %s", self.stage)
        torch.manual_seed(hash((self.seed, trainer.global_step)) & 0x7FFFFFFF)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop when the budget is used up."""
        assert isinstance(pl_module, SegmentationModule)
        assert self._progress is not None
        used = self.used(trainer)
        recent = pl_module.epoch_losses[-20:]
        note = f"loss {sum(recent) / len(recent):.3f}"
        if self.budget.steps is None:
            self._progress.set_progress(used, note=note)
        else:
            self._progress.advance(1, note=note)
        if used >= 1:
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the progress display, however training ended."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def state_dict(self) -> dict[str, Any]:
        """Time and epoch, for the checkpoint at an epoch's end."""
        return {"seconds": self.seconds, "next_epoch": self.numbers.epoch + 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was written."""
        self._seconds_before = float(state_dict["seconds"])
        # loaders with workers draw their first numbers before lightning says which epoch it is
        self.numbers.set_epoch(int(state_dict["next_epoch"]))


class Recorder(Callback):
    """Validates whole cases, keeps the best weights of the stage, writes the history.

    Must stand before :class:`Averaging` in the list of callbacks: it validates and saves while
    the averaged weights are in the network.

    Args:
        folder: Run folder.
        pace: Tells the time.
        history: Table to fill.
        validate: Gives Dice per foreground label.
        num_held_out: Cases that a validation takes.
        save_best: Called with the network when its mean Dice is the best so far.
        every: Epochs between validations; by default so that they take a small share of the time.
        checkpoint_seconds: Shortest time between two checkpoints.
    """

    def __init__(
        self,
        folder: Path,
        pace: Pace,
        history: History,
        *,
        validate: Validate,
        num_held_out: int,
        save_best: Callable[[nn.Module, float], None],
        every: int | None = None,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        self.folder = folder
        self.pace = pace
        self.history = history
        self.best = -math.inf
        self._validate = validate
        self._save_best = save_best
        self._every = every
        self._checkpoint_seconds = checkpoint_seconds
        self._num_held_out = num_held_out
        self._validated_at = 0.0
        self._cost = math.inf
        self._saved_at = -math.inf
        self._stage: str | None = None
        self._scores: Sequence[float] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what a validation costs, on one case."""
        assert isinstance(pl_module, SegmentationModule)
        self._validate(pl_module.network, 1)  # the first one also pays for compiling kernels
        begun = time.monotonic()
        self._validate(pl_module.network, 1)
        self._validated_at = time.monotonic()
        self._cost = (self._validated_at - begun) * self._num_held_out

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Decide, at the end of an epoch, whether it is validated."""
        trainer.check_val_every_n_epoch = 1 if self._is_due(trainer) else NEVER

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score whole cases and keep the best weights."""
        assert isinstance(pl_module, SegmentationModule)
        begun = time.monotonic()
        scores = self._validate(pl_module.network, None)
        self._scores = scores
        mean = _mean(scores)
        if self.pace.stage != self._stage:  # the stages before it only prepare the last one
            self._stage, self.best = self.pace.stage, -math.inf
        if mean > self.best or (math.isnan(mean) and math.isinf(self.best)):
            self.best = -math.inf if math.isnan(mean) else mean
            self._save_best(pl_module.network, mean)
        self._validated_at = time.monotonic()
        self._cost = self._validated_at - begun

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the history and, from time to time, a checkpoint to resume from."""
        assert isinstance(pl_module, SegmentationModule)
        losses, pl_module.epoch_losses = pl_module.epoch_losses, []
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "minutes": self.pace.seconds / 60,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "loss": sum(losses) / max(1, len(losses)),
        }
        if self._scores is not None:
            row["dice"] = _mean(self._scores)
            row |= {
                f"dice_{name}": score
                for name, score in zip(self.history.label_names, self._scores, strict=True)
            }
            log.info("epoch %d, %.1f min: %s", row["epoch"], row["minutes"], self._in_words(row))
        self.history.rows.append(row)
        self.history.write_csv(self.folder / "history.csv")
        if self._scores is not None or trainer.should_stop:
            self.history.draw(self.folder / "history.png")
        self._scores = None
        if trainer.should_stop and math.isinf(self.best):  # a validation was never affordable
            self._save_best(pl_module.network, math.nan)
        now = time.monotonic()
        if trainer.should_stop or now - self._saved_at >= self._checkpoint_seconds:
            save_checkpoint(trainer, self.folder / "checkpoints" / "last.ckpt")
            self._saved_at = now

    def state_dict(self) -> dict[str, Any]:
        """History and best score, for the checkpoint."""
        return {"rows": self.history.rows, "best": self.best, "stage": self._stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.history.rows = list(state_dict["rows"])
        self.best = float(state_dict["best"])
        self._stage = state_dict["stage"]

    def _is_due(self, trainer: Trainer) -> bool:
        ends = trainer.should_stop or self.pace.used(trainer) >= 1
        if self._every is not None:
            return ends or (trainer.current_epoch + 1) % self._every == 0
        since = time.monotonic() - self._validated_at
        return (self.pace.seconds if ends else since) * VALIDATION_SHARE >= self._cost

    def _in_words(self, row: dict[str, Any]) -> str:
        parts = [f"{name} {row[f'dice_{name}']:.3f}" for name in self.history.label_names]
        return f"loss {row['loss']:.3f}, Dice {row['dice']:.3f} ({', '.join(parts)})"


class Averaging(WeightAveraging):
    """Exponential moving average of the weights, quick at first.

    After ``n`` updates the decay is ``min(decay, (1 + n) / (10 + n))``, so that a short run is
    not held back by its initial weights.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        def average(averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor) -> None:
            count = int(updates)
            weight = 1 - min(decay, (1 + count) / (10 + count))
            moving = [pair for pair in zip(averaged, current, strict=True) if _is_real(pair[0])]
            torch._foreach_lerp_([pair[0] for pair in moving], [pair[1] for pair in moving], weight)
            for kept, new in zip(averaged, current, strict=True):
                if not _is_real(kept):
                    kept.copy_(new)

        super().__init__(device=device, multi_avg_fn=average)


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write beside, flush to disk, rename: a kill at any moment leaves the old or the new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    trainer.save_checkpoint(partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _mean(scores: Sequence[float]) -> float:
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan
