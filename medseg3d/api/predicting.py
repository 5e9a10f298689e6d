"""``predict``: label maps on exactly the grid of their images."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from medseg3d.bundle import read_bundle
from medseg3d.config import PredictConfig, validated
from medseg3d.data.canonical import canonical
from medseg3d.data.cases import Case, find_inputs
from medseg3d.device import resolve_device, resolve_precision
from medseg3d.errors import ConfigError, DataError, MedSeg3DError, RunError, about_case
from medseg3d.geometry.grid import Grid
from medseg3d.inference.predictor import Predictor
from medseg3d.io import (
    READ_ONLY,
    SUFFIXES,
    Volume,
    case_stem,
    read_image,
    write_image,
    write_labels,
)
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
    precision = resolve_precision(config.precision, device)
    if config.precision == "auto" and bundle.precision == "fp32":
        precision = "fp32"  # its scores were reached in it
    log.info("model %s (%s, %s on %s)", path, bundle.network, precision, device)
    return Predictor.open(
        path, device=device, precision=precision, overlap=config.overlap, mirror=config.mirror
    )


def _predict_files(config: PredictConfig) -> list[Prediction]:
    cases = find_inputs(config.inputs)
    targets = output_paths(cases, config)
    if not config.overwrite:
        written = targets + [_probabilities_path(path) for path in targets if config.probabilities]
        existing = [str(path) for path in written if path.exists()]
        if existing:
            raise RunError(
                f"{len(existing)} outputs exist already ({', '.join(existing[:3])}"
                f"{', ...' if len(existing) > 3 else ''}); give --overwrite to replace them"
            )
    predictor = open_predictor(config)
    results: list[Prediction] = []
    failures: list[str] = []
    with Progress("Predicting", total=None if len(cases) == 1 else len(cases), unit="case") as bar:
        for place, (case, target) in enumerate(zip(cases, targets, strict=True)):

            def advance(done: int, windows: int, place: int = place) -> None:
                bar.set_progress((place + done / windows) / len(cases), note=cases[place].id)

            try:
                with about_case(case.id):
                    result = _predict_case(case, target, predictor, config, advance)
            except MedSeg3DError as error:
                failures.append(str(error))
                log.error("%s", error)
                continue
            results.append(result)
            log.info("%s: %s (%.1f s)", result.case_id, result.path, result.seconds)
    if failures:
        raise RunError(
            f"{len(failures)} of {len(cases)} cases failed, {len(results)} were written: "
            f"{'; '.join(failures)}"
        )
    return results


def _predict_case(
    case: Case, target: Path, predictor: Predictor, config: PredictConfig, advance: Any
) -> Prediction:
    begun = time.perf_counter()
    volume = read_image(case.images)
    for note in volume.notes:
        log.warning("case %s: %s", case.id, note)
    found = predictor.segment(canonical(volume), advance=advance)
    labels = found.labels()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{target.parent} cannot be made ({error.strerror}); choose another -o"
        ) from None
    probabilities = None
    if config.probabilities:
        probabilities = _probabilities_path(target)
        write_image(probabilities, found.probabilities(), volume)
    write_labels(target, labels, volume)
    names = predictor.bundle.plan.labels
    volumes = {
        name: float(np.count_nonzero(labels == value)) * volume.grid.voxel_volume_ml
        for value, name in names.items()
        if value != 0
    }
    return Prediction(case.id, target, volumes, time.perf_counter() - begun, probabilities)


def output_paths(cases: Sequence[Case], config: PredictConfig) -> list[Path]:
    """Where each case's label map goes.

    Raises:
        ConfigError: If one file is named for several cases.
        RunError: If an output would replace an input.
    """
    out = config.out
    if out is not None and out.suffix.lower() in READ_ONLY:
        raise ConfigError(f"-o {out}: label maps are not written as {out.suffix}; use .nii.gz")
    if out is not None and out.name.lower().endswith(SUFFIXES) and not out.is_dir():
        if len(cases) > 1:
            raise ConfigError(f"-o {out} names one file for {len(cases)} cases; name a folder")
        targets = [out]
    elif out is not None:
        targets = [out / f"{case.id}.nii.gz" for case in cases]
    else:
        folders = {path.resolve() for path in config.inputs if path.is_dir()}
        targets = [_default_target(case, folders) for case in cases]
    taken = {image.resolve() for case in cases for image in case.images}
    written = targets + [_probabilities_path(path) for path in targets if config.probabilities]
    clash = [target for target in written if target.resolve() in taken]
    if clash:
        raise RunError(f"{clash[0]} is an input; choose another -o so that nothing is lost")
    return targets


def _default_target(case: Case, folders: set[Path]) -> Path:
    """Beside the image, or in a folder beside the folder that was given."""
    image = case.images[0]
    folder = image.parent.resolve()
    if folder in folders:
        return folder.with_name(f"{folder.name}_seg") / f"{case.id}.nii.gz"
    return image.with_name(f"{case.id}_seg.nii.gz")


def _probabilities_path(target: Path) -> Path:
    return target.with_name(f"{case_stem(target)}_probabilities.nii.gz")


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
