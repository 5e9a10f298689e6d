"""``fit``: from a folder of cases to a model file."""

import importlib.metadata
import json
import logging
import math
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from medseg3d.data.cache import CachedCase, case_key, content_digest, is_complete, open_cache
from medseg3d.data.canonical import canonical, labels_on, load_case
from medseg3d.data.cases import Case, Dataset, find_cases
from medseg3d.data.checks import check_cases
from medseg3d.data.fingerprint import measure
from medseg3d.data.patches import PatchDataset
from medseg3d.data.plan import Plan, make_plan
from medseg3d.data.preprocess import preprocess, preprocessing_key
from medseg3d.data.split import Split, split
from medseg3d.data.threads import in_threads
from medseg3d.device import Precision, resolve_device, resolve_precision
from medseg3d.errors import ConfigError, RunError, about_case
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.sliding_window import predict_logits
from medseg3d.io import atomic, read_image, read_labels, sources, write_labels
from medseg3d.losses import LOSSES
from medseg3d.machine import memory_limit, num_processors
from medseg3d.networks import NETWORKS, build_network, planned_options
from medseg3d.networks.topology import Topology
from medseg3d.progress import Progress, track
from medseg3d.runs import CACHE, free_run_folder, interrupted_run, locked, require_room
from medseg3d.scoring import Row, score_case
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import Stage
from medseg3d.training.faults import enough_memory
from medseg3d.training.module import OptimizerSettings
from medseg3d.training.train import TrainingSettings, train

log = logging.getLogger("medseg3d")

DEFAULT_MINUTES = 60.0
PLANNED_GPU_GB = 10.0
PLANNED = ("spacing", "patch_size", "batch_size", "width", "mirror")
PLAN, SPLIT = "plan.yaml", "split.json"
COPIES_OF_WEIGHTS = 15
"""Bytes of a run folder per byte of weights: two checkpoints of weights, average and two moments,
a third while it is written, and the bundles."""
BYTES_PER_CACHED_CHANNEL, BYTES_PER_CACHED_LABEL = 2.0, 0.25
LEAVE_OUT = "leave the case out or cut it, or use a machine with more memory"
SMALLER_CASE = "resume on a machine with more memory"
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
    else:
        _refuse_what_cannot_be_built(config)
        folder = free_run_folder(config)
    use_allowed_processors()
    with locked(folder), _how_to_go_on(config, folder):
        open_cache(config.cache or CACHE)
        if all((folder / name).is_file() for name in (PLAN, SPLIT)):
            dataset, plan, parts = _planned_before(config, folder)
        else:
            dataset, plan, parts = _planned_now(config, folder)
        return _Fit(config, dataset, plan, parts, folder).run()


def _planned_before(config: FitConfig, folder: Path) -> tuple[Dataset, Plan, Split]:
    dataset = find_cases(config.data, skip_unpaired=config.skip_unpaired)
    plan = Plan.load(folder / PLAN).mirrored_along(config.augmentation.mirror_axes)
    parts = Split(**json.loads((folder / SPLIT).read_text(encoding="utf-8")))
    absent = {*parts.training, *parts.validation} - {case.id for case in dataset.cases}
    if absent:
        raise RunError(
            f"{config.data} lacks {len(absent)} cases of the run in {folder}, such as "
            f"{min(absent)}; give the folder that the run was begun with"
        )
    return dataset, plan, parts


def _planned_now(config: FitConfig, folder: Path) -> tuple[Dataset, Plan, Split]:
    """Check and measure the cases; the run can be resumed from the first moment on."""
    stored = folder / "config.yaml"
    if not config.resume:
        _write(stored, to_yaml(config, title="Resolved options of this run"))
    try:
        dataset = find_cases(config.data, skip_unpaired=config.skip_unpaired)
        log.info("%s: %d cases (%s)", config.data, len(dataset.cases), dataset.layout)
        with Progress("Checking", total=len(dataset.cases), unit="case") as bar:
            checked = check_cases(dataset, folds=config.folds, advance=bar.advance)
        parts = _split(config, dataset)
        plan = _plan(config, dataset, checked.label_values, parts)
        with torch.device("meta"):
            make_network(config, plan)
    except Exception:
        if not config.resume:
            stored.unlink(missing_ok=True)
        raise
    plan.save(folder / PLAN)
    _write(folder / SPLIT, json.dumps(parts.as_dict(), indent=1))
    return dataset, plan, parts


