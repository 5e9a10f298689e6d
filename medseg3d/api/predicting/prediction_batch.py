"""Many cases to predict: which are left, one after the other, and what becomes of each."""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

from medseg3d.api.batch import FAILED_CSV, Failures, remove_table
from medseg3d.api.predicting.cleaning_rules import rules_in_words
from medseg3d.api.predicting.needs import (
    Footprint,
    disk_of,
    expect_disk,
    expect_memory,
    needs_of,
)
from medseg3d.api.predicting.pipeline import in_line
from medseg3d.api.predicting.records import NAME, Record, Records, lying_beside
from medseg3d.api.predicting.region import masks_of
from medseg3d.api.predicting.sampling import refuse_samples
from medseg3d.api.predicting.targets import (
    Target,
    expect_new,
    find_targets,
    in_the_way,
    is_dicom,
    place_of,
)
from medseg3d.api.predicting.worker import (
    Job,
    Labeled,
    Prepared,
    Worker,
    footprint_of,
    models_of,
    on_cpu,
    open_predictor,
    rules_for,
    with_models_found,
)
from medseg3d.bundle import inspect_bundle, read_bundle
from medseg3d.cluster.shard import Shard, parse_shard
from medseg3d.config import PredictConfig
from medseg3d.data.cases import Case, find_inputs
from medseg3d.data.partners import Fault
from medseg3d.data.plan import Plan
from medseg3d.device import find_device, resolve_precision
from medseg3d.errors import ConfigError, DataError, MedSeg3DError, RunError
from medseg3d.inference.evidence import is_doubtful
from medseg3d.io import case_stem
from medseg3d.io.atomic import sweep
from medseg3d.io.dicom import expect_identified
from medseg3d.machine import in_words, memory_in_reach
from medseg3d.process import out_of_memory, sentence
from medseg3d.progress import Progress

log = logging.getLogger("medseg3d")

FAILED_OF_PARTS = "failed-*of*.csv"


@dataclass(frozen=True)
class Prediction:
    """What was written for one case.

    Attributes:
        case_id: Name of the case.
        path: The label map.
        volumes_ml: Volume of each foreground label, by name.
        seconds: Time from reading to writing.
        probabilities: The probabilities, if they were asked for.
        uncertainty: Their entropy, if it was asked for.
        samples: Label maps that were drawn, if any were asked for.
        entropy: That of their labels.
        classes: Probability of each class of the image, if the model knows classes.
    """

    case_id: str
    path: Path
    volumes_ml: dict[str, float]
    seconds: float
    probabilities: Path | None = None
    uncertainty: Path | None = None
    samples: tuple[Path, ...] = ()
    entropy: Path | None = None
    classes: dict[str, float] = field(default_factory=dict)


