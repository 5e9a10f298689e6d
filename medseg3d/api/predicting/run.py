"""``predict``: label maps on exactly the grid of their images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from medseg3d.api.predicting.prediction_batch import Batch, Prediction
from medseg3d.api.predicting.worker import open_predictor, rules_for, with_models_found
from medseg3d.config import PredictConfig, validated
from medseg3d.data.canonical import canonical
from medseg3d.errors import ConfigError, DataError, IncompleteError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.inference.cleaning import clean
from medseg3d.io import Volume
from medseg3d.types import Affine, LabelMap

FOR_FILES = (
    *("out", "format", "probabilities", "uncertainty", "samples", "roi", "roi_mask"),
    *("replace_nonfinite", "max_memory", "shard", "cluster", "overwrite", "skip_existing"),
)
"""Options that an array has no use for."""


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
        What was written, case by case, without what an earlier call finished; for an array,
        its label map ``(I, J, K)``.

    Raises:
        DataError: If no image is found, or an array has a wrong shape.
        ModelError: If there is no usable model.
        IncompleteError: If some cases failed; the others are written, and in its ``done``.
        RunError: If nothing can be written.
    """
    if isinstance(inputs, np.ndarray):
        return _predict_array(inputs, affine, options)
    if isinstance(inputs, PredictConfig):
        return _predict_files(inputs)
    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    return _predict_files(validated(PredictConfig, {"inputs": paths} | options))


def _predict_files(config: PredictConfig) -> list[Prediction]:
    batch = Batch.found(config)
    jobs = batch.jobs()
    results: list[Prediction] = []
    try:
        if jobs and config.cluster is not None:
            batch.in_cluster(jobs, config.cluster, results)
        elif jobs:
            batch.here(jobs, results)
        batch.failures.end(f"cases failed, {len(results)} were written")
    except RunError as error:
        raise IncompleteError(str(error), results) from error
    return results


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
    usual = {name: PredictConfig.model_fields[name].default for name in FOR_FILES}
    if given := [name for name in FOR_FILES if getattr(config, name) != usual[name]]:
        raise ConfigError(
            f"{', '.join(given)}: for files only; save the array as one, or leave them out"
        )
    config = with_models_found(config)
    rules = rules_for(config)
    labels = open_predictor(config).segment(canonical(Volume.from_array(image, grid)))
    clean(labels, rules, voxel_mm3=grid.voxel_volume_ml * 1000)
    return labels
