"""``fit``: from a folder of cases to a model file."""

import importlib.metadata
import json
import logging
import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medseg3d import __version__
from medseg3d.api.scores import ScoreResult, write_scores
from medseg3d.bundle import FILE_NAME, SUFFIX, Bundle, read_bundle, save_bundle
from medseg3d.config import FitConfig, to_yaml, validated
from medseg3d.data.augment import Augmentation
from medseg3d.data.cache import CachedCase, case_key, is_complete
from medseg3d.data.canonical import canonical, load_case
from medseg3d.data.cases import Case, Dataset, find_cases
from medseg3d.data.checks import check_cases
from medseg3d.data.fingerprint import measure
from medseg3d.data.patches import PatchDataset
from medseg3d.data.plan import Plan, make_plan
from medseg3d.data.preprocess import preprocess, preprocessing_key
from medseg3d.data.split import Split, split
from medseg3d.device import Precision, resolve_device, resolve_precision
from medseg3d.errors import ConfigError, RunError, about_case
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.sliding_window import predict_logits
from medseg3d.io import atomic, read_image, read_labels, sources, write_labels
from medseg3d.losses import LOSSES
from medseg3d.networks import NETWORKS, build_network, planned_options
from medseg3d.networks.topology import Topology
from medseg3d.progress import Progress, track
from medseg3d.runs import CACHE, free_run_folder, interrupted_run, make_run_folder
from medseg3d.scoring import Row, score_case
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import Stage
from medseg3d.training.module import OptimizerSettings
from medseg3d.training.train import TrainingSettings, train

log = logging.getLogger("medseg3d")

DEFAULT_MINUTES = 60.0
PLANNED_GPU_GB = 10.0
PLANNED = ("spacing", "patch_size", "batch_size", "width")
PACKAGES = ("torch", "monai", "torchio", "lightning", "nibabel", "SimpleITK", "numpy", "scipy")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Everything the run left.
        bundle: The model file.
        dice: Mean Dice per foreground label over the held-out cases, on their native grids.
        scores: All scores of the held-out cases.
    """

    folder: Path
    bundle: Path
    dice: dict[str, float]
    scores: ScoreResult


def fit(data: Path | str | FitConfig, **options: Any) -> Run:
    """Learn to segment from a folder of labelled cases.

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
    config = data if isinstance(data, FitConfig) else validated(FitConfig, {"data": data} | options)
    if config.resume:
        folder, config = interrupted_run(config)
        dataset = find_cases(config.data)
        plan = Plan.load(folder / "plan.yaml")
        parts = Split(**json.loads((folder / "split.json").read_text(encoding="utf-8")))
        absent = {*parts.training, *parts.validation} - {case.id for case in dataset.cases}
        if absent:
            raise RunError(
                f"{config.data} lacks {len(absent)} cases of the run in {folder}, such as "
                f"{min(absent)}; give the folder that the run was begun with"
            )
    else:
        _refuse_what_cannot_be_built(config)
        folder = free_run_folder(config)
        dataset = find_cases(config.data)
        log.info("%s: %d cases (%s)", config.data, len(dataset.cases), dataset.layout)
        with Progress("Checking", total=len(dataset.cases), unit="case") as bar:
            checked = check_cases(dataset, advance=bar.advance)
        parts = split(dataset.cases, fold=config.fold, folds=config.folds, seed=config.seed)
        plan = _plan(config, dataset, checked.label_values, parts)
        with torch.device("meta"):
            make_network(config, plan)
        make_run_folder(folder)
        plan.save(folder / "plan.yaml")
        _write(folder / "split.json", json.dumps(parts.as_dict(), indent=1))
        _write(folder / "config.yaml", to_yaml(config, title="Resolved options of this run"))
    return _Fit(config, dataset, plan, parts, folder).run()


def _refuse_what_cannot_be_built(config: FitConfig) -> None:
    """Find wrong names and options before the hours of work, not after them."""
    network = NETWORKS[config.network.name]
    if config.stages and not hasattr(network, "set_stage"):
        raise ConfigError(
            f"network {config.network.name!r} has no training stages; leave out stages, or set "
            "stages=[] if they come from a file"
        )
    LOSSES.build(config.loss.name, **config.loss.options)
    Augmentation(**config.augmentation.model_dump())
    resolve_precision(config.precision, resolve_device(config.device))


