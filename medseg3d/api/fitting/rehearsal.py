"""``fit --dry-run``: what a run will take, told from its plan and its first steps."""

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from medseg3d.api.fitting.building import make_loss, make_network
from medseg3d.api.fitting.following import refuse_several_processes
from medseg3d.api.fitting.planning import (
    DEFAULT_MINUTES,
    planned,
    refuse_what_cannot_be_built,
)
from medseg3d.api.fitting.preparing import Preparation, run_bytes, training_patches
from medseg3d.api.fitting.run import use_allowed_processors
from medseg3d.api.fitting.settings import training_settings
from medseg3d.api.fitting.starting import started, with_network_of_model
from medseg3d.api.fitting.target_domain import target_cases
from medseg3d.api.provenance import Origin
from medseg3d.config import FitConfig
from medseg3d.config.fit import ALL_FOLDS
from medseg3d.data.cache import CachedCase, open_cache
from medseg3d.data.cases import Dataset
from medseg3d.data.classes import class_indices
from medseg3d.data.plan import Plan
from medseg3d.data.split import Split
from medseg3d.data.split_files import read_splits
from medseg3d.device import resolve_device, resolve_precision
from medseg3d.errors import MedSeg3DError, RunError
from medseg3d.io.atomic import reason_of
from medseg3d.machine import free_disk, in_words, memory_limit, peak_memory
from medseg3d.progress import duration
from medseg3d.runs import CACHE, SPLITS, free_run_folder
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import VALIDATION_SHARE
from medseg3d.training.feed import Patches
from medseg3d.training.train import GOES_ON, train

log = logging.getLogger("medseg3d")

FIRST_STEPS = 5
"""Steps that are not measured: they also pay for what is set up once."""

MEASURED_STEPS = 20
MOST_CASES = 4
"""Cases that are preprocessed."""

TOO_MANY = 10**12
"""Held-out cases that are never validated, because that would take too long."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a run will take, as far as its first steps tell.

    Attributes:
        plan: Of the run.
        network: Its name.
        parameters: Numbers that it learns.
        device: Where it trained, and in which arithmetic.
        num_cases: Cases to learn from, and held out; of several folds all cases, and 0.
        folds: Runs that are asked for, each with the whole budget.
        seconds_per_step: Mean of the measured steps.
        steps: Steps that the budget gives, validations being paid for.
        minutes: Time that the budget takes.
        peak_memory: Most bytes held, on a GPU those of the GPU.
        memory: Bytes there are.
        cache_bytes: Disk for all preprocessed cases.
        run_bytes: Disk for the run folder, without the label maps of held-out cases.
        cache: Folder of the preprocessed cases.
    """

    plan: Plan
    network: str
    parameters: int
    device: str
    num_cases: tuple[int, int]
    folds: int
    seconds_per_step: float
    steps: int
    minutes: float
    peak_memory: int
    memory: int
    cache_bytes: int
    run_bytes: int
    cache: Path

    def rows(self) -> list[dict[str, str]]:
        """All of it as lines for people."""
        plan, free = self.plan, in_words(free_disk(self.cache))
        patch = " x ".join(map(str, plan.patch_size))
        learned, held_out = self.num_cases
        cases, each = f"{learned} to learn from, {held_out} held out", ""
        if self.folds > 1:
            cases = f"{learned}, each held out in one of {self.folds} folds"
            each = f", for each of {self.folds} folds"
        lines = {
            "cases": cases,
            "spacing": f"{' x '.join(f'{edge:g}' for edge in plan.spacing)} mm",
            "patch": f"{plan.batch_size} of {patch} voxels",
            "network": f"{self.network}, {self.parameters:,} parameters",
            "device": self.device,
            "speed": f"{1 / self.seconds_per_step:.3g} steps/s ({MEASURED_STEPS} measured)",
            "budget": f"about {self.steps:,} steps in {duration(60 * self.minutes)}{each}",
            "peak memory": f"{in_words(self.peak_memory)} of {in_words(self.memory)}",
            "cache": f"about {in_words(self.cache_bytes)} if none is there yet, {free} free",
            "run folder": f"about {in_words(self.run_bytes)}{each}",
        }
        return [{"what": what, "value": value} for what, value in lines.items()]


