"""Training runs of seconds: one label, one held-out case, a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg3d.device import Precision
from medseg3d.losses import LOSSES
from medseg3d.training.callbacks import Validate
from medseg3d.training.checkpoint import Checkpoint, read_checkpoint
from medseg3d.training.feed import Patches
from medseg3d.training.history import History
from medseg3d.training.train import TrainingSettings, train


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
