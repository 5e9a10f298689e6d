"""One training run on lightning: who does what, and what is left in the run folder."""

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from medseg3d.device import Precision
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import Averaging, EpochNumbers, Pace, Recorder, Stage, Validate
from medseg3d.training.history import History
from medseg3d.training.module import OptimizerSettings, SegmentationModule

LIGHTNING_PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train; see the fields of the same names in ``FitConfig``."""

    budget: Budget
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    batch_size: int = 2
    steps_per_epoch: int = 100
    gradient_clip: float = 12.0
    ema: float = 0.999
    seed: int = 0
    workers: int = 0
    validate_every: int | None = None
    checkpoint_seconds: float = 60.0
    stages: tuple[Stage, ...] = ()


def train(
    network: nn.Module,
    loss: nn.Module,
    patches: Dataset[dict[str, Any]],
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
) -> History:
    """Train until the budget is used up.

    Args:
        network: To be trained, in place; it ends with the last averaged weights.
        loss: Of one resolution; deep supervision is added here.
        patches: Map a global sample number to ``{"image", "labels", "case"}``.
        folder: Run folder for ``history.csv``, ``history.png`` and ``checkpoints/last.ckpt``.
        label_names: Foreground labels, in the order ``validate`` scores them.
        validate: Dice per foreground label of whole held-out cases.
        num_held_out: How many there are.
        save_best: Keeps the weights that validated best; gets the network and its mean Dice.
        settings: Budget, optimizer and the like.
        device: Where to train.
        precision: Arithmetic of the network.
        resume: Go on from ``checkpoints/last.ckpt``.

    Returns:
        What happened, epoch by epoch.

    Raises:
        RunError: If the loss is not finite.
        KeyboardInterrupt: If the user interrupts; the last checkpoint stays.
    """
    module = SegmentationModule(network, DeepSupervision(loss), settings.optimizer)
    numbers = EpochNumbers(settings.steps_per_epoch * settings.batch_size)
    pace = Pace(settings.budget, numbers, seed=settings.seed, stages=settings.stages)
    history = History(label_names)
    recorder = Recorder(
        folder,
        pace,
        history,
        validate=validate,
        num_held_out=num_held_out,
        save_best=save_best,
        every=settings.validate_every,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    averaging = [Averaging(settings.ema, device)] if settings.ema else []
    feed = DataLoader(
        patches,
        batch_size=settings.batch_size,
        sampler=numbers,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=device.type == "cuda",
    )
    once: DataLoader[Any] = DataLoader(TensorDataset(torch.zeros(1)))  # see validation_step
    with _quiet_lightning():
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=LIGHTNING_PRECISION[precision],  # type: ignore[arg-type]
            max_epochs=-1,
            gradient_clip_val=settings.gradient_clip,
            callbacks=[pace, recorder, *averaging],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        checkpoint = folder / "checkpoints" / "last.ckpt" if resume else None
        try:
            trainer.fit(module, feed, once, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # lightning's answer to Ctrl-C, after which it ignores further ones
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
    return history


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