def rehearse(config: FitConfig) -> Rehearsal:
    """Plan a run, train its first steps on its first cases, and keep nothing of it.

    Args:
        config: Options of the run.

    Raises:
        ConfigError: If an option, name or plan is wrong.
        DataError: If the cases cannot be trusted; all faulty ones are listed.
        RunError: If the run folder is in use, or the steps cannot be made.
    """
    refuse_several_processes()
    refuse_what_cannot_be_built(config)
    config = with_network_of_model(config)
    free_run_folder(config)
    use_allowed_processors()
    with _scratch(config.cache or CACHE) as folder:
        dataset, plan, parts = planned(config, folder)
        try:
            return _measured(config, dataset, plan, parts, folder)
        except MedSeg3DError as error:
            raise type(error)(str(error).removesuffix(GOES_ON)) from error


def _measured(
    config: FitConfig, dataset: Dataset, plan: Plan, parts: Split, folder: Path
) -> Rehearsal:
    scratch = started(config).model_copy(update={"cache": folder / "cache"})
    cases = [case for case in dataset.cases if case.id in set(parts.training)][:MOST_CASES]
    target = target_cases(scratch)
    open_cache(folder / "cache")
    wanted = [*cases, *target[:MOST_CASES]]
    preparation = Preparation(scratch, plan, Origin.of(scratch, wanted, []).digests)
    cached = preparation.prepare(wanted)
    learned, others = cached[: len(cases)], cached[len(cases) :]
    torch.manual_seed(config.seed)
    network, _ = make_network(scratch, plan)
    device = resolve_device(config.device)
    classes = class_indices(cases, plan.classes)
    loss = make_loss(scratch, plan, learned)
    maps = preparation.maps_of(learned, network, loss)
    patches = training_patches(scratch, plan, learned, classes=classes, target=others, maps=maps)
    seconds = _seconds_per_step(scratch, plan, patches, network, loss, device, folder)
    in_one_minute = 60 * (1 - VALIDATION_SHARE) / seconds
    if config.epochs is None:
        minutes = config.max_minutes or DEFAULT_MINUTES
        steps = int(minutes * in_one_minute)
    else:
        steps = config.epochs * config.steps_per_epoch
        minutes = steps / in_one_minute
    on_gpu = device.type == "cuda"
    per_voxel = _bytes_per_voxel(cached) * (len(dataset.cases) + len(target))
    if maps is not None:
        per_voxel += _bytes_per_voxel(maps.cases) * len(parts.training)
    return Rehearsal(
        plan=plan,
        network=scratch.network.name,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        device=f"{device}, {resolve_precision(config.precision, device)}",
        num_cases=(len(parts.training), len(parts.validation)),
        folds=len(read_splits(folder / SPLITS)) if config.fold == ALL_FOLDS else 1,
        seconds_per_step=seconds,
        steps=steps,
        minutes=minutes,
        peak_memory=torch.cuda.max_memory_reserved(device) if on_gpu else peak_memory(),
        memory=torch.cuda.mem_get_info(device)[1] if on_gpu else memory_limit(),
        cache_bytes=int(per_voxel * math.prod(plan.median_shape)),
        run_bytes=run_bytes(scratch, network),
        cache=config.cache or CACHE,
    )


def _seconds_per_step(
    config: FitConfig,
    plan: Plan,
    patches: Patches,
    network: nn.Module,
    loss: nn.Module,
    device: torch.device,
    folder: Path,
) -> float:
    """Mean time of the steps after the first ones, as training itself measures it."""
    labels = list(plan.foreground.values())
    settings = replace(
        training_settings(config, plan),
        correction=None,  # nothing that it could say of so few steps is true
        budget=Budget(steps=FIRST_STEPS + MEASURED_STEPS),
        steps_per_epoch=FIRST_STEPS,
        validate_every=None,
        early_stop=None,
        logger=None,
        checkpoint_seconds=math.inf,
    )
    history = train(
        network,
        loss,
        patches,
        folder=folder,
        label_names=labels,
        validate=lambda _, __: [math.nan] * len(labels),
        num_held_out=TOO_MANY,
        save_best=lambda _, __: None,
        settings=settings,
        device=device,
        precision=resolve_precision(config.precision, device),
    )
    first, last = history.rows[0], history.rows[-1]
    return float(60 * (last["minutes"] - first["minutes"]) / (last["step"] - first["step"]))


def _bytes_per_voxel(cases: Sequence[CachedCase]) -> float:
    size = sum(path.stat().st_size for case in cases for path in case.folder.iterdir())
    return size / sum(math.prod(case.shape) for case in cases)


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A folder on the disk of the cache that is gone in the end."""
    place = cache.absolute()
    while not place.is_dir():
        place = place.parent
    try:
        folder = tempfile.TemporaryDirectory(prefix=".medseg3d-dry-run-", dir=place)
    except OSError as error:
        raise RunError(f"{place} cannot be written: {reason_of(error)}") from None
    with folder as name:
        yield Path(name)
