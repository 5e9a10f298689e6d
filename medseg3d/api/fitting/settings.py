"""Options of a run as settings of its training."""

import logging

from medseg3d.api.fitting.building import stages_of
from medseg3d.api.fitting.planning import DEFAULT_MINUTES
from medseg3d.config import FitConfig
from medseg3d.data.plan import Plan
from medseg3d.training.budget import Budget
from medseg3d.training.callbacks import Stage
from medseg3d.training.correction import THICK, CorrectionSettings
from medseg3d.training.module import OptimizerSettings
from medseg3d.training.train import TrainingSettings

log = logging.getLogger("medseg3d")

VALIDATIONS = 20
"""So many in a deterministic run, in which the clock has no say."""


def training_settings(config: FitConfig, plan: Plan) -> TrainingSettings:
    """Budget, optimizer and the like, of which the options know all but the batch."""
    if config.epochs is not None:
        budget = Budget(steps=config.epochs * config.steps_per_epoch)
    else:
        budget = Budget(seconds=60 * (config.max_minutes or DEFAULT_MINUTES))
        if config.max_minutes is None:
            log.info("training for %g minutes (--max-minutes, --epochs)", DEFAULT_MINUTES)
    stages, start = [], 0.0
    for stage in stages_of(config):
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
        batch_size=plan.batch_size,
        accumulate=config.accumulate,
        deterministic=config.deterministic,
        steps_per_epoch=config.steps_per_epoch,
        level_decay=config.level_decay,
        gradient_clip=config.gradient_clip,
        ema=config.ema,
        seed=config.seed,
        workers=config.workers,
        validate_every=_validate_every(config),
        recompute=config.recompute,
        early_stop=config.early_stop,
        logger=config.logger,
        checkpoint_seconds=60 * config.checkpoint_minutes,
        stages=tuple(stages),
        correction=_correction(config, plan),
    )


def _validate_every(config: FitConfig) -> int | None:
    """Epochs between validations; None leaves them to the clock."""
    if config.validate_every is None and config.deterministic:
        return max(1, (config.epochs or 0) // VALIDATIONS)
    return config.validate_every


def _correction(config: FitConfig, plan: Plan) -> CorrectionSettings | None:
    """How labels are corrected, if they are; slices far apart differ by more than a border."""
    if not config.self_correction:
        return None
    apart = {plan.coarse_axis, plan.slice_axis}
    i, j, k = (1 if axis in apart else THICK for axis in range(3))
    return CorrectionSettings(config.self_correction, thickness=(i, j, k))