def _plan(config: FitConfig, dataset: Dataset, label_values: Sequence[int], parts: Split) -> Plan:
    if config.plan is not None:
        fixed = [name for name in PLANNED if getattr(config, name) is not None]
        if fixed:
            raise ConfigError(
                f"{', '.join(fixed)} cannot be given beside a plan, which holds them; "
                f"edit {config.plan}"
            )
        return Plan.load(config.plan)
    training = [case for case in dataset.cases if case.id in set(parts.training)]
    with ThreadPoolExecutor(2) as pool:
        measured = list(
            track(pool.map(measure, training), "Measuring", total=len(training), unit="case")
        )
    names = {0: "background"} | {value: f"label {value}" for value in sorted(label_values)}
    names = distinct_names(names | (dataset.label_names or {}))
    num_channels = len(measured[0].foreground)
    channels = dataset.channel_names or tuple(f"channel {n}" for n in range(num_channels))
    device = resolve_device(config.device)
    plan = make_plan(
        measured,
        label_names=dict(sorted(names.items())),
        channel_names=channels,
        on_gpu=device.type == "cuda",
        memory_gb=config.memory_gb or _memory_gb(device),
        spacing=config.spacing,
        patch_size=config.patch_size,
        batch_size=config.batch_size,
        width=config.width,
    )
    log.info(
        "plan: spacing %s mm, patch %s, batch %d, %d stages, width %d",
        " x ".join(f"{edge:g}" for edge in plan.spacing),
        " x ".join(map(str, plan.patch_size)),
        plan.batch_size,
        len(plan.kernels),
        plan.width,
    )
    return plan


def distinct_names(names: dict[int, str]) -> dict[int, str]:
    """Names by value; a name that two values share, or that tables use, gets its value added.

    Examples:
        >>> distinct_names({0: "background", 1: "cyst", 2: "cyst", 3: "mean"})
        {0: 'background', 1: 'cyst 1', 2: 'cyst 2', 3: 'mean 3'}
    """
    counts = Counter(names.values())
    return {
        value: f"{name} {value}" if counts[name] > 1 or name == "mean" else name
        for value, name in names.items()
    }


def _memory_gb(device: torch.device) -> float:
    """Memory that training may take: a common GPU's, or half of the machine's.

    A plan for all of a large GPU would give windows that no other machine can predict with.
    """
    if device.type == "cuda":
        return min(PLANNED_GPU_GB, torch.cuda.mem_get_info(device)[0] / 1e9 * 0.8)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 / 2


