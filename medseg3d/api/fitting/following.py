"""``fit`` in several processes: what the first one hands out, and what the others do with it.

The first process does all that a single one does. Where it begins to train, it hands out a
:class:`Job` and the others train with it; in the end it hands out what came of the run.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medseg3d.api.fitting.building import make_loss, make_network, stages_of
from medseg3d.api.fitting.preparing import training_patches
from medseg3d.api.fitting.settings import training_settings
from medseg3d.api.fitting.starting import started
from medseg3d.config import FitConfig
from medseg3d.data.cache import CachedCase
from medseg3d.data.domains import TwoDomains
from medseg3d.data.patches import CaseMaps, PatchDataset
from medseg3d.data.plan import Plan
from medseg3d.device import Precision, resolve_device
from medseg3d.errors import ConfigError
from medseg3d.ranks import own_rank
from medseg3d.training.team import Team
from medseg3d.training.train import follow

log = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class Job:
    """One training, as all processes must know it.

    Attributes:
        config: Options of the run, with the network that they come to.
        plan: Of the run.
        folder: Of the run.
        cases: To learn from; each process opens them in the cache.
        precision: Arithmetic of the training.
        classes: Index of the class of each case, if cases have classes.
        target: Cases of another domain, without labels, if there is one.
        maps: Maps of each case, if the loss takes some.
    """

    config: FitConfig
    plan: Plan
    folder: Path
    cases: tuple[CachedCase, ...]
    precision: Precision
    classes: Sequence[int] | None = None
    target: tuple[CachedCase, ...] = ()
    maps: CaseMaps | None = None

    def patches(self) -> PatchDataset | TwoDomains:
        """Augmented patches of the training cases."""
        return training_patches(
            self.config,
            self.plan,
            self.cases,
            classes=self.classes,
            target=self.target,
            maps=self.maps,
        )


def refuse_what_needs_one_process(config: FitConfig, team: Team) -> None:
    """Find out before the work what several processes cannot do.

    Raises:
        ConfigError: Saying what.
    """
    if team.count == 1:
        return
    if stages_of(started(config)):
        raise ConfigError(
            f"stages are trained by one process, here are {team.count}; begin one, or set stages=[]"
        )
    if config.self_correction:
        raise ConfigError(
            f"self_correction is done by one process, here are {team.count}; begin one, or set "
            "self_correction=0"
        )
    team.own_device(resolve_device(config.device))


def refuse_several_processes() -> None:
    """Refuse a rehearsal by several processes, which would tell of one of them.

    Raises:
        ConfigError: If there are several.
    """
    if own_rank().count > 1:
        raise ConfigError("dry_run measures one process; begin it without torchrun or srun")


def help_first_process(team: Team) -> Any:
    """Do what the first process hands out until there is nothing more to do.

    Says nothing but warnings, because the first one tells of the run.

    Args:
        team: The processes.

    Returns:
        What the first process hands out in the end.

    Raises:
        RunError: If it has ended before, or training cannot go on.
        KeyboardInterrupt: If this process is told to end.
    """
    with _nothing_but_warnings():
        try:
            while isinstance(work := team.receive(), Job):
                _train(work, team)
        except KeyboardInterrupt:
            team.outlast()
            raise
    return work


def _train(job: Job, team: Team) -> None:
    config = job.config.model_copy(update={"start_from": None})  # weights come from the first one
    torch.manual_seed(config.seed)
    network, _ = make_network(config, job.plan)
    follow(
        network,
        make_loss(config, job.plan, job.cases),
        job.patches(),
        folder=job.folder,
        settings=training_settings(config, job.plan),
        device=team.own_device(resolve_device(config.device)),
        precision=job.precision,
        team=team,
        resume=config.resume,
    )


@contextmanager
def _nothing_but_warnings() -> Iterator[None]:
    before = log.level
    log.setLevel(max(log.getEffectiveLevel(), logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(before)
