"""``fit``: from a folder of cases to a model file."""

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg3d.api.fitting.building import make_loss, make_network
from medseg3d.api.fitting.cross_validation import cross_validate, mean_dice
from medseg3d.api.fitting.diagnoses import DIAGNOSES, write_diagnoses
from medseg3d.api.fitting.final_validation import FinalValidation
from medseg3d.api.fitting.following import Job, help_first_process, refuse_what_needs_one_process
from medseg3d.api.fitting.planning import planned, refuse_what_cannot_be_built
from medseg3d.api.fitting.preparing import Preparation, warn_of_absent_labels
from medseg3d.api.fitting.settings import training_settings
from medseg3d.api.fitting.starting import (
    begin,
    keep_start,
    started,
    with_network_of_model,
    with_own_start,
)
from medseg3d.api.fitting.target_domain import target_cases
from medseg3d.api.fitting.validating import mean, validate
from medseg3d.api.fitting.watching import Watch
from medseg3d.api.provenance import Origin, known
from medseg3d.api.scoring.run import ScoreResult
from medseg3d.bundle import BEST, FILE_NAME, Bundle, load_network, read_bundle, save_bundle
from medseg3d.config import FitConfig, given
from medseg3d.config.fit import ALL_FOLDS
from medseg3d.data.cache import CachedCase, open_cache
from medseg3d.data.cases import Case, Dataset
from medseg3d.data.classes import class_indices
from medseg3d.data.plan import Plan
from medseg3d.data.split import Split
from medseg3d.device import Precision, resolve_device, resolve_precision
from medseg3d.errors import ConfigError, RunError
from medseg3d.inference.backends.cache import cache_folder
from medseg3d.io.atomic import empties_removed
from medseg3d.machine import num_processors
from medseg3d.ranks import own_share
from medseg3d.runs import (
    CACHE,
    HELD_OUT,
    PROVENANCE,
    SCORES,
    free_run_folder,
    interrupted_run,
    locked,
)
from medseg3d.training.callbacks import keeps_last
from medseg3d.training.history import History
from medseg3d.training.team import Team
from medseg3d.training.train import train

log = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Everything the run left.
        bundle: The model file; of a cross-validation the folder, whose models predict averages.
        dice: Mean Dice per foreground label over the held-out cases, on their native grids.
        scores: All scores of the held-out cases.
    """

    folder: Path
    bundle: Path
    dice: dict[str, float]
    scores: ScoreResult


def fit(data: Path | str | FitConfig, **options: Any) -> Run:
    """Learn to segment from a folder of labelled cases.

    Begun by ``torchrun`` or ``srun`` in several processes, they train together: each takes a
    batch of its own in every step, the first one does the rest, and all return its run.

    Args:
        data: The folder, or all options.
        **options: See :class:`medseg3d.config.FitConfig`.

    Returns:
        The run, with its model file and the scores of its held-out cases.

    Raises:
        ConfigError: If an option, name or plan is wrong.
        DataError: If the cases cannot be trusted; all faulty ones are listed.
        RunError: If the run folder is in use, or training cannot go on.
    """
    config = given(FitConfig, "data", data, options)
    if config.dry_run:
        raise ConfigError("dry_run makes no run to return; call medseg3d.api.rehearse instead")
    use_allowed_processors()
    team = Team.join()
    if not team.leads:
        run = help_first_process(team)
        assert isinstance(run, Run)
        return run
    try:
        run = _fit(config, team)
    finally:
        team.leave()
    with suppress(RunError):  # one that is gone by now is not missed
        team.hand_out(run)
    return run


def _fit(config: FitConfig, team: Team) -> Run:
    if config.resume:
        folder, config = interrupted_run(config)
        config = with_own_start(config, folder)
    else:
        refuse_what_cannot_be_built(config)
        config = with_network_of_model(config)
        folder = free_run_folder(config)
    refuse_what_needs_one_process(config, team)
    cache = config.cache or CACHE
    with locked(folder), empties_removed(cache), _how_to_go_on(config, folder):
        open_cache(cache)
        dataset, plan, parts = planned(config, folder)
        if config.fold == ALL_FOLDS:
            keep_start(config, folder)
            config = with_own_start(config, folder)
            scores = cross_validate(config, plan, folder, partial(_fit_fold, dataset, plan, team))
            return Run(folder, folder, mean_dice(scores.rows, plan), scores)
        return _Fit(config, dataset, plan, parts, folder, team).run()


def _fit_fold(
    dataset: Dataset, plan: Plan, team: Team, config: FitConfig, parts: Split, folder: Path
) -> None:
    """One run of a cross-validation."""
    with locked(folder):
        _Fit(with_own_start(config, folder), dataset, plan, parts, folder, team).run()


@contextmanager
def _how_to_go_on(config: FitConfig, folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        again = shlex.join(["medseg3d", "fit", str(config.data), "-o", str(folder), "--resume"])
        log.warning("stopped; go on with: %s", again)
        raise


def use_allowed_processors() -> None:
    """Compute in no more threads than this process has processors, beside others of torchrun."""
    processors = num_processors()
    share = own_share(processors) or min(torch.get_num_threads(), processors)
    torch.set_num_threads(share)


class _Fit:
    """The steps of one run over its fixed inputs."""

    def __init__(
        self,
        config: FitConfig,
        dataset: Dataset,
        plan: Plan,
        parts: Split,
        folder: Path,
        team: Team,
    ) -> None:
        self.config = started(config)
        self.plan = plan
        self.folder = folder
        self.team = team
        by_id = {case.id: case for case in dataset.cases}
        self.training = [by_id[case_id] for case_id in parts.training]
        self.held_out = [by_id[case_id] for case_id in parts.validation]
        self.target = target_cases(config)
        self.device = team.own_device(resolve_device(config.device))
        self.precision: Precision = resolve_precision(config.precision, self.device)

    def run(self) -> Run:
        """Preprocess, train, validate on native grids, write the bundle."""
        config, plan = self.config, self.plan
        cases = [*self.training, *self.held_out, *self.target]
        origin = Origin.of(config, [*self.training, *self.target], self.held_out)
        preparation = Preparation(config, plan, origin.digests)
        torch.manual_seed(config.seed)
        network, options = make_network(config, plan)
        preparation.require_room(
            cases, self.training, network, make_loss(config, plan), self.folder
        )
        start = begin(network, options, plan, config, self.folder)
        origin.write(
            self.folder / PROVENANCE,
            device=f"{self._processes()}{self.device}",
            precision=self.precision,
        )
        cached = iter(preparation.prepare(cases))
        learned, held_out, target = (
            list(islice(cached, len(part))) for part in (self.training, self.held_out, self.target)
        )
        warn_of_absent_labels(plan, learned, held_out, fold=config.fold)
        loss = make_loss(config, plan, learned)
        job = Job(
            config,
            plan,
            self.folder,
            tuple(learned),
            self.precision,
            classes=class_indices(self.training, plan.classes),
            target=tuple(target),
            maps=preparation.maps_of(learned, network, loss),
        )
        best = _BestWeights(self.folder / BEST, partial(self._describe, origin, options, start))
        history = self._train(network, loss, job, held_out, best)
        if plan.classes:
            write_diagnoses(
                load_network(best.path),
                self.held_out,
                held_out,
                plan.classes,
                self.folder / HELD_OUT / DIAGNOSES,
                window=plan.patch_size,
                device=self.device,
            )
        can_tell = [
            case
            for case, found in zip(self.held_out, held_out, strict=True)
            if found.labels_present
        ]
        return self._finish(best.path, can_tell, history)

    def _processes(self) -> str:
        return f"{self.team.count} processes, " if self.team.count > 1 else ""

    def _describe(
        self,
        origin: Origin,
        options: dict[str, Any],
        start: dict[str, Any],
        network: nn.Module,
        mean_dice: float,
    ) -> Bundle:
        """What a model file says of a network that was built and begun so."""
        found = origin.describe(
            network, options, self.plan, precision=self.precision, scores={"mean": mean_dice}
        )
        return found.model_copy(update={"training": found.training | start})

    def _train(
        self,
        network: nn.Module,
        loss: nn.Module,
        job: Job,
        held_out: Sequence[CachedCase],
        best: "_BestWeights",
    ) -> History:
        """Train with all processes of the team; the best weights so far are kept on the way."""
        config, plan = self.config, self.plan
        watch = Watch(
            self.folder, config, plan, held_out, device=self.device, precision=self.precision
        )
        log.info("watch it: %s", watch.path)
        if processes := self._processes():
            log.info("%s%d patches each in a step", processes, plan.batch_size)

        def dice(network: nn.Module, limit: int | None) -> list[float]:
            return validate(
                network,
                held_out[:limit],
                plan,
                overlap=config.overlap,
                device=self.device,
                precision=self.precision,
                look=watch.look if limit is None else None,  # else only its cost is measured
            )

        self.team.hand_out(job)
        return train(
            network,
            loss,
            job.patches(),
            folder=self.folder,
            label_names=list(plan.scored.values()),
            validate=dice,
            num_held_out=len(held_out),
            save_best=best.keep,
            settings=training_settings(config, plan),
            device=self.device,
            precision=self.precision,
            resume=config.resume,
            publish=watch.publish,
            team=self.team,
        )

    def _finish(self, best: Path, can_tell: Sequence[Case], history: History) -> Run:
        """Validate the best weights as ``predict`` will use them, and write the bundle."""
        final = FinalValidation(
            config=self.config,
            plan=self.plan,
            cases=self.held_out,
            model=best,
            folder=self.folder / HELD_OUT,
            device=self.device,
        )
        path, description = self.folder / FILE_NAME, read_bundle(best)
        try:
            verdict = final.verdict(self.precision, can_tell)
            found = {"precision": verdict.accepted, "dice_changes": verdict.dice_changes}
            description = description.model_copy(update=found)
            cleaning = final.cleaning(verdict.accepted)
            description = description.model_copy(update={"cleaning": cleaning})
            scores = final.scores(verdict.accepted, cleaning)
        except Exception:  # the model is whole; a run without scores is not finished
            (self.folder / HELD_OUT / SCORES).unlink(missing_ok=True)
            save_bundle(path, description, load_network(best))
            raise
        dice = mean_dice(scores.rows, self.plan)
        reached = dice | {"mean": mean(list(dice.values()))}
        last = history.rows[-1]
        spent = {"steps": last["step"], "minutes": round(last["minutes"], 2)}
        updates = {"scores": known(reached), "training": description.training | spent}
        save_bundle(path, description.model_copy(update=updates), load_network(best))
        with suppress(OSError):  # conversions of the same weights; predict makes them otherwise
            cache_folder(best).rename(cache_folder(path))
        log.info(
            "model %s, Dice %.4f on %d held-out cases", path, reached["mean"], len(self.held_out)
        )
        return Run(self.folder, path, dice, scores)


@dataclass(frozen=True)
class _BestWeights:
    """The best weights of a run so far, in a model file.

    Attributes:
        path: The file.
        describe: What it says of a network and its mean Dice.
    """

    path: Path
    describe: Callable[[nn.Module, float], Bundle]

    def keep(self, network: nn.Module, mean_dice: float) -> None:
        """Keep these weights, unless a resumed run repeats the way to better ones."""
        description = self.describe(network, mean_dice)
        if self.path.exists() and not keeps_last(network):
            before = read_bundle(self.path)
            same_stage = before.options.get("stage") == description.options.get("stage")
            if same_stage and before.scores.get("mean", 0.0) > mean_dice:
                return
        save_bundle(self.path, description, network)