@contextmanager
def _how_to_go_on(config: FitConfig, folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        log.warning("stopped; go on with: medseg3d fit %s -o %s --resume", config.data, folder)
        raise


def use_allowed_processors() -> None:
    """Compute in no more threads than the container has processors."""
    torch.set_num_threads(min(torch.get_num_threads(), num_processors()))


def _split(config: FitConfig, dataset: Dataset) -> Split:
    patients = len({case.patient for case in dataset.cases})
    if 1 < patients < config.folds:
        if "folds" in config.model_fields_set and not config.resume:  # stored ones are all set
            raise ConfigError(
                f"{config.folds} folds need as many patients, {config.data} has {patients}; give "
                f"--set folds={patients} or less"
            )
        log.warning("%d patients give only %d folds, one patient held out", patients, patients)
    return split(dataset.cases, fold=config.fold, folds=config.folds, seed=config.seed)


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
        fixed = [name for name in PLANNED if getattr(config, name) not in (None, False)]
        if fixed:
            raise ConfigError(
                f"{', '.join(fixed)} cannot be given beside a plan, which holds them; "
                f"edit {config.plan}"
            )
        return Plan.load(config.plan).mirrored_along(config.augmentation.mirror_axes)
    training = [case for case in dataset.cases if case.id in set(parts.training)]
    measured = list(
        track(in_threads(measure, training), "Measuring", total=len(training), unit="case")
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
        mirror=config.mirror,
        mirror_axes=config.augmentation.mirror_axes,
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
    return memory_limit() / 1e9 / 2


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
        cases = [*self.training, *self.held_out]
        self.digests = self._digests(cases)
        torch.manual_seed(self.config.seed)
        network, options = make_network(self.config, self.plan)
        self._require_room(cases, network)
        self._write_provenance(cases)
        cached = self._preprocess(cases)
        training, held_out = cached[: len(self.training)], cached[len(self.training) :]
        self._warn_of_absent_labels(training, held_out)
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
            resume=self.config.resume,
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

    def _digests(self, cases: Sequence[Case]) -> dict[str, str]:
        """SHA-256 of every case's files, by case id."""

        def digest(case: Case) -> str:
            volumes = [*case.images, *([case.labels] if case.labels else [])]
            return content_digest([file for volume in volumes for file in sources(volume)])

        found = track(in_threads(digest, cases), "Hashing", total=len(cases), unit="case")
        return {case.id: digest for case, digest in zip(cases, found, strict=True)}

    def _cached_at(self, case: Case) -> Path:
        root = self.config.cache or CACHE
        return root / case_key(preprocessing_key(self.plan), self.digests[case.id])

    def _require_room(self, cases: Sequence[Case], network: nn.Module) -> None:
        """Refuse to begin what the disk will not hold to its end."""
        missing = sum(not is_complete(self._cached_at(case)) for case in cases)
        voxel = BYTES_PER_CACHED_CHANNEL * len(self.plan.channels) + BYTES_PER_CACHED_LABEL
        weights = sum(tensor.nbytes for tensor in network.state_dict().values())
        cached = int(missing * math.prod(self.plan.median_shape) * voxel)
        root = self.config.cache or CACHE
        require_room({root: cached, self.folder: COPIES_OF_WEIGHTS * weights})

    def _preprocess(self, cases: Sequence[Case]) -> list[CachedCase]:
        def prepare(case: Case) -> CachedCase:
            folder = self._cached_at(case)
            if is_complete(folder):
                return CachedCase.open(folder)
            with about_case(case.id), enough_memory(f"preprocessing case {case.id}", LEAVE_OUT):
                working = preprocess(load_case(case), self.plan)
                return CachedCase.write(
                    folder,
                    case_id=case.id,
                    image=working.image,
                    labels=working.labels,
                    num_labels=self.plan.num_labels,
                )

        found = in_threads(prepare, cases)
        return list(track(found, "Preprocessing", total=len(cases), unit="case"))

    def _warn_of_absent_labels(
        self, training: Sequence[CachedCase], held_out: Sequence[CachedCase]
    ) -> None:
        for number, (value, name) in enumerate(sorted(self.plan.labels.items())):
            occurs = [
                any(number in case.labels_present for case in cases)
                for cases in (training, held_out)
            ]
            if value != 0 and not occurs[0]:
                log.warning(
                    "label %d (%s) is in no training case of fold %d and cannot be learned; add "
                    "cases that have it, or choose another --fold",
                    *(value, name, self.config.fold),
                )
            elif value != 0 and not occurs[1]:
                log.warning(
                    "label %d (%s) is in no held-out case of fold %d, so nothing will tell how "
                    "well it is found",
                    *(value, name, self.config.fold),
                )

    def _patches(self, cases: Sequence[CachedCase]) -> PatchDataset:
        config = self.config
        return PatchDataset(
            cases,
            self.plan.patch_size,
            seed=config.seed,
            foreground=config.foreground,
            augmentation=Augmentation(
                spacing=self.plan.spacing,
                mirrored_labels=self.plan.mirrored_labels,
                **config.augmentation.model_dump() | {"mirror_axes": self.plan.mirror_axes},
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

        def score(case: Case) -> list[Row]:
            assert case.labels is not None
            path = folder / f"{case.id}.nii.gz"
            with about_case(case.id), enough_memory(f"validating case {case.id}", SMALLER_CASE):
                volume = read_image(case.images)
                if self.config.resume and path.is_file():
                    labels = read_labels(path).labels
                else:
                    labels = predictor.segment(canonical(volume)).labels()
                    write_labels(path, labels, volume)
                reference = labels_on(read_labels(case.labels), volume.grid)
            return score_case(case.id, labels, reference, volume.grid, labels=self.labels)

        # in another thread, so that an interrupt need not wait for a large case
        scored = in_threads(score, self.held_out, threads=1)
        found = track(scored, "Validating", total=len(self.held_out), unit="case")
        rows = [row for rows in found for row in rows]
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
            cases=self._unnamed_digests(),
            training={
                "data": self.config.data.resolve().name,
                "fold": self.config.fold,
                "seed": self.config.seed,
                "versions": _versions(),
            },
        )

    def _unnamed_digests(self) -> dict[str, str]:
        """Digests without case ids, which may be personal; provenance.json has both."""
        parts = {"training": self.training, "held_out": self.held_out}
        return {
            f"{part}_{number:04d}": self.digests[case.id]
            for part, cases in parts.items()
            for number, case in enumerate(cases, start=1)
        }

    def _write_provenance(self, cases: Sequence[Case]) -> None:
        provenance: dict[str, Any] = {
            "versions": _versions(),
            "seed": self.config.seed,
            "device": str(self.device),
            "precision": self.precision,
            "data": {
                case.id: {
                    "files": [path.name for path in case.images],
                    "sha256": self.digests[case.id],
                }
                for case in cases
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
