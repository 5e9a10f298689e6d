"""Loggers: what they are told, how they are made, and that one that is away stops nothing."""

import inspect
import logging
import math
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch.loggers as theirs
import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from medseg3d.api.fitting.planning import refuse_what_cannot_be_built
from medseg3d.config import FitConfig
from medseg3d.errors import ConfigError
from medseg3d.training import loggers
from medseg3d.training.course import Course
from medseg3d.training.loggers import PACKAGES, RowLogger, build_logger

CLASSES = {"tensorboard": "TensorBoardLogger", "mlflow": "MLFlowLogger", "wandb": "WandbLogger"}


class Notebook(DummyLogger):
    """Keeps what it is told; ``broken`` makes it fail like a server that is away."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.told: list[tuple[int | None, dict[str, float]]] = []
        self.ended: list[str] = []

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(finish=lambda: self.ended.append("finished"))

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self.broken:
            raise ConnectionError("the server is away")
        self.told.append((step, dict(metrics)))

    def finalize(self, status: str) -> None:
        if self.broken:
            raise ConnectionError("the server is away")
        self.ended.append(status)


def row(step: int, dice: float | None = None) -> dict[str, Any]:
    scored = {} if dice is None else {"dice": dice, "dice_liver": dice}
    return {"epoch": step // 2, "step": step, "loss": 0.5, "minutes": 0.25} | scored


def step(callback: RowLogger) -> None:
    callback.on_train_batch_end(None, None, None, None, 0)  # type: ignore[arg-type]


def test_every_new_row_is_logged_once_with_its_step() -> None:
    course = Course({"rows": [row(2)]})
    notebook = Notebook()
    callback = RowLogger(notebook, course)
    step(callback)
    course.rows.append(row(4, 0.75))
    step(callback)
    step(callback)
    course.rows.append(row(6, math.nan))
    callback.on_train_end(None, None)  # type: ignore[arg-type]
    plain = {"loss": 0.5, "minutes": 0.25}
    assert notebook.told == [
        (4, {"epoch": 2.0, **plain, "dice": 0.75, "dice_liver": 0.75}),
        (6, {"epoch": 3.0, **plain}),
    ]
    assert notebook.ended == ["success", "finished"]


def test_a_run_that_is_stopped_ends_its_log_as_failed() -> None:
    notebook = Notebook()
    callback = RowLogger(notebook, Course())
    callback.on_exception(None, None, KeyboardInterrupt())  # type: ignore[arg-type]
    assert notebook.ended == ["failed"]


def test_a_server_that_is_away_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    course = Course()
    callback = RowLogger(Notebook(broken=True), course)
    for number in range(3):
        course.rows.append(row(2 * number))
        step(callback)
    callback.on_train_end(None, None)  # type: ignore[arg-type]
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("logging to Notebook failed, training goes on: ")


@pytest.mark.parametrize("name", PACKAGES)
def test_loggers_are_made_as_lightning_wants_them(
    name: loggers.LoggerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = CLASSES[name]
    signature = inspect.signature(getattr(theirs, kind))
    made: list[dict[str, Any]] = []

    def make(*arguments: Any, **options: Any) -> Notebook:
        made.append(dict(signature.bind(*arguments, **options).arguments))
        return Notebook()

    monkeypatch.setattr(theirs, kind, make)
    monkeypatch.setattr(loggers, "find_spec", lambda package: ModuleSpec(package, None))
    assert isinstance(build_logger(name, tmp_path / "liver"), Notebook)
    folder = tmp_path / "liver"
    assert made == [
        {
            "tensorboard": {"save_dir": folder, "name": "", "version": "tensorboard"},
            "mlflow": {
                "experiment_name": "medseg3d",
                "run_name": "liver",
                "save_dir": folder / "mlruns",
            },
            "wandb": {"name": "liver", "save_dir": folder, "project": "medseg3d"},
        }[name]
    ]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_lacks_is_named_before_the_work(
    name: loggers.LoggerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"logger {name} needs .* pip install {name}, or leave"):
        refuse_what_cannot_be_built(FitConfig(data=tmp_path, logger=name, device="cpu"))


def test_either_package_of_tensorboard_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"tensorboardX"}
    monkeypatch.setattr(loggers, "find_spec", lambda name: name if name in present else None)
    loggers.require_package("tensorboard")
    with pytest.raises(ConfigError, match="mlflow"):
        loggers.require_package("mlflow")