class Batch:
    """All that one call shall predict.

    Args:
        config: The options.
        cases: The cases of this call.
        targets: Where their outputs go.
        failures: Cases that could not be done.
        records: Cases of the folder that are finished.
        digests: SHA-256 of each model.
    """

    def __init__(
        self,
        config: PredictConfig,
        cases: Sequence[Case],
        targets: Sequence[Target],
        failures: Failures,
        records: Records,
        digests: tuple[str, ...],
    ) -> None:
        self.config = config
        self.cases = cases
        self.targets = targets
        self.failures = failures
        self.records = records
        self.digests = digests

    @classmethod
    def found(cls, config: PredictConfig) -> "Batch":
        """Find the cases and what earlier calls left of them.

        Raises:
            DataError: If there are no cases.
            RunError: If outputs are in the way or cannot be written.
        """
        shard = parse_shard(config.shard) if config.shard else Shard(1, 1)
        if config.roi_mask is not None and not config.roi_mask.exists():
            raise ConfigError(f"--roi-mask {config.roi_mask} does not exist")
        if config.samples:
            refuse_samples(models_of(config))
        unusable: list[Fault] = []
        cases = find_inputs(config.inputs, unusable=unusable)
        config = with_models_found(config)
        targets = find_targets(cases, config)
        models = [path.absolute() for path in models_of(config)]  # found from any folder
        digests = {str(path): inspect_bundle(path).sha256 for path in models}
        folder = targets[0].labels.parent
        total = len(cases) + len(unusable)
        records = Records.open(folder / shard.name(NAME), digests, config)
        if total > 1 or _is_for_a_folder(config, cases, targets[0]):
            labels = [target.labels for target in targets]
            records.expect_one_work(labels, overwrite=config.overwrite)
        else:
            records.is_kept = records.is_begun
        failures = Failures(total, folder, name=shard.name(FAILED_CSV))
        mine = list(zip(cases, targets, strict=True))
        if shard.count > 1:
            mine = shard.of(mine, key=lambda pair: pair[0].id)
            unusable = shard.of(unusable, key=str)
        else:
            for table in folder.glob(FAILED_OF_PARTS):
                remove_table(table)
        for fault in unusable:
            failures.add(", ".join(fault.cases), fault.file, fault)
        shas = tuple(digests[str(path)] for path in models)
        return cls(config, [c for c, _ in mine], [t for _, t in mine], failures, records, shas)

    def jobs(self) -> list[Job]:
        """What is left to do, told from the headers; there is room on the disk for all of it.

        Raises:
            RunError: If outputs are in the way, or do not fit on the disk.
        """
        config = self.config
        for folder in {file.parent for target in self.targets for file in target.files}:
            sweep(folder)
        todo = [
            (case, self._with_stale(target))
            for case, target in zip(self.cases, self.targets, strict=True)
            if not self._is_done(case, target)
        ]
        if left_out := len(self.cases) - len(todo):
            log.info("%d of %d cases are there already", left_out, len(self.cases))
        if not config.overwrite:
            todo = self._free(todo)
        model = models_of(config)[0]
        plan = read_bundle(model).plan
        rules = rules_for(config)
        footprint = footprint_of(config)
        jobs = []
        for case, target in todo:
            with self.failures.of(case.id, case.images[0]):
                jobs.append(self._job(case, target, plan, model, footprint))
        expect_disk(disk_of([(job.needs, job.target) for job in jobs]))
        self._tell_of_leftovers(jobs)
        places = [job.target for job in jobs]
        self.records.begin(file for each in places for file in (*each.files, *each.stale))
        if jobs and self.records.is_of_other_work and not self.records.is_kept:
            log.warning(
                "case %s is not put on record in %s, which is of another model or other options",
                *(jobs[0].case.id, jobs[0].target.labels.parent),
            )
        if jobs:
            most = in_words(max(job.needs.memory for job in jobs))
            log.info("memory: up to about %s of %s", most, in_words(memory_in_reach()))
            if rules:
                log.info("post-processing: %s", rules_in_words(rules, plan.labels))
        return jobs

    def _with_stale(self, target: Target) -> Target:
        """The same, with what is left of an earlier prediction of the case."""
        return replace(target, stale=self.records.left_of(target.files, self._ours))

    def _tell_of_leftovers(self, jobs: Sequence[Job]) -> None:
        """Name what lies beside label maps that are replaced, and is on nobody's record."""
        replaced = [job for job in jobs if os.path.lexists(job.target.labels)]
        folders = {job.target.labels.parent for job in replaced}
        beside = {folder: lying_beside(folder) for folder in folders}
        for job in replaced:
            labels = job.target.labels
            places = set(map(place_of, (*job.target.files, *job.target.stale)))
            for file in beside[labels.parent].get(case_stem(labels), ()):
                if place_of(file) not in places:
                    log.warning(
                        "case %s: %s is kept, but is not of the labels that are made now; remove "
                        "it if nobody needs it",
                        *(job.case.id, file),
                    )

    def _free(self, todo: Sequence[tuple[Case, Target]]) -> list[tuple[Case, Target]]:
        """Those whose outputs are not in the way; the others fail.

        Raises:
            RunError: If the outputs of every case are in the way, or some and the folder holds
                those of other models or options, so that they would be mixed.
        """
        skip_existing, ours = self.config.skip_existing, self._ours
        if skip_existing:
            labels = [target.labels for _, target in todo if self.records.is_as_made(target.labels)]
            ours = {*ours, *map(place_of, labels)}
        blocked = {
            case.id: files[0]
            for case, target in todo
            if (files := in_the_way(target, skip_existing=skip_existing, ours=ours))
        }
        if len(blocked) == len(self.cases) or self.records.is_mixed:
            expect_new([target for _, target in todo], skip_existing=skip_existing, ours=ours)
        for case, _ in todo:
            if case.id in blocked:
                self.failures.add(
                    case.id,
                    case.images[0],
                    f"{blocked[case.id]} exists already and is not what this command made of that "
                    "image; remove it to have it made, or give --overwrite to replace all",
                )
        return [(case, target) for case, target in todo if case.id not in blocked]

    @cached_property
    def _ours(self) -> Collection[str]:
        """Outputs that may be replaced, since earlier calls of this work were to make them."""
        return self.records.ours

    def _job(
        self, case: Case, target: Target, plan: Plan, model: Path, footprint: Footprint
    ) -> Job:
        config = self.config
        needs = needs_of(case, plan, config, model=model, footprint=footprint)
        expect_memory(needs.reading, config.memory_limit, told=needs.least)
        if is_dicom(target.labels):
            expect_identified(case.images[0])
        return Job(case, target, needs)

    def _is_done(self, case: Case, target: Target) -> bool:
        if self.config.overwrite:
            return False
        is_ours = place_of(target.labels) in self._ours  # an interrupted --overwrite's
        is_left_out = self.config.skip_existing and target.is_there and not is_ours
        with suppress(DataError, OSError):  # told of when it is read
            masks = masks_of(self.config, case.id)
            if not is_left_out:
                return self.records.is_finished(case, target.files, masks)
            if self.records.is_outdated(case, target.files, masks):
                log.warning(
                    "case %s: %s was made of another image than %s is now, and is left out; "
                    "remove it to have it made anew",
                    *(case.id, target.labels, case.images[0]),
                )
        return is_left_out

    def here(self, jobs: Sequence[Job], results: list[Prediction]) -> None:
        """Predict in this process, reading ahead and writing behind.

        Args:
            jobs: What to do.
            results: Takes up what is written.

        Raises:
            RunError: If no further case can be written.
        """
        worker = opened(self.config, self.digests)
        with Progress("Predicting", total=_shown(jobs), unit="case") as bar:
            place = {job.case.id: number for number, job in enumerate(jobs)}

            def compute(job: Job, prepared: Prepared) -> Labeled:
                def advance(done: int, windows: int) -> None:
                    share = (place[job.case.id] + done / windows) / len(jobs)
                    bar.set_progress(share, note=job.case.id)

                return worker.compute(job, prepared, advance)

            def write(job: Job, labeled: Labeled) -> Record:
                return self._kept(worker.write(job, labeled))

            line = in_line(
                jobs,
                read=worker.read,
                compute=compute,
                write=write,
                guard=lambda job: self.failures.of(job.case.id, job.case.images[0]),
                fit_together=self._fit_together,
            )
            with self._keeping(results, len(jobs)):
                for job, record in line:
                    results.append(self._done(job, record))

    def in_cluster(self, jobs: Sequence[Job], address: str, results: list[Prediction]) -> None:
        """Predict in the workers of a cluster, to which paths are sent and nothing else.

        Args:
            jobs: What to do.
            address: Of the cluster.
            results: Takes up what is written.

        Raises:
            RunError: If there is no cluster at that address.
        """
        from medseg3d.cluster.runner import Cluster

        with (
            Progress("Predicting", total=_shown(jobs), unit="case") as bar,
            Cluster(address, at_most=len(jobs)) as cluster,
            self._keeping(results, len(jobs)),
        ):
            config = _for_workers(self.config, cluster.threads, share=cluster.num_local)

            def on_result(job: Job, record: Record) -> None:
                results.append(self._done(job, self._kept(record)))
                bar.advance()

            def on_failure(job: Job, error: RunError) -> None:
                self.failures.add(job.case.id, job.case.images[0], str(error))
                bar.advance()

            cluster.run(
                partial(predict_job, config, self.digests),
                [job.anywhere() for job in jobs],
                on_result=on_result,
                on_failure=on_failure,
                if_lost="what is finished is kept, start again for the rest",
            )

    def _kept(self, record: Record) -> Record:
        self.records.add(record)
        return record

    def _done(self, job: Job, record: Record) -> Prediction:
        target, seconds = job.target, record.seconds["total"]
        log.info("%s: %s (%.1f s)", job.case.id, target.labels, seconds)
        return Prediction(
            *(job.case.id, target.labels, record.volumes_ml, seconds),
            *(target.probabilities, target.uncertainty, target.samples, target.entropy),
            classes=record.classes,
        )

    def _fit_together(self, job: Job, following: Job) -> bool:
        """Whether there is memory to read one case while another is computed."""
        return job.needs.memory + following.needs.beside <= _allowed(self.config)

    @contextmanager
    def _keeping(self, results: Sequence[Prediction], num_jobs: int) -> Iterator[None]:
        """Keep on record what was done, however the work ends."""
        try:
            yield
            self._save(is_whole=True)
        except BaseException as error:
            with suppress(RunError):  # such as a full disk, which is the reason already
                self._save(is_whole=False)
            if isinstance(error, MedSeg3DError | OSError) and num_jobs > 1:
                how = " without --overwrite" if self.config.overwrite else ""
                raise RunError(
                    f"{sentence(error)}; {len(results)} of {num_jobs} cases were written before, "
                    f"repeat the command{how} to go on from there"
                ) from error
            raise

    def _save(self, *, is_whole: bool) -> None:
        files = (file for target in self.targets for file in target.files)
        self.records.end(files, is_whole=is_whole)


