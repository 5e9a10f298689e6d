"""One training run on lightning: who does what, and what is left in the run folder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from medseg3d.bundle import BEST
from medseg3d.device import Precision
from medseg3d.errors import RunError
from medseg3d.losses.deep_supervision import LEVEL_DECAY, DeepSupervision
from medseg3d.losses.pooling import pool_over_processes
from medseg3d.machine import freed_memory_kept
from medseg3d.training.averaging import tensors_of
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import Pace, Recorder, Stage, Validate
from medseg3d.training.checkpoint import has_checkpoint, read_checkpoint
from medseg3d.training.correction import Correction, CorrectionSettings, Cycles
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
from medseg3d.training.team import ALONE, Team, is_loss_of_another
from medseg3d.training.together import new_trainer, quiet_lightning
from medseg3d.training.upkeep import Upkeep
from medseg3d.training.workers import Workers

GOES_ON = "; --resume goes on from the last checkpoint"
GRACE_SECONDS = 1.0
"""A signal to all processes of a group may reach the workers first."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train; see the fields of the same names in ``FitConfig``."""

    budget: Budget
    optimizer: OptimizerSettings
    batch_size: int
    accumulate: int
    deterministic: bool
    steps_per_epoch: int
    level_decay: float | None
    gradient_clip: float
    ema: float
    seed: int
    workers: int
    validate_every: int | None
    recompute: bool
    early_stop: int | None
    logger: LoggerName | None
    checkpoint_seconds: float
    stages: tuple[Stage, ...]
    correction: CorrectionSettings | None


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
    team: Team = ALONE,
) -> History:
    """Train until the budget is used up.

    A checkpoint holds the state after any step, so a resumed run goes on exactly. Whatever stops
    the training, one is written for the last step that was whole.

    Args:
        network: To be trained, in place; it ends with the last averaged weights.
        loss: Of one resolution; deep supervision is added here.
        patches: Training samples by number.
        folder: Run folder for ``history.csv``, ``history.png``, ``checkpoints`` and, with
            self-correction, ``corrections.csv``.
        label_names: Foreground labels, in the order ``validate`` scores them.
        validate: Dice per foreground label of whole held-out cases.
        num_held_out: How many there are.
        save_best: Keeps the weights that validated best; gets the network and its mean Dice.
        settings: Budget, optimizer and the like.
        device: Where to train.
        precision: Arithmetic of the network.
        resume: Go on from the last checkpoint, if there is one.
        publish: Shows how far the run has come, now and then; its errors stop nothing.
        team: Processes that take part; this one leads, the others :func:`follow`.

    Returns:
        What happened, epoch by epoch.

    Raises:
        RunError: If the loss is not finite, memory runs out, a data worker dies, the disk is
            full, or no checkpoint can be read.
        KeyboardInterrupt: If the user interrupts (:class:`medseg3d.errors.Terminated` for
            SIGTERM).
    """
    session = _Session(folder, settings, device, precision, team, resume=resume)
    course, pace = session.course, session.pace
    recorder = Recorder(
        folder,
        pace,
        course,
        session.keeper,
        session.interrupts,
        label_names=label_names,
        validate=validate,
        num_held_out=num_held_out,
        save_best=save_best,
        steps_per_epoch=settings.steps_per_epoch,
        every=settings.validate_every,
        plateau=Plateau(settings.early_stop),
    )
    witnesses: list[Callback] = [] if publish is None else [Live(pace, course, publish)]
    if settings.logger is not None:
        witnesses.append(RowLogger(build_logger(settings.logger, folder), course))
    correction = session.run(network, loss, patches, [recorder, *witnesses])
    if correction is not None:
        correction.write(folder / "corrections.csv")
    return recorder.history


def follow(
    network: nn.Module,
    loss: nn.Module,
    patches: Patches,
    *,
    folder: Path,
    settings: TrainingSettings,
    device: torch.device,
    precision: Precision,
    team: Team,
    resume: bool = False,
) -> None:
    """Take part in the training that the first of several processes leads; write nothing.

    Every process draws patches of its own, as many in a step as the first one, so that a step is
    that of one process with a batch as large as all of theirs.

    Args:
        network: As the first process has it; its weights need not be the same.
        loss: As there.
        patches: As there.
        folder: The run folder, from which checkpoints are read.
        settings: As there.
        device: Of this process.
        precision: As there.
        team: The processes.
        resume: As there.

    Raises:
        RunError: As :func:`train` does, and if another process has ended.
        KeyboardInterrupt: If this one is told to.
    """
    session = _Session(folder, settings, device, precision, team, resume=resume)
    session.run(network, loss, patches, [])


