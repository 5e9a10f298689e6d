"""All folds of a cross-validation, one after the other, in one run folder.

Every fold is a run of its own, by the one plan that was measured on all cases, so that the models
can be averaged. What is kept of a fold is its own business; here only the turn is kept, and what
the folds say together: every case labeled by the model that has not seen it.
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from medseg3d.api.fitting.planning import PLANNED
from medseg3d.api.fitting.validating import mean
from medseg3d.api.provenance import known
from medseg3d.api.scoring.run import ScoreResult, write_scores
from medseg3d.bundle import FILE_NAME
from medseg3d.config import FitConfig
from medseg3d.config.fit import ALL_FOLDS
from medseg3d.data.plan import Plan
from medseg3d.data.split import Folds, Split
from medseg3d.data.split_files import read_splits
from medseg3d.errors import RunError
from medseg3d.io import atomic
from medseg3d.io.atomic import write_text
from medseg3d.runs import (
    HELD_OUT,
    OPTIONS,
    PLAN,
    PROVENANCE,
    SCORES,
    SPLIT,
    SPLITS,
    fold_folder,
    is_finished,
    options_text,
)
from medseg3d.scoring import Row, read_table

log = logging.getLogger("medseg3d")

FitFold = Callable[[FitConfig, Split, Path], object]
"""Trains one fold in a folder."""


def cross_validate(config: FitConfig, plan: Plan, folder: Path, fit_fold: FitFold) -> ScoreResult:
    """Train every fold that is not finished, then put together what they found.

    Args:
        config: Options of all folds; the budget is that of each.
        plan: Of all folds.
        folder: Holds ``splits.json`` and gets a run folder for each fold, and ``validation`` with
            the label map and the scores of each case by the model that has not seen it.
        fit_fold: Trains one fold.

    Returns:
        The scores of all cases, with intervals over patients.

    Raises:
        RunError: If something cannot be written, results of a finished fold are gone, or the plan
            or a case has changed since the first fold.
    """
    folds = read_splits(folder / SPLITS)
    for number, (name, part) in enumerate(folds.items()):
        place = fold_folder(folder, number)
        called = f"{number}" if name == str(number) else f"{number}, {name}"
        called += f" ({number + 1} of {len(folds)})"
        _expect_same_plan(place / PLAN, plan, config)
        if is_finished(place):
            log.info("fold %s is finished", called)
            continue
        log.info(
            "fold %s: %d cases to learn from, %d held out",
            *(called, len(part.training), len(part.validation)),
        )
        fit_fold(_begun(config, plan, place, _option(config, name, number), part), part, place)
    return _together(folder, folds, plan)


def mean_dice(rows: Sequence[Row], plan: Plan) -> dict[str, float]:
    """Mean Dice of each label, by its name, or of each region of a plan that has some.

    It is nan where a label is nowhere.
    """
    return {
        name: mean([row.scores["dice"] for row in rows if row.label == value])
        for value, name in plan.scored.items()
    }


def _option(config: FitConfig, name: str, number: int) -> int | str:
    """A fold as ``--fold`` takes it: a site by its name, unless that would mean something else.

    Names of other folds than sites are not taken, unless they are numbers.
    """
    if name in (str(number), ALL_FOLDS) or name.startswith("-"):
        return number
    is_number = name.isdecimal() and str(int(name)) == name
    return name if is_number or config.sites is not None else number


def _begun(config: FitConfig, plan: Plan, place: Path, fold: int | str, part: Split) -> FitConfig:
    """Options of one fold; its folder holds them, the plan and the split, as that of any run."""
    is_new = not (place / SPLIT).is_file()  # written last
    planned = {name: FitConfig.model_fields[name].default for name in PLANNED}
    own = {"fold": fold, "out": place, "plan": place.parent / PLAN, "resume": not is_new}
    config = config.model_copy(update=planned | own)
    if is_new:
        write_text(place / OPTIONS, options_text(config))
        plan.save(place / PLAN)
        _expect_same_cases(place / PROVENANCE, part)
        write_text(place / SPLIT, json.dumps(part.as_dict(), indent=1))
    return config


def _expect_same_plan(path: Path, plan: Plan, config: FitConfig) -> None:
    """Refuse to go on by another plan than that of a fold which is begun."""
    mirror_axes = config.augmentation.mirror_axes
    if path.is_file() and Plan.load(path).mirrored_along(mirror_axes) != plan:
        raise RunError(
            f"{path.parent.parent / PLAN} has changed since {path.parent.name} was begun; put back "
            f"what {path} holds, or start a new run"
        )


def _expect_same_cases(path: Path, part: Split) -> None:
    """Let a new fold begin with what another one knows of its cases, to be compared with that."""
    for other in sorted(path.parent.parent.glob(f"fold_*/{PROVENANCE}")):
        text = other.read_text(encoding="utf-8")
        if json.loads(text)["data"].keys() >= {*part.training, *part.validation}:
            write_text(path, text)
            return


def _together(folder: Path, folds: Folds, plan: Plan) -> ScoreResult:
    """Label maps and scores of all cases, each by the model that has not seen it."""
    rows: list[Row] = []
    found = {}
    for number, (name, part) in enumerate(folds.items()):
        place = fold_folder(folder, number) / HELD_OUT
        for case_id in part.validation:
            _copy(place / f"{case_id}.nii.gz", folder / HELD_OUT)
        of_fold = read_table(place / SCORES)
        found[name] = mean(list(mean_dice(of_fold, plan).values()))
        rows += of_fold
    rows.sort(key=lambda row: row.case)
    result = write_scores(
        rows,
        folder / HELD_OUT / SCORES,
        regions=plan.region_numbers,
        about={"dice_of_folds": known(found)},
    )
    log.info(
        "out of fold, Dice %.4f on %d cases; of the folds %s",
        mean(list(mean_dice(rows, plan).values())),
        len({row.case for row in rows}),
        ", ".join(f"{dice:.4f}" for dice in found.values()),
    )
    return result


def _copy(labels: Path, target: Path) -> None:
    if not labels.is_file():
        raise RunError(
            f"{labels} is gone, which its fold had written; put it back, or remove {FILE_NAME} of "
            "that fold to have its cases labeled again with --resume"
        )
    with atomic(target / labels.name) as partial:
        shutil.copyfile(labels, partial)
