"""Sending the history of a run to TensorBoard, MLflow or Weights & Biases."""

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from medseg3d.errors import ConfigError
from medseg3d.training.course import Course
from medseg3d.training.live import Bystander

LoggerName = Literal["tensorboard", "mlflow", "wandb"]

PACKAGES: Mapping[LoggerName, Sequence[str]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}
"""Packages of which one must be installed."""

PROJECT = "medseg3d"


def require_package(name: LoggerName) -> None:
    """Make sure that a logger can be made.

    Raises:
        ConfigError: Naming the package that is not installed.
    """
    if not any(find_spec(package) for package in PACKAGES[name]):
        package = PACKAGES[name][0]
        raise ConfigError(
            f"logger {name} needs the package {package}, which is not installed; "
            f"pip install {package}, or leave out logger (--set logger=null when a run is resumed)"
        )


def build_logger(name: LoggerName, folder: Path) -> Logger:
    """A logger of lightning's for the run in ``folder``.

    TensorBoard's files lie in ``folder/tensorboard``. MLflow and Weights & Biases go where their
    own settings send them, MLflow without any to ``folder/mlruns``.

    Raises:
        ConfigError: If its package is not installed.
    """
    require_package(name)
    loggers = import_module("lightning.pytorch.loggers")
    if name == "tensorboard":
        logger = loggers.TensorBoardLogger(folder, name="", version="tensorboard")
    elif name == "mlflow":
        logger = loggers.MLFlowLogger(PROJECT, run_name=folder.name, save_dir=folder / "mlruns")
    else:
        logger = loggers.WandbLogger(folder.name, save_dir=folder, project=PROJECT)
    assert isinstance(logger, Logger)
    return logger


class RowLogger(Callback):
    """Logs each row of the history once; a server that is away stops no training.

    Must stand after :class:`medseg3d.training.callbacks.Recorder`, which adds the rows.

    Args:
        logger: Takes the numbers of a row by name, and the step.
        course: Whose rows are logged; those that it has already were logged before.
    """

    def __init__(self, logger: Logger, course: Course) -> None:
        self._logger = logger
        self._course = course
        self._num_logged = len(course.rows)
        self._bystander = Bystander(f"logging to {type(logger).__name__}")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the rows that are new."""
        self._log_rows()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the log."""
        self._finish("success")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the log of a run that was stopped."""
        self._finish("failed")

    def _log_rows(self) -> None:
        rows = self._course.rows[self._num_logged :]
        self._num_logged += len(rows)
        for row in rows:
            with self._bystander.attempt():
                self._logger.log_metrics(known_numbers(row), step=row["step"])

    def _finish(self, status: str) -> None:
        self._log_rows()
        with self._bystander.attempt():
            self._logger.finalize(status)
            experiment = getattr(self._logger, "experiment", None) if self._num_logged else None
            if (finish := getattr(experiment, "finish", None)) is not None:
                finish()  # Weights & Biases would put the next run of this process into this one


def known_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row under their names, without its step and what is not known.

    Examples:
        >>> known_numbers({"step": 9, "loss": 0.5, "dice": math.nan, "dice_liver": 0.75})
        {'loss': 0.5, 'dice_liver': 0.75}
    """
    return {
        name: float(value) for name, value in row.items() if name != "step" and math.isfinite(value)
    }