def _is_for_a_folder(config: PredictConfig, cases: Sequence[Case], target: Target) -> bool:
    """Whether one case is all that a folder of images holds today, or goes to a folder."""
    if target.labels == config.out:
        return False
    images = {image.absolute() for case in cases for image in case.images}  # one may be a series
    folders = {path.absolute() for path in config.inputs if path.is_dir()}
    return config.out is not None or not folders <= images


def predict_job(config: PredictConfig, digests: tuple[str, ...], job: Job) -> Record:
    """Predict one case in a worker process, which keeps the model for the next one.

    Args:
        config: The options.
        digests: SHA-256 of each model, which the files in the place of the worker must have.
        job: The case.

    Raises:
        RunError: If a model is another one.
    """
    worker = _worker(config, digests)
    return worker.write(job, worker.compute(job, worker.read(job)))


def _for_workers(config: PredictConfig, threads: int | None, *, share: int) -> PredictConfig:
    """The options for workers that have another current folder and may share this machine.

    Args:
        config: The options.
        threads: Processors for each worker, if the options do not say.
        share: How many workers share this machine; 0 if they are elsewhere.
    """
    memory = config.max_memory
    if share:
        memory = str(_allowed(config) // share)
    return config.model_copy(
        update={
            "model": tuple(path.absolute() for path in models_of(config)),
            "roi_mask": config.roi_mask and config.roi_mask.absolute(),
            "threads": config.threads or threads,
            "max_memory": memory,
        }
    )


def _allowed(config: PredictConfig) -> int:
    """Bytes that may be held in all."""
    return min(memory_in_reach(), config.memory_limit or memory_in_reach())


def opened(config: PredictConfig, digests: tuple[str, ...]) -> Worker:
    """Load the models that have these digests, on the CPU where the GPU has no room for them.

    Raises:
        RunError: If the file of one holds another.
    """
    try:
        return Worker(open_predictor(config), config, digests)
    except RuntimeError as error:
        if find_device(config.device).type == "cpu" or not out_of_memory(error):
            raise
        log.warning(
            "the memory of the GPU is too small for the model at present; all cases are predicted "
            "on the CPU"
        )
    config = on_cpu(config)
    return Worker(open_predictor(config), config, digests)


def without_trial(config: PredictConfig) -> PredictConfig:
    """The options for one of several workers, whose trials on cases of their own could differ.

    Only the worker knows in which arithmetic its processor is fast.
    """
    if config.precision != "auto":
        return config
    fastest = resolve_precision("auto", find_device(config.device))
    if not any(is_doubtful(read_bundle(path), fastest) for path in models_of(config)):
        return config
    log.info("the model has no evidence for %s, so that a worker computes in fp32", fastest)
    return config.model_copy(update={"precision": "fp32"})


@lru_cache(maxsize=1)
def _worker(config: PredictConfig, digests: tuple[str, ...]) -> Worker:
    return opened(without_trial(config), digests)


def _shown(jobs: Sequence[Job]) -> int | None:
    """Cases to show the progress of; one case has no number."""
    return None if len(jobs) == 1 else len(jobs)
