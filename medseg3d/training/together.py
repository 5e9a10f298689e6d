"""Lightning's trainer for the one process of a usual run, or for each of several.

Whatever began the processes, lightning sees hosts with one device each: which device that is, and
which process this is, has been found out before (:class:`medseg3d.training.team.Team`).
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from medseg3d.device import Precision
from medseg3d.training.team import Team

LIGHTNING_PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}


class Hosts(ClusterEnvironment):
    """Each process as a host of its own.

    Handed to lightning even when there is one process, so that it takes no variables of a
    launcher or of Slurm for its own affair.

    Args:
        team: The processes.
    """

    def __init__(self, team: Team) -> None:
        self._team = team

    @property
    def creates_processes_externally(self) -> bool:
        """They are there already."""
        return True

    @property
    def main_address(self) -> str:
        """Not asked for, since the processes have met."""
        raise NotImplementedError

    @property
    def main_port(self) -> int:
        """Likewise."""
        raise NotImplementedError

    @staticmethod
    def detect() -> bool:
        """It is never looked for."""
        return False

    def world_size(self) -> int:
        """How many processes there are."""
        return self._team.count

    def set_world_size(self, size: int) -> None:
        """They are what they are."""

    def global_rank(self) -> int:
        """Which one this is."""
        return self._team.number

    def set_global_rank(self, rank: int) -> None:
        """It stays that."""

    def local_rank(self) -> int:
        """The only one on its host."""
        return 0

    def node_rank(self) -> int:
        """The number of the host is that of the process."""
        return self._team.number


class Averaged(DDPStrategy):
    """Gradients averaged over processes that something else has begun."""

    def _configure_launcher(self) -> None:
        """Begin none, and leave the number of threads as it is."""


class SameEnd(Callback):
    """Lets all processes stop after the same step, when the first one does.

    Must stand last, behind all that may decide to stop.

    Args:
        team: The processes.
    """

    def __init__(self, team: Team) -> None:
        self._team = team

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run may be over before it begins."""
        trainer.should_stop = bool(self._team.agreed(trainer.should_stop))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Hear whether this was the last batch."""
        trainer.should_stop = bool(self._team.agreed(trainer.should_stop))


def new_trainer(
    team: Team,
    callbacks: Sequence[Callback],
    *,
    device: torch.device,
    precision: Precision,
    folder: Path,
    gradient_clip: float,
    accumulate: int,
    may_idle: bool = False,
) -> Trainer:
    """A trainer that does nothing but steps, for as long as the callbacks want.

    Args:
        team: Processes that take part.
        callbacks: Around the steps.
        device: Of this process.
        precision: Arithmetic of the network.
        folder: Run folder.
        gradient_clip: Largest norm of the gradient.
        accumulate: Batches whose gradients make one step.
        may_idle: Some weights may get no gradient, which costs a look for them in every step.
    """
    on_gpu = device.type == "cuda"
    hosts = Hosts(team)
    several: dict[str, Any]
    if team.count > 1:
        own = torch.device("cuda", device.index or 0) if on_gpu else device
        several = {
            "strategy": Averaged(
                parallel_devices=[own],
                cluster_environment=hosts,
                find_unused_parameters=may_idle,
            ),
            "num_nodes": team.count,
            "use_distributed_sampler": False,  # the patches are dealt already
        }
    else:
        several = {"plugins": [hosts]}
    return Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=[device.index or 0] if on_gpu else 1,
        precision=LIGHTNING_PRECISION[precision],  # type: ignore[arg-type]
        max_epochs=-1,
        limit_val_batches=0,
        gradient_clip_val=gradient_clip,
        accumulate_grad_batches=accumulate,
        callbacks=[*callbacks, SameEnd(team)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **several,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep lightning's advice on workers, loggers and hardware from our users."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