class _Fit:
    """The steps of one run over its fixed inputs."""

    def __init__(
        self, config: FitConfig, dataset: Dataset, plan: Plan, parts: Split, folder: Path
    ) -> None:
        self.config = config
        self.plan = plan
        self.folder = folder
        by_id = {case.id: case for case in dataset.cases}
        self.training = [by_id[case_id] for case_id in parts.training]
        self.held_out = [by_id[case_id] for case_id in parts.validation]
        self.device = resolve_device(config.device)
        self.precision: Precision = resolve_precision(config.precision, self.device)
        self.labels = {value: name for value, name in plan.labels.items() if value != 0}

    def run(self) -> Run:
        """Preprocess, train, validate on native grids, write the bundle."""
        cached = self._preprocess([*self.training, *self.held_out])
        training, held_out = cached[: len(self.training)], cached[len(self.training) :]
        self._write_provenance(cached)
        torch.manual_seed(self.config.seed)
        network, options = make_network(self.config, self.plan)
        best = self.folder / "checkpoints" / f"best{SUFFIX}"

        def save_best(network: nn.Module, mean_dice: float) -> None:
            description = self._describe(network, options, {"mean": mean_dice})
            if best.exists():  # a resumed run repeats the way to better weights, kept already
                kept = read_bundle(best)
                same_stage = kept.options.get("stage") == description.options.get("stage")
                if same_stage and kept.scores.get("mean", 0.0) > mean_dice:
                    return
            save_bundle(best, description, network)

        history = train(
            network,
            LOSSES.build(self.config.loss.name, **self.config.loss.options),
            self._patches(training),
            folder=self.folder,
            label_names=list(self.labels.values()),
            validate=lambda network, limit: self._validate(network, held_out[:limit]),
            num_held_out=len(held_out),
            save_best=save_best,
            settings=self._settings(),
            device=self.device,
            precision=self.precision,
            resume=self.config.resume and (self.folder / "checkpoints" / "last.ckpt").is_file(),
        )
        predictor = Predictor.open(
            best, device=self.device, precision=self.precision, overlap=self.config.overlap
        )
        bundle = self.folder / FILE_NAME
        try:
            scores = self._score_held_out(predictor)
        except Exception:  # the model is whole; only its scores are missing
            save_bundle(bundle, predictor.bundle, predictor.network)
            raise
        dice = {
            name: _mean([row.dice for row in scores.rows if row.label == value])
            for value, name in self.labels.items()
        }
        reached = dice | {"mean": _mean(list(dice.values()))}
        last = history.rows[-1]
        description = predictor.bundle.model_copy(
            update={
                "scores": _known(reached),
                "training": predictor.bundle.training
                | {"steps": last["step"], "minutes": round(last["minutes"], 2)},
            }
        )
        save_bundle(bundle, description, predictor.network)
        log.info("model %s, Dice %.4f on %d held-out cases", bundle, reached["mean"], len(held_out))
        return Run(self.folder, bundle, dice, scores)

    def _preprocess(self, cases: Sequence[Case]) -> list[CachedCase]:
        root = self.config.cache or CACHE
        key = preprocessing_key(self.plan)

        def prepare(case: Case) -> CachedCase:
            volumes = [*case.images, *([case.labels] if case.labels else [])]
            files = [file for volume in volumes for file in sources(volume)]
            folder = root / case_key(key, files)
            if is_complete(folder):
                return CachedCase.open(folder)
            with about_case(case.id):
                working = preprocess(load_case(case), self.plan)
            return CachedCase.write(
                folder,
                case_id=case.id,
                image=working.image,
                labels=working.labels,
                num_labels=self.plan.num_labels,
            )

        with ThreadPoolExecutor(2) as pool:
            return list(
                track(pool.map(prepare, cases), "Preprocessing", total=len(cases), unit="case")
            )

    def _patches(self, cases: Sequence[CachedCase]) -> PatchDataset:
        config = self.config
        return PatchDataset(
            cases,
            self.plan.patch_size,
            seed=config.seed,
            foreground=config.foreground,
            augmentation=Augmentation(
                spacing=self.plan.spacing, **config.augmentation.model_dump()
            ),
        )

    def _settings(self) -> TrainingSettings:
        config = self.config
        if config.epochs is not None:
            budget = Budget(steps=config.epochs * config.steps_per_epoch)
        else:
            budget = Budget(seconds=60 * (config.max_minutes or DEFAULT_MINUTES))
            if config.max_minutes is None:
                log.info("training for %g minutes (--max-minutes, --epochs)", DEFAULT_MINUTES)
        stages, start = [], 0.0
        for stage in config.stages:
            stages.append(Stage(stage.name, start))
            start += stage.share
        return TrainingSettings(
            budget=budget,
            optimizer=OptimizerSettings(
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                warmup=config.warmup,
                decay_power=config.decay_power,
            ),
            batch_size=self.plan.batch_size,
            steps_per_epoch=config.steps_per_epoch,
            gradient_clip=config.gradient_clip,
            ema=config.ema,
            seed=config.seed,
            workers=config.workers,
            validate_every=config.validate_every,
            checkpoint_seconds=60 * config.checkpoint_minutes,
            stages=tuple(stages),
        )

    def _validate(self, network: nn.Module, cases: Sequence[CachedCase]) -> list[float]:
        """Dice per foreground label over whole held-out cases on the working grid."""
        was_training = network.training
        network.eval()
        per_case = []
        for case in cases:
            logits = predict_logits(
                network,
                case.image(),
                window=self.plan.patch_size,
                overlap=self.config.overlap,
                device=self.device,
                precision=self.precision,
            )
            per_case.append(_dice(logits, case.labels()))
        network.train(was_training)
        return [_mean(scores) for scores in zip(*per_case, strict=True)]

    def _score_held_out(self, predictor: Predictor) -> ScoreResult:
        """Predict the held-out cases as ``predict`` would, and score them on their own grids."""
        folder = self.folder / "validation"
        folder.mkdir(exist_ok=True)
        rows: list[Row] = []
        for case in track(self.held_out, "Validating", unit="case"):
            assert case.labels is not None
            volume, reference = read_image(case.images), read_labels(case.labels)
            labels = predictor.segment(canonical(volume)).labels()
            write_labels(folder / f"{case.id}.nii.gz", labels, volume)
            rows += score_case(
                case.id, labels, reference.labels, reference.grid, labels=self.labels
            )
        return write_scores(rows, folder / "scores.csv")

    def _describe(
        self, network: nn.Module, options: dict[str, Any], scores: dict[str, float]
    ) -> Bundle:
        stage = getattr(network, "stage", None)
        return Bundle(
            network=self.config.network.name,
            options=options | ({} if stage is None else {"stage": stage}),
            plan=self.plan,
            channels=len(self.plan.channels),
            precision=self.precision,
            scores=_known(scores),
            training={
                "data": self.config.data.resolve().name,
                "fold": self.config.fold,
                "seed": self.config.seed,
                "versions": _versions(),
            },
        )

    def _write_provenance(self, cached: Sequence[CachedCase]) -> None:
        cases = [*self.training, *self.held_out]
        provenance: dict[str, Any] = {
            "versions": _versions(),
            "seed": self.config.seed,
            "device": str(self.device),
            "precision": self.precision,
            "data": {
                case.id: {"files": [path.name for path in case.images], "key": entry.folder.name}
                for case, entry in zip(cases, cached, strict=True)
            },
        }
        path = self.folder / "provenance.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))["data"]
            changed = [
                name for name, facts in provenance["data"].items() if before.get(name) != facts
            ]
            if changed:
                raise RunError(
                    f"{len(changed)} cases have changed since the run was begun, such as "
                    f"{changed[0]}; restore them, or start a new run"
                )
        _write(path, json.dumps(provenance, indent=1))


