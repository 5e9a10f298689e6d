"""Training runs of seconds: one label, one held-out case, a CPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from medseg3d.api.fitting.settings import training_settings
from medseg3d.config import FitConfig
from medseg3d.device import Precision
from medseg3d.losses import LOSSES
from medseg3d.training.callbacks import Validate
from medseg3d.training.checkpoint import Checkpoint, read_checkpoint
from medseg3d.training.feed import Patches
from medseg3d.training.history import History
from medseg3d.training.train import TrainingSettings, train


def small_settings(**changes: Any) -> TrainingSettings:
    """Those of a run without options, for two patches a step, but for a high rate and changes."""
    config = FitConfig(data=Path("cases"), epochs=1, learning_rate=0.05)
    plan: Any = SimpleNamespace(batch_size=2)
    return replace(training_settings(config, plan), **changes)


def train_small(
    network: nn.Module,
    patches: Patches,
    folder: Path,
    settings: TrainingSettings,
    *,
    loss: str = "dice_ce",
    validate: Validate = lambda *_: [0.5],
    save_best: Callable[[nn.Module, float], None] = lambda *_: None,
    precision: Precision = "fp32",
    **more: Any,
) -> History:
    """Train with all that these tests do not vary filled in."""
    return train(
        network,
        LOSSES.build(loss),
        patches,
        folder=folder,
        label_names=["bright"],
        validate=validate,
        num_held_out=1,
        save_best=save_best,
        settings=settings,
        device=torch.device("cpu"),
        precision=precision,
        **more,
    )


def stored(folder: Path) -> Checkpoint:
    """The checkpoint that a run has left."""
    found = read_checkpoint(folder / "checkpoints")
    assert found is not None
    return found
