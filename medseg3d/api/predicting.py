"""``predict``: label maps on exactly the grid of their images."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from torch import device as Device  # noqa: N812

from medseg3d.api.batch import Failures
from medseg3d.api.needs import Needs, estimate, expect_memory, needs_of
from medseg3d.api.outputs import Target, expect_disk, find_targets, is_dicom
from medseg3d.bundle import Bundle, read_bundle
from medseg3d.config import PredictConfig, validated
from medseg3d.data.canonical import CanonicalCase, canonical, nonzero_box
from medseg3d.data.cases import Case, find_inputs
from medseg3d.data.familiar import case_warnings
from medseg3d.data.partners import Fault
from medseg3d.data.plan import Plan
from medseg3d.device import Precision, resolve_device, resolve_precision
from medseg3d.errors import ConfigError, DataError, MedSeg3DError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.inference.predictor import Predictor, Segmentation
from medseg3d.inference.sliding_window import Advance
from medseg3d.io import Volume, read_image, write_image, write_labels
from medseg3d.io.atomic import sweep
from medseg3d.io.dicom import expect_identified
from medseg3d.machine import in_words, memory_in_reach
from medseg3d.process import out_of_memory, sentence
from medseg3d.progress import Progress
from medseg3d.runs import find_bundle
from medseg3d.types import Affine, LabelMap

log = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class Prediction:
    """What was written for one case.

    Attributes:
        case_id: Name of the case.
        path: The label map.
        volumes_ml: Volume of each foreground label, by name.
        seconds: Time from reading to writing.
        probabilities: The probabilities, if they were asked for.
    """

    case_id: str
    path: Path
    volumes_ml: dict[str, float]
    seconds: float
    probabilities: Path | None = None


@overload
def predict(inputs: npt.NDArray[Any], *, affine: npt.ArrayLike, **options: Any) -> LabelMap: ...
@overload
def predict(
    inputs: Path | str | Sequence[Path | str] | PredictConfig, **options: Any
) -> list[Prediction]: ...


def predict(
    inputs: npt.NDArray[Any] | Path | str | Sequence[Path | str] | PredictConfig,
    *,
    affine: npt.ArrayLike | None = None,
    **options: Any,
) -> LabelMap | list[Prediction]:
    """Label images with a trained model.

    Args:
        inputs: Files and folders, or all options; or an array ``(I, J, K)`` or
            ``(C, I, J, K)`` with its affine.
        affine: ``(4, 4)``, voxel index to world mm (RAS+), of an array.
        **options: See :class:`medseg3d.config.PredictConfig`.

    Returns:
        What was written, case by case; for an array, its label map ``(I, J, K)``.

    Raises:
        DataError: If no image is found, or an array has a wrong shape.
        ModelError: If there is no usable model.
        RunError: If some cases failed; the others are written.
    """
    if isinstance(inputs, np.ndarray):
        return _predict_array(inputs, affine, options)
    if isinstance(inputs, PredictConfig):
        return _predict_files(inputs)
    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    return _predict_files(validated(PredictConfig, {"inputs": paths} | options))


def open_predictor(config: PredictConfig) -> Predictor:
    """Load the model that the options name, on the device they name."""
    path = find_bundle(config.model)
    device = resolve_device(config.device)
    bundle = read_bundle(path)
    precision = _precision(config.precision, bundle, device)
    log.info("model %s (%s, %s on %s)", path, bundle.network, precision, device)
    return Predictor.open(
        path, device=device, precision=precision, overlap=config.overlap, mirror=config.mirror
    )


def _precision(wanted: str, bundle: Bundle, device: Device) -> Precision:
    precision = resolve_precision(wanted, device)
    # the scores of such a model were reached in fp32
    return "fp32" if wanted == "auto" and bundle.precision == "fp32" else precision


def _predict_files(config: PredictConfig) -> list[Prediction]:
    unusable: list[Fault] = []
    cases = find_inputs(config.inputs, unusable=unusable)
    targets = find_targets(cases, config)
    path = find_bundle(config.model)
    plan = read_bundle(path).plan
    folder = config.out if config.out and targets[0].labels != config.out else None
    failures = Failures(len(cases) + len(unusable), folder or targets[0].labels.parent)
    for fault in unusable:
        failures.add(", ".join(fault.cases), fault.file, fault)
    jobs = _jobs(cases, targets, failures, plan, path, config)
    results: list[Prediction] = []
    if jobs:
        worker = _Worker(open_predictor(config), path, config)
        results = _predict_all(jobs, worker, failures)
    failures.end(f"cases failed, {len(results)} were written")
    return results


@dataclass(frozen=True)
class _Job:
    """One case to predict."""

    case: Case
    target: Target
    needs: Needs


def _jobs(
    cases: Sequence[Case],
    targets: Sequence[Target],
    failures: Failures,
    plan: Plan,
    model: Path,
    config: PredictConfig,
) -> list[_Job]:
    """What is left to do, told from the headers; there is room on the disk for all of it.

    Raises:
        RunError: If the outputs do not fit on the disk.
    """
    for folder in {file.parent for target in targets for file in target.files}:
        sweep(folder)
    jobs = []
    done = 0
    for case, target in zip(cases, targets, strict=True):
        if config.skip_existing and target.is_there:
            done += 1
            continue
        with failures.of(case.id, case.images[0]):
            needs = needs_of(case, plan, model=model, probabilities=config.probabilities)
            expect_memory(needs.reading)
            if is_dicom(target.labels):
                expect_identified(case.images[0])
            jobs.append(_Job(case, target, needs))
    if done:
        log.info("%d of %d cases are there already and are left out", done, len(cases))
    expect_disk(
        (file.parent, job.needs.disk(file, probabilities=file == job.target.probabilities))
        for job in jobs
        for file in job.target.files
    )
    if jobs:
        most = in_words(max(job.needs.memory for job in jobs))
        log.info("memory: up to about %s of %s", most, in_words(memory_in_reach()))
    return jobs


def _predict_all(jobs: Sequence[_Job], worker: "_Worker", failures: Failures) -> list[Prediction]:
    results: list[Prediction] = []
    with Progress("Predicting", total=None if len(jobs) == 1 else len(jobs), unit="case") as bar:
        for place, job in enumerate(jobs):

            def advance(done: int, windows: int, place: int = place) -> None:
                bar.set_progress((place + done / windows) / len(jobs), note=jobs[place].case.id)

            try:
                with failures.of(job.case.id, job.case.images[0]):
                    result = worker.predict(job, advance)
                    results.append(result)
                    log.info("%s: %s (%.1f s)", result.case_id, result.path, result.seconds)
            except (MedSeg3DError, OSError) as error:
                if len(jobs) == 1:
                    raise
                raise RunError(
                    f"{sentence(error)}; {len(results)} of {len(jobs)} cases were written before, "
                    "give --skip-existing to go on from there"
                ) from error
    return results


class _Worker:
    """Predicts one case after the other with the model that is loaded.

    Args:
        predictor: The model.
        model: Its file, to name it.
        config: The options.
    """

    def __init__(self, predictor: Predictor, model: Path, config: PredictConfig) -> None:
        self.predictor = predictor
        self.model = model
        self.config = config

    def predict(self, job: _Job, advance: Advance) -> Prediction:
        """Read, segment and write one case.

        Raises:
            DataError: If the image cannot be trusted, does not fit the model or takes more
                memory than there is.
            RunError: If an output cannot be written.
        """
        begun = time.perf_counter()
        try:
            found, like = self._segment(job, advance)
            probabilities = job.target.probabilities
            if probabilities is not None:
                write_image(probabilities, found.probabilities(), like)
            labels = found.labels()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MedSeg3DError) or not out_of_memory(error):
                raise
            raise DataError(
                f"the memory ran out; predicting it takes about {in_words(job.needs.memory)} and "
                f"this process may use {in_words(memory_in_reach())}; crop the image, or use a "
                "larger machine"
            ) from error
        names = self.predictor.bundle.plan.labels
        write_labels(job.target.labels, labels, like, names=names)
        volumes = {
            name: float(np.count_nonzero(labels == value)) * like.grid.voxel_volume_ml
            for value, name in names.items()
            if value != 0
        }
        seconds = time.perf_counter() - begun
        return Prediction(job.case.id, job.target.labels, volumes, seconds, probabilities)

    def _segment(self, job: _Job, advance: Advance) -> tuple[Segmentation, Volume]:
        """Logits of one case, and its image without the voxels."""
        plan = self.predictor.bundle.plan
        volume = read_image(job.case.images, replace_nonfinite=self.config.replace_nonfinite)
        case = canonical(volume)
        for note in (*volume.notes, *case_warnings(case, plan)):
            log.warning("case %s: %s", job.case.id, note)
        like = replace(volume, array=np.empty(0))
        del volume
        if job.needs.memory > memory_in_reach():
            kept = case.image[(slice(None), *nonzero_box(case.image))].shape
            expect_memory(
                estimate(
                    case.grid,
                    plan,
                    probabilities=self.config.probabilities,
                    kept=(kept[1], kept[2], kept[3]),
                ).memory
            )
        try:
            return self.predictor.segment(case, advance=advance), like
        except RuntimeError as error:
            if self.predictor.device.type == "cpu" or not out_of_memory(error):
                raise
        log.warning(
            "case %s: the memory of %s is too small for it; it is predicted on the CPU",
            job.case.id,
            self.predictor.device,
        )
        return self._segment_on_cpu(case, advance), like

    def _segment_on_cpu(self, case: CanonicalCase, advance: Advance) -> Segmentation:
        usual = self.predictor
        cpu = resolve_device("cpu")
        wanted = "auto" if self.config.precision == "fp16" else self.config.precision
        try:
            predictor = Predictor(
                usual.bundle,
                usual.network,
                device=cpu,
                precision=_precision(wanted, usual.bundle, cpu),
                overlap=self.config.overlap,
                mirror=self.config.mirror,
            )
            return predictor.segment(case, advance=advance)
        finally:
            usual.network.to(usual.device)


def _predict_array(
    array: npt.NDArray[Any], affine: npt.ArrayLike | None, options: dict[str, Any]
) -> LabelMap:
    if affine is None:
        raise ConfigError("an array needs affine=, its 4 x 4 matrix from voxel index to world mm")
    image = array[None] if array.ndim == 3 else array
    if image.ndim != 4:
        raise DataError(f"expected an array (I, J, K) or (C, I, J, K), got shape {array.shape}")
    image = np.asarray(image, dtype=np.float32)
    if not np.isfinite(image).all():
        raise DataError(f"the array has {np.count_nonzero(~np.isfinite(image))} non-finite voxels")
    matrix: Affine = np.asarray(affine, dtype=np.float64)
    grid = Grid((image.shape[1], image.shape[2], image.shape[3]), matrix)
    config = validated(PredictConfig, {"inputs": ["array"]} | options)
    return open_predictor(config).segment(canonical(Volume.from_array(image, grid))).labels()