def make_network(config: FitConfig, plan: Plan) -> tuple[nn.Module, dict[str, Any]]:
    """The network of the run and all the options it was built with."""
    topology = Topology(
        patch_size=plan.patch_size,
        strides=plan.strides,
        kernels=plan.kernels,
        width=plan.width,
        max_width=plan.max_width,
    )
    options = planned_options(config.network.name, topology) | config.network.options
    network = build_network(
        config.network.name, len(plan.channels), plan.num_labels, options=options
    )
    if config.stages:
        for stage in config.stages:
            network.set_stage(stage.name)  # type: ignore[operator]
        network.set_stage(config.stages[0].name)  # type: ignore[operator]
    return network, options


def _write(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _versions() -> dict[str, str]:
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"medseg3d": __version__, "python": platform.python_version()} | installed


def _dice(logits: np.ndarray, reference: np.ndarray) -> list[float]:
    """Dice of labels ``1 .. L-1``, counted slice by slice; nan where neither has the label."""
    num_labels = len(logits)
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    for slab, expected in zip(np.moveaxis(logits, 1, 0), reference, strict=True):
        pairs = expected.astype(np.int64) * num_labels + slab.argmax(axis=0)
        counts += np.bincount(pairs.ravel(), minlength=num_labels**2).reshape(counts.shape)
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    return [
        float(2 * counts[label, label] / sizes[label]) if sizes[label] else math.nan
        for label in range(1, num_labels)
    ]


def _known(scores: dict[str, float]) -> dict[str, float]:
    """Scores rounded for the bundle, without the undefined ones, which JSON cannot hold."""
    return {name: round(score, 6) for name, score in scores.items() if math.isfinite(score)}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
