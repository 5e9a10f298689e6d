"""One case from its image to its outputs, in three steps that may overlap with other cases'."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.api.predicting.cleaning_rules import Rules, changes_in_words, cleaning_facts, rules_of
from medseg3d.api.predicting.diagnosing import Diagnoses
from medseg3d.api.predicting.diagnosing import in_words as class_in_words
from medseg3d.api.predicting.needs import FLOAT, Footprint, Needs, estimate, expect_memory
from medseg3d.api.predicting.records import Record, Stamps, sizes, stamps, times
from medseg3d.api.predicting.region import Region, lengths, masks_of, region_of, surroundings
from medseg3d.api.predicting.sampling import Samples, in_turn, write_samples
from medseg3d.api.predicting.targets import Target
from medseg3d.bundle import inspect_bundle, read_bundle
from medseg3d.config import PredictConfig
from medseg3d.data.canonical import canonical
from medseg3d.data.cases import Case
from medseg3d.data.familiar import case_warnings
from medseg3d.data.preprocess import WorkingCase
from medseg3d.device import find_device
from medseg3d.errors import DataError, RunError
from medseg3d.inference.backends import BESIDE_GPU, window_bytes
from medseg3d.inference.cleaning import Change, clean
from medseg3d.inference.ensemble import told
from medseg3d.inference.planes import Entropy, PlaneFile, PlaneSink, Probabilities
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.windows import Advance
from medseg3d.inference.within import Within
from medseg3d.io import Volume, read_image, write_labels
from medseg3d.machine import in_words, memory_in_reach, peak_memory
from medseg3d.process import out_of_memory
from medseg3d.runs import find_bundles
from medseg3d.types import LabelMap

log = logging.getLogger("medseg3d")

COPIES_OF_SEVERAL = 3
"""Of the logits of a window: those of a model, their probabilities and the mean of all."""

BYTES_TO_CLEAN = 5
"""Memory per voxel that cleaning labels takes, measured."""


@dataclass(frozen=True)
class Job:
    """One case to predict.

    Attributes:
        case: The case.
        target: Where its outputs go.
        needs: What it takes.
    """

    case: Case
    target: Target
    needs: Needs

    def anywhere(self) -> "Job":
        """The same job for a process that has another current folder."""
        case = replace(self.case, images=tuple(path.absolute() for path in self.case.images))
        return replace(self, case=case, target=self.target.absolute())


@dataclass(frozen=True)
class Prepared:
    """A case that the network may see.

    Attributes:
        working: Its working image.
        like: Its image without the voxels.
        region: Where labels are wanted; None for everywhere.
        slab: Bytes that half-finished logits may take.
        notes: What is odd about it.
        inputs: Size and time of the last change of each file it was read from.
        seconds: Time of the stages so far.
    """

    working: WorkingCase
    like: Volume
    region: Region | None
    slab: int
    notes: tuple[str, ...]
    inputs: Stamps
    seconds: dict[str, float]


@dataclass(frozen=True)
class Labeled:
    """A case whose outputs are ready to be written.

    Attributes:
        labels: The label map, in the order of the file.
        planes: Probabilities and uncertainty that are asked for.
        like: Its image without the voxels.
        record: What is known so far.
        samples: Label maps that are drawn, if any are asked for.
    """

    labels: LabelMap
    planes: tuple[PlaneFile, ...]
    like: Volume
    record: Record
    samples: tuple[LabelMap, ...] = ()


def open_predictor(config: PredictConfig) -> Predictor:
    """Load the models that the options name, on the device they name."""
    paths = models_of(config)
    device = find_device(config.device)
    mirror = config.mirror
    if config.accurate and not read_bundle(paths[0]).plan.mirror_axes:
        log.info("%s was trained without mirroring, so nothing is mirrored", paths[0])
        mirror = False
    predictor = Predictor.open(
        paths,
        device=device,
        precision=config.precision,
        backend=config.backend,
        overlap=config.overlap,
        mirror=mirror,
        crop=config.crop,
        threads=config.threads,
    )
    log.info(
        "model %s (%s, %s, %s on %s)",
        ", ".join(map(str, paths)),
        predictor.bundle.network,
        told(predictor.network, "backend"),
        told(predictor.network, "precision"),
        device,
    )
    return predictor


def on_cpu(config: PredictConfig) -> PredictConfig:
    """The options for the CPU in the place of a GPU that is full."""
    precision = "auto" if config.precision == "fp16" else config.precision
    return config.model_copy(update={"device": "cpu", "backend": "auto", "precision": precision})


def models_of(config: PredictConfig) -> list[Path]:
    """The model files that the options name; when in a hurry, one of a cross-validation."""
    most = 1 if config.fast else None
    return [found for path in config.model or (None,) for found in find_bundles(path)[:most]]


def with_models_found(config: PredictConfig) -> PredictConfig:
    """The options with the model files of now, whatever runs end meanwhile."""
    return config.model_copy(update={"model": tuple(models_of(config))})


def footprint_of(config: PredictConfig) -> Footprint:
    """Memory that the models take which the options name.

    A GPU that is named need not be in this machine, but in those of the workers.

    Raises:
        ConfigError: If the backend or a label that is to be cleaned is unknown.
    """
    models = len(models_of(config))
    cleaning = BYTES_TO_CLEAN if rules_for(config) else 0
    if config.device not in ("auto", "cpu"):
        per_channel = BESIDE_GPU
    else:
        device = find_device(config.device)
        per_channel = window_bytes(config.backend, config.precision, device, models)
    return Footprint(per_channel, FLOAT * (1 if models == 1 else COPIES_OF_SEVERAL), cleaning)


def rules_for(config: PredictConfig) -> Rules:
    """What is done to the labels after the network.

    Raises:
        ConfigError: If the options name a label that the model does not have.
    """
    return rules_of(config, [read_bundle(path) for path in models_of(config)])


class Worker:
    """Predicts cases with the model that is loaded.

    Args:
        predictor: The model.
        config: The options.
        digests: SHA-256 of each model.

    Raises:
        RunError: If the file of a model holds another.
    """

    def __init__(
        self, predictor: Predictor, config: PredictConfig, digests: tuple[str, ...]
    ) -> None:
        self.predictor = predictor
        self.config = config
        self.rules = rules_for(config)
        self._digests = digests
        self._expect_same_models()
        self._footprint = replace(footprint_of(config), divisor=predictor.network.divisor)
        self._cpu: Worker | None = None
        self._samples: Samples | None = None
        self._diagnoses: Diagnoses | None = None

    def read(self, job: Job) -> Prepared:
        """Read and preprocess.

        Raises:
            DataError: If the image cannot be trusted, changes meanwhile, does not fit the model
                or takes more memory than there is.
        """
        plan = self.predictor.bundle.plan
        begun = time.perf_counter()
        inputs = self._stamps(job.case)
        expect_memory(job.needs.reading, self.config.memory_limit, told=job.needs.least)
        with _enough_memory(job.needs):
            volume = read_image(job.case.images, replace_nonfinite=self.config.replace_nonfinite)
            case = canonical(volume)
            notes = (*volume.notes, *case_warnings(case, plan))
            for note in notes:
                log.warning("case %s: %s", job.case.id, note)
            like = replace(volume, array=np.empty(0))
            del volume
            region = region_of(self.config, job.case.id, like.grid)
            if self._stamps(job.case) != inputs:
                raise DataError(
                    f"{job.case.images[0]} changed while it was read; is somebody still writing "
                    "to it? repeat the command later"
                )
            seen = time.perf_counter()
            part = None
            if region is not None:
                margin = surroundings(case.grid.spacing, plan)
                part = region.canonical_box(case.reorientation, margin)
            working = self.predictor.prepare(case, part=part)
        done = time.perf_counter()
        slab = self._slab(working, like)
        seconds = {"read": seen - begun, "prepare": done - seen}
        return Prepared(working, like, region, slab, notes, inputs, seconds)

    def compute(self, job: Job, prepared: Prepared, advance: Advance | None = None) -> Labeled:
        """Label a prepared case, on the CPU where it is too large for the GPU.

        Raises:
            DataError: If it takes more memory than there is.
            RunError: If more is to be loaded of a model whose file holds another now.
        """
        with _enough_memory(job.needs):
            try:
                return self._compute(job, prepared, advance)
            except RuntimeError as error:
                if self.predictor.device.type == "cpu" or not out_of_memory(error):
                    raise
            log.warning(
                "case %s: the memory of %s is too small for it; it is predicted on the CPU",
                job.case.id,
                self.predictor.device,
            )
            cpu = self._on_cpu()
            slab = cpu._slab(prepared.working, prepared.like)
            return cpu._compute(job, replace(prepared, slab=slab), advance)

    def _compute(self, job: Job, prepared: Prepared, advance: Advance | None) -> Labeled:
        begun = time.perf_counter()
        planes = self._planes(job.target, prepared)
        first, *others = in_turn(advance, 1 + self.config.samples)
        found = self.predictor.label(
            prepared.working,
            planes=_sinks(planes, prepared),
            max_slab_bytes=prepared.slab,
            advance=first,
        )
        labeled = time.perf_counter()
        cleaning = self._clean(job.case.id, found.labels, prepared)
        cleaned = time.perf_counter()
        samples = self._draw(prepared, others) if others else ()
        drawn = time.perf_counter()
        classes = self._diagnose(job.case.id, prepared)
        timing = found.timing
        voxel = prepared.like.grid.voxel_volume_ml
        record = Record(
            case=job.case.id,
            inputs=prepared.inputs,
            outputs={},
            seconds=prepared.seconds
            | {
                "network": timing.network,
                "stitch": timing.stitch,
                "restore": timing.restore,
                "clean": cleaned - labeled,
                "samples": drawn - cleaned,
                "classify": time.perf_counter() - drawn,
                "compute": time.perf_counter() - begun,
            },
            volumes_ml=_volumes(found.labels, self.predictor.bundle.plan.foreground, voxel),
            windows=timing.windows,
            skipped=timing.skipped,
            peak_memory_bytes=0,
            backend=told(self.predictor.network, "backend"),
            precision=told(self.predictor.network, "precision"),
            notes=prepared.notes,
            cleaning=cleaning,
            classes=classes,
        )
        return Labeled(found.labels, planes, prepared.like, record, samples)

    def write(self, job: Job, labeled: Labeled) -> Record:
        """Write the outputs, the label map last.

        Raises:
            RunError: If an output cannot be written.
        """
        begun = time.perf_counter()
        for planes in labeled.planes:
            planes.write(labeled.like)
        names = self.predictor.bundle.plan.labels
        for file in job.target.stale:
            log.warning("case %s: %s is removed, since it is of other labels", job.case.id, file)
            file.unlink(missing_ok=True)
        if labeled.samples:
            write_samples(job.target, labeled.samples, labeled.like, names)
        write_labels(job.target.labels, labeled.labels, labeled.like, names=names)
        seconds = labeled.record.seconds | {"write": time.perf_counter() - begun}
        total = sum(seconds[stage] for stage in ("read", "prepare", "compute", "write"))
        seconds = {stage: round(time, 4) for stage, time in (seconds | {"total": total}).items()}
        return replace(
            labeled.record,
            outputs=sizes(job.target.files),
            written=times(job.target.files),
            seconds=seconds,
            peak_memory_bytes=peak_memory(),
        )

    def _expect_same_models(self) -> None:
        """Call it after something was loaded from the files of the models."""
        for path, digest in zip(models_of(self.config), self._digests, strict=True):
            if inspect_bundle(path).sha256 != digest:
                raise RunError(
                    f"{path} is another model than when the command began; repeat the command"
                )

    def _stamps(self, case: Case) -> Stamps:
        with suppress(OSError, DataError):  # reading the file says what is wrong
            return stamps(case, masks_of(self.config, case.id))
        return {}

    def _clean(
        self, case_id: str, labels: LabelMap, prepared: Prepared
    ) -> dict[str, dict[str, Any]]:
        """Clean the labels that are wanted, in place; what was done to each."""
        changes, names = self._cleaned(labels, prepared), self.predictor.bundle.plan.labels
        voxel_ml = prepared.like.grid.voxel_volume_ml
        facts = cleaning_facts(self.rules, changes, names, voxel_ml=voxel_ml)
        if told := changes_in_words(facts):
            log.info("case %s: post-processing: %s", case_id, told)
        return facts

    def _cleaned(self, labels: LabelMap, prepared: Prepared) -> dict[int, Change]:
        region = prepared.region
        if region is not None:
            region.keep(labels)
        changes = clean(labels, self.rules, voxel_mm3=prepared.like.grid.voxel_volume_ml * 1000)
        if region is not None:  # a hole may lie in a hole of the region
            region.keep(labels)
        return changes

    def _draw(self, prepared: Prepared, advances: Sequence[Advance | None]) -> tuple[LabelMap, ...]:
        """Samples of a case, cleaned as its labels are."""
        if self._samples is None:
            config, model = self.config, models_of(self.config)[0]
            samples = Samples(self.predictor, model, config.samples, seed=config.seed)
            self._expect_same_models()
            self._samples = samples
        found = tuple(self._samples(prepared.working, prepared.slab, advances))
        for labels in found:
            self._cleaned(labels, prepared)
        return found

    def _diagnose(self, case_id: str, prepared: Prepared) -> dict[str, float]:
        """Probability of each class, if the model knows classes."""
        if not self.predictor.bundle.plan.classes:
            return {}
        if self._diagnoses is None:
            diagnoses = Diagnoses(self.predictor, models_of(self.config))
            self._expect_same_models()
            self._diagnoses = diagnoses
        found = self._diagnoses(prepared.working.image)
        log.info("case %s: class %s", case_id, class_in_words(found))
        return found

    def _slab(self, working: WorkingCase, like: Volume) -> int:
        """Memory for half-finished logits, or a refusal."""
        _, i, j, k = working.image.shape
        config, plan = self.config, self.predictor.bundle.plan
        part = lengths(working.placement.part)
        needs = estimate(
            like.grid,
            plan,
            config,
            working=(i, j, k),
            part=part,
            footprint=self._footprint,
        )
        allowed = expect_memory(needs.computing + needs.least_slab, config.memory_limit)
        return min(needs.slab, allowed - needs.computing)

    def _planes(self, target: Target, prepared: Prepared) -> tuple[PlaneFile, ...]:
        placement, count = prepared.working.placement, self.predictor.bundle.plan.num_labels
        found: list[PlaneFile] = []
        if target.probabilities is not None:
            found.append(Probabilities(target.probabilities, placement, count))
        if target.uncertainty is not None:
            found.append(Entropy(target.uncertainty, placement, count))
        return tuple(found)

    def _on_cpu(self) -> "Worker":
        """The same model on the CPU, kept for the next case that is too large for the GPU."""
        if self._cpu is None:
            config = on_cpu(self.config)
            self._cpu = Worker(open_predictor(config), config, self._digests)
        return self._cpu


def _sinks(planes: Sequence[PlaneFile], prepared: Prepared) -> Sequence[PlaneSink]:
    """What takes the planes; outside of a region they become background, as the labels do."""
    if prepared.region is None or not planes:
        return planes
    region, turn = prepared.region, prepared.working.placement.reorientation
    return [Within(planes, region.canonical_box(turn), region.canonical_mask(turn))]


@contextmanager
def _enough_memory(needs: Needs) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise DataError(
            f"the memory ran out; predicting it takes about {in_words(needs.memory)} and this "
            f"process may use {in_words(memory_in_reach())}; crop the image, or use a larger "
            "machine"
        ) from error


def _volumes(labels: LabelMap, names: Mapping[int, str], voxel_ml: float) -> dict[str, float]:
    """Volume of each foreground label, counted plane by plane."""
    counts: Counter[int] = Counter()
    for plane in labels.T:
        if labels.itemsize > 2:
            values, found = np.unique(plane, return_counts=True)
        else:
            found = np.bincount(plane.ravel(order="K"))
            values = np.flatnonzero(found)
            found = found[values]
        counts.update(dict(zip(values.tolist(), found.tolist(), strict=True)))
    return {name: counts[value] * voxel_ml for value, name in names.items()}
