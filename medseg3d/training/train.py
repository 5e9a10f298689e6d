"""One training run on lightning: who does what, and what is left in the run folder."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from medseg3d.bundle import SUFFIX
from medseg3d.device import Precision
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import Pace, Recorder, Stage, Validate
from medseg3d.training.checkpoint import LAST, read_checkpoint
from medseg3d.training.course import Course
from medseg3d.training.determinism import deterministic
from medseg3d.training.faults import explained
from medseg3d.training.feed import Patches, allowed_workers, batches, cases_in_hand
from medseg3d.training.history import History
from medseg3d.training.interrupts import Interrupts
from medseg3d.training.keeper import Keeper
from medseg3d.training.live import Live, Publish
from medseg3d.training.loggers import LoggerName, RowLogger, build_logger
from medseg3d.training.module import OptimizerSettings, SegmentationModule
from medseg3d.training.plateau import Plateau
from medseg3d.training.recomputing import recompute_activations
from medseg3d.training.workers import Workers

LIGHTNING_PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}
GOES_ON = "; --resume goes on from the last checkpoint"
GRACE_SECONDS = 1.0
"""A signal to all processes of a group may reach the workers first."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train; see the fields of the same names in ``FitConfig``."""

    budget: Budget
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    batch_size: int = 2
    accumulate: int = 1
    deterministic: bool = False
    steps_per_epoch: int = 100
    gradient_clip: float = 12.0
    ema: float = 0.999
    seed: int = 0
    workers: int = 0
    validate_every: int | None = None
    recompute: bool = False
    early_stop: int | None = None
    logger: LoggerName | None = None
    checkpoint_seconds: float = 60.0
    stages: tuple[Stage, ...] = ()


def train(
    network: nn.Module,
    loss: nn.Module,
    patches: Patches,
    *,
    folder: Path,
    label_names: Sequence[str],
    validate: Validate,
    num_held_out: int,
    save_best: Callable[[nn.Module, float], None],
    settings: TrainingSettings,
    device: torch.device,
    precision: Precision,
    resume: bool = False,
    publish: Publish | None = None,
) -> History:
    """Train until the budget is used up.

    A checkpoint holds the state after any step, so a resumed run goes on exactly. Whatever stops
    the training, one is written for the last step that was whole.

    Args:
        network: To be trained, in place; it ends with the last averaged weights.
        loss: Of one resolution; deep supervision is added here.
        patches: Training samples by number.
        folder: Run folder for ``history.csv``, ``history.png`` and ``checkpoints``.
        label_names: Foreground labels, in the order ``validate`` scores them.
        validate: Dice per foreground label of whole held-out cases.
        num_held_out: How many there are.
        save_best: Keeps the weights that validated best; gets the network and its mean Dice.
        settings: Budget, optimizer and the like.
        device: Where to train.
        precision: Arithmetic of the network.
        resume: Go on from the last checkpoint, if there is one.
        publish: Shows how far the run has come, now and then; its errors stop nothing.

    Returns:
        What happened, epoch by epoch.

    Raises:
        RunError: If the loss is not finite, memory runs out, a data worker dies, the disk is
            full, or no checkpoint can be read.
        KeyboardInterrupt: If the user interrupts (:class:`medseg3d.errors.Terminated` for
            SIGTERM).
    """
    checkpoints = folder / "checkpoints"
    found = read_checkpoint(checkpoints) if resume else None
    course = Course(found.facts if found else None)
    interrupts = Interrupts()
    workers, crew = allowed_workers(settings.workers), Workers(interrupts)
    keeper = Keeper(checkpoints, course, found, pause=settings.checkpoint_seconds)
    pace = Pace(
        settings.budget,
        course,
        keeper,
        interrupts,
        seed=settings.seed,
        stages=settings.stages,
    )
    recorder = Recorder(
        folder,
        pace,
        course,
        keeper,
        interrupts,
        label_names=label_names,
        validate=validate,
        num_held_out=num_held_out,
        save_best=save_best,
        steps_per_epoch=settings.steps_per_epoch,
        ema=settings.ema,
        every=settings.validate_every,
        workers=crew,
        num_workers=workers,
        plateau=Plateau(settings.early_stop),
    )
    witnesses: list[Callback] = [] if publish is None else [Live(pace, course, publish)]
    if settings.logger is not None:
        witnesses.append(RowLogger(build_logger(settings.logger, folder), course))
    if settings.recompute:
        recompute_activations(network)
    module = SegmentationModule(
        network,
        DeepSupervision(loss),
        settings.optimizer,
        course,
        interrupts.hold,
        accumulate=settings.accumulate,
    )
    with interrupts, _quiet_lightning():
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=LIGHTNING_PRECISION[precision],  # type: ignore[arg-type]
            max_epochs=-1,
            limit_val_batches=0,
            gradient_clip_val=settings.gradient_clip,
            accumulate_grad_batches=settings.accumulate,
            callbacks=[pace, recorder, *witnesses],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        try:
            feed = batches(
                patches,
                settings.batch_size,
                first_step=course.step * settings.accumulate,
                workers=workers,
                device=device,
            )
            with deterministic(settings.deterministic):
                trainer.fit(module, feed)
        except (KeyboardInterrupt, SystemExit):  # the latter is lightning's answer to Ctrl-C
            raise (interrupts.pending or KeyboardInterrupt) from None
        except Exception as error:
            size = settings.batch_size * settings.accumulate
            ahead = cases_in_hand(patches, size, step=course.step, workers=workers)
            fault = explained(error, cases=module.cases, ahead=ahead, ended=crew.ended)
            if fault is None:
                raise
            if workers:
                time.sleep(GRACE_SECONDS)  # a signal for all of us may reach the workers first
            interrupts.check()
            raise type(fault)(f"{fault}{_what_is_left(checkpoints)}") from error
    return recorder.history


def _what_is_left(checkpoints: Path) -> str:
    kept = ""
    best = checkpoints / f"best{SUFFIX}"
    if best.is_file():
        kept += f"; the best model so far is kept in {best}"
    if (checkpoints / LAST).is_file():
        kept += GOES_ON
    return kept


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep lightning's advice on workers, loggers and hardware from our users."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
