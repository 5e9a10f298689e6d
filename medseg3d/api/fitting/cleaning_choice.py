"""How to clean the labels of a model: tried on its held-out cases at the end of ``fit``.

Each label is tried on its own, with the others as the network left them. A rule is taken if the
label's mean Dice grows by ``LEAST_GAIN`` or more, more cases get better than worse, and its mean
HD95 grows by no more than ``MOST_GROWTH``; of those, the best, and of equally good ones that which
changes least. A case counts if its reference or its prediction has the label. If cleaning takes
away a label that the reference does not have, Dice counts as 1 and HD95 as 0; if only one of both
has the label, as 0 and as the diagonal of the image.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from medseg3d.api.fitting.cleaning_table import CHOSEN, Outcome
from medseg3d.config import Cleaning
from medseg3d.geometry.grid import Grid
from medseg3d.inference.cleaning import around, boxes_of, clean
from medseg3d.metrics.overlap import dice
from medseg3d.metrics.surface import hausdorff_95
from medseg3d.types import LabelMap, Mask, Spacing

LEAST_CASES = 2
"""Cases that must count for a label; fewer are no evidence."""

LEAST_GAIN = 0.001
"""Growth of the mean Dice from which a rule is worth it."""

MOST_GROWTH = 0.1
"""Share by which the mean HD95 may grow."""

SAME_DICE = 1e-4
"""Rules whose mean Dice differs by less are equally good."""

ROUNDING = 9
"""Decimals of a Dice; two that differ less are equal."""

Score: TypeAlias = tuple[float, float]
"""Dice, and HD95 in mm; nan if neither the reference nor the prediction has the label."""

Trial: TypeAlias = Mapping[int, Sequence[Score]]
"""What each rule gives for each label of one case."""


def candidates(volumes_mm3: Iterable[float]) -> tuple[Cleaning, ...]:
    """The rules to try, from the one that changes nothing to the one that changes most.

    Examples:
        >>> [rule.in_words for rule in candidates([30])][::2]
        ['as it is', 'parts under 30 mm3 removed', 'only the largest part kept']
    """
    volumes = (0.0, *sorted(set(volumes_mm3)))
    removing: list[dict[str, Any]] = [{"min_volume_mm3": volume} for volume in volumes]
    return tuple(
        Cleaning.model_validate(options | {"fill_holes": fills})
        for options in [*removing, {"keep_largest": True}]
        for fills in (False, True)
    )


def tried(
    prediction: LabelMap,
    reference: LabelMap,
    grid: Grid,
    *,
    values: Sequence[int],
    rules: Sequence[Cleaning],
) -> Trial:
    """Clean each label of one case by each rule.

    Args:
        prediction: ``(I, J, K)``; stays as it is.
        reference: On the same grid.
        grid: Of both.
        values: Labels to try.
        rules: What to try.
    """
    ours, theirs = (boxes_of(labels, values) for labels in (prediction, reference))
    found: dict[int, Sequence[Score]] = {}
    for value in values:
        if boxes := [each[value] for each in (ours, theirs) if value in each]:
            box = around(boxes)
            found[value] = _scores(prediction[box], reference[box] == value, grid, value, rules)
        else:
            found[value] = [(math.nan, math.nan)] * len(rules)
    return found


def outcomes_of(
    trials: Sequence[Trial], rules: Sequence[Cleaning], names: Mapping[int, str]
) -> list[Outcome]:
    """Every rule's outcome for every label, and which one is chosen.

    Args:
        trials: Of all held-out cases.
        rules: Those that were tried; the first changes nothing.
        names: Names of the labels.
    """
    found: list[Outcome] = []
    for value, name in names.items():
        scores = np.array([trial[value] for trial in trials]).reshape(-1, len(rules), 2)
        found += _outcomes(name, scores[~np.isnan(scores[:, 0, 0])], rules)
    return found


def _scores(
    prediction: LabelMap, expected: Mask, grid: Grid, value: int, rules: Sequence[Cleaning]
) -> list[Score]:
    """What each rule gives for a label in a box around it.

    Rules take away smaller parts before larger ones, so two that remove and fill as many voxels
    leave the same mask, which is measured once.
    """
    diagonal_mm = float(np.linalg.norm(np.multiply(grid.shape, grid.spacing)))
    known: dict[tuple[int, int], Score] = {}
    found = []
    for rule in rules:
        part = prediction.copy(order="K")
        voxel_mm3 = grid.voxel_volume_ml * 1000
        change = clean(part, {value: rule}, voxel_mm3=voxel_mm3, image_shape=grid.shape)[value]
        key = change.removed, change.filled
        if key not in known:
            known[key] = _score(part == value, expected, grid.spacing, diagonal_mm)
        found.append(known[key])
    return found


def _score(prediction: Mask, reference: Mask, spacing: Spacing, diagonal_mm: float) -> Score:
    if not (prediction.any() or reference.any()):
        return 1.0, 0.0
    distance = hausdorff_95(prediction, reference, spacing)
    return dice(prediction, reference), min(distance, diagonal_mm)


def _outcomes(
    name: str, scores: npt.NDArray[np.float64], rules: Sequence[Cleaning]
) -> list[Outcome]:
    """The outcomes of one label.

    Args:
        name: Its name.
        scores: ``(cases, rules, 2)``: Dice and HD95.
        rules: What was tried.
    """
    num_cases = len(scores)
    means = scores.mean(axis=0) if num_cases else np.full(scores.shape[1:], math.nan)
    changes = means - means[0]
    gains = (scores[:, :, 0] - scores[:, :1, 0]).round(ROUNDING)
    better, worse = (gains > 0).sum(axis=0).tolist(), (gains < 0).sum(axis=0).tolist()
    limit = MOST_GROWTH * means[0, 1]
    verdicts = [
        _reason(num_cases, more, less, gain, is_worse=growth > limit)
        for more, less, (gain, growth) in zip(better, worse, changes.tolist(), strict=True)
    ]
    verdicts[0] = "as it is"
    good = [number for number, reason in enumerate(verdicts) if not reason]
    if good:
        best = means[good, 0].max()
        taken = next(number for number in good if means[number, 0] > best - SAME_DICE)
        verdicts[taken] = CHOSEN
    return [
        Outcome(
            **{"label": name} | rule.model_dump(),
            **{"cases": num_cases, "better": better[number], "worse": worse[number]},
            dice=float(means[number, 0]),
            dice_change=float(changes[number, 0]),
            hausdorff_95_mm=float(means[number, 1]),
            hausdorff_95_change_mm=float(changes[number, 1]),
            verdict=verdicts[number] or "another is as good or better",
        )
        for number, rule in enumerate(rules)
    ]


def _reason(cases: int, better: int, worse: int, gain: float, *, is_worse: bool) -> str:
    """Why a rule is not taken; an empty text if there is no reason.

    Args:
        cases: That count.
        better: With a larger Dice.
        worse: With a smaller one.
        gain: Growth of the mean Dice.
        is_worse: Whether HD95 grows too much.
    """
    if cases < LEAST_CASES:
        return "too few cases"
    if gain < LEAST_GAIN:
        return "Dice is not better"
    if better <= worse:
        return "more cases are worse than better" if better < worse else "as many worse as better"
    return "HD95 is worse" if is_worse else ""