class _Session:
    """What every process has that takes part in a training, and the training itself."""

    def __init__(
        self,
        folder: Path,
        settings: TrainingSettings,
        device: torch.device,
        precision: Precision,
        team: Team,
        *,
        resume: bool,
    ) -> None:
        self.checkpoints = folder / "checkpoints"
        found = read_checkpoint(self.checkpoints) if resume else None
        self.course = Course(found.facts if found else None)
        self.interrupts = Interrupts()
        self.keeper = Keeper(
            self.checkpoints, self.course, found, pause=settings.checkpoint_seconds
        )
        self.pace = Pace(
            settings.budget,
            self.course,
            self.keeper,
            self.interrupts,
            seed=settings.seed,
            stages=settings.stages,
            team=team,
        )
        self._folder = folder
        self._settings = settings
        self._device = device
        self._precision: Precision = precision
        self._team = team

    def run(
        self, network: nn.Module, loss: nn.Module, patches: Patches, callbacks: Sequence[Callback]
    ) -> Correction | None:
        """Train to the end; ``callbacks`` stand behind what every process does.

        Returns:
            What became of the labels, if they were to be corrected.
        """
        settings, team = self._settings, self._team
        course, interrupts = self.course, self.interrupts
        workers, crew = allowed_workers(settings.workers), Workers(interrupts)
        correction, cycles = self._correction(network)
        upkeep = Upkeep(
            self.keeper,
            interrupts,
            crew,
            num_workers=workers,
            ema=settings.ema,
            correction=correction,
        )
        if settings.recompute:
            recompute_activations(network)
        if team.count > 1:
            self._expect_the_same_start()
            pool_over_processes(loss)
        decay = settings.level_decay
        if decay is None:
            decay = float(getattr(network, "level_decay", LEVEL_DECAY))
        module = SegmentationModule(
            network,
            DeepSupervision(
                loss,
                decay,
                finest_apart=getattr(network, "finest_apart", False),
                divisor=getattr(network, "divisor", None),
            ),
            settings.optimizer,
            course,
            interrupts.hold,
            accumulate=settings.accumulate,
            correction=correction,
        )
        with interrupts, quiet_lightning(), freed_memory_kept():
            trainer = new_trainer(
                team,
                [self.pace, upkeep, *cycles, *callbacks],
                device=self._device,
                precision=self._precision,
                folder=self._folder,
                gradient_clip=settings.gradient_clip,
                accumulate=settings.accumulate,
                may_idle=getattr(network, "may_idle", False),
            )
            try:
                feed = batches(
                    patches,
                    settings.batch_size,
                    first_step=course.step * settings.accumulate,
                    workers=workers,
                    device=self._device,
                    team=team,
                )
                with deterministic(settings.deterministic):
                    trainer.fit(module, feed)
            except (KeyboardInterrupt, SystemExit):  # the latter is lightning's answer to Ctrl-C
                raise (interrupts.pending or KeyboardInterrupt) from None
            except Exception as error:
                size = settings.batch_size * settings.accumulate * team.count
                ahead = cases_in_hand(patches, size, step=course.step, workers=workers)
                fault = explained(error, cases=module.cases, ahead=ahead, ended=crew.ended)
                if fault is None and is_loss_of_another(error):
                    fault = team.lost_another(error)
                if fault is None:
                    raise
                if workers or team.count > 1:
                    time.sleep(GRACE_SECONDS)  # a signal for all may reach others first
                interrupts.check()
                raise type(fault)(f"{fault}{_what_is_left(self.checkpoints)}") from error
        return correction

    def _correction(self, network: nn.Module) -> tuple[Correction | None, list[Callback]]:
        """Of the labels, and what begins its cycles; nothing if it is not wanted."""
        if self._settings.correction is None:
            return None, []
        correction = Correction(network, self._settings.correction)
        correction.move(self._device)

        def weights() -> dict[str, Tensor]:
            assert self.keeper.averaging is not None
            return self.keeper.averaging.tensors or tensors_of(network)

        def used() -> float:
            return self.pace.begun_at

        return correction, [Cycles(correction, self.interrupts, used=used, weights=weights)]

    def _expect_the_same_start(self) -> None:
        step = int(self._team.agreed(self.course.step))
        if step != self.course.step:
            raise RunError(
                f"process {self._team.number} goes on from step {self.course.step} and the first "
                f"one from step {step}; {self.checkpoints} must lie on a disk that all hosts share"
            )


def _what_is_left(checkpoints: Path) -> str:
    kept = ""
    best = checkpoints / BEST.name
    if best.is_file():
        kept += f"; the best model so far is kept in {best}"
    if has_checkpoint(checkpoints):
        kept += GOES_ON
    return kept
