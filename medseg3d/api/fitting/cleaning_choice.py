"""How to clean the labels of a model: tried on its held-out cases at the end of ``fit``.

Each label is tried on its own, with the others as the network left them. A rule is taken if the
label's mean Dice grows by ``LEAST_GAIN`` or more, more cases get better than worse, its mean HD95
grows by no more than ``MOST_GROWTH``, and the mean Dice of no region that holds it falls; of
those, the best, and of equally good ones that which changes least. A case counts if its reference
or its prediction has the label. If cleaning takes away a label that the reference does not have,
Dice counts as 1 and HD95 as 0; if only one of both has the label, as 0 and as the diagonal of the
image.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
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

Score: TypeAlias = tuple[float, ...]
"""Dice and HD95 in mm of a label, and the Dice of each region that holds it.

All are nan if neither the reference nor the prediction has the label.
"""

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
    regions: Collection[Sequence[int]] = (),
) -> Trial:
    """Clean each label of one case by each rule.

    Args:
        prediction: ``(I, J, K)``; stays as it is.
        reference: On the same grid.
        grid: Of both.
        values: Labels to try.
        rules: What to try.
        regions: Labels of each region; none if labels are all that counts.
    """
    every = sorted({*values, *chain.from_iterable(regions)})
    ours, theirs = (boxes_of(labels, every) for labels in (prediction, reference))
    found: dict[int, Sequence[Score]] = {}
    for value in values:
        holding = [region for region in regions if value in region]
        if value in ours or value in theirs:
            related = {value, *chain.from_iterable(holding)}
            box = around(each[one] for each in (ours, theirs) for one in related if one in each)
            found[value] = _scores(prediction[box], reference[box], grid, value, rules, holding)
        else:
            found[value] = [(math.nan,) * (2 + len(holding))] * len(rules)
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
        counting = [trial[value] for trial in trials if not math.isnan(trial[value][0][0])]
        found += _outcomes(name, np.array(counting or np.empty((0, len(rules), 2))), rules)
    return found


def _scores(
    prediction: LabelMap,
    reference: LabelMap,
    grid: Grid,
    value: int,
    rules: Sequence[Cleaning],
    regions: Iterable[Sequence[int]],
) -> list[Score]:
    """What each rule gives for a label, in a box around it and the regions that hold it.

    Rules take away smaller parts before larger ones, so two that remove and fill as many voxels
    leave the same mask, which is measured once.
    """
    expected = reference == value
    expected_regions = [(np.isin(reference, region), region) for region in regions]
    diagonal_mm = float(np.linalg.norm(np.multiply(grid.shape, grid.spacing)))
    known: dict[tuple[int, int], Score] = {}
    found = []
    for rule in rules:
        part = prediction.copy(order="K")
        voxel_mm3 = grid.voxel_volume_ml * 1000
        change = clean(part, {value: rule}, voxel_mm3=voxel_mm3, image_shape=grid.shape)[value]
        key = change.removed, change.filled
        if key not in known:
            own = _score(part == value, expected, grid.spacing, diagonal_mm)
            around_it = (_dice(np.isin(part, values), mask) for mask, values in expected_regions)
            known[key] = (*own, *around_it)
        found.append(known[key])
    return found


def _dice(prediction: Mask, reference: Mask) -> float:
    """Dice; 1 if both are empty."""
    return dice(prediction, reference) if prediction.any() or reference.any() else 1.0


def _score(
    prediction: Mask, reference: Mask, spacing: Spacing, diagonal_mm: float
) -> tuple[float, float]:
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
        scores: ``(cases, rules, 2 + regions)``: Dice, HD95, Dice of the regions that hold it.
        rules: What was tried.
    """
    num_cases = len(scores)
    means = scores.mean(axis=0) if num_cases else np.full(scores.shape[1:], math.nan)
    changes = means - means[0]
    gains = (scores[:, :, 0] - scores[:, :1, 0]).round(ROUNDING)
    better, worse = (gains > 0).sum(axis=0).tolist(), (gains < 0).sum(axis=0).tolist()
    spoils = (changes[:, 2:].round(ROUNDING) < 0).any(axis=1).tolist()
    limit = MOST_GROWTH * means[0, 1]
    verdicts = [
        _reason(num_cases, *numbers, gain, spoils_region=spoiling, is_worse=growth > limit)
        for numbers, spoiling, (gain, growth) in zip(
            zip(better, worse, strict=True), spoils, changes[:, :2].tolist(), strict=True
        )
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


def _reason(
    cases: int, better: int, worse: int, gain: float, *, spoils_region: bool, is_worse: bool
) -> str:
    """Why a rule is not taken; an empty text if there is no reason.

    Args:
        cases: That count.
        better: With a larger Dice.
        worse: With a smaller one.
        gain: Growth of the mean Dice.
        spoils_region: Whether the mean Dice of a region that holds the label falls.
        is_worse: Whether HD95 grows too much.
    """
    if cases < LEAST_CASES:
        return "too few cases"
    if gain < LEAST_GAIN:
        return "Dice is not better"
    if better <= worse:
        return "more cases are worse than better" if better < worse else "as many worse as better"
    if spoils_region:
        return "a region that holds it is worse"
    return "HD95 is worse" if is_worse else ""
