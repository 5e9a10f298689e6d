"""A comparison of models as a table and as JSON."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg3d.io.atomic import write_csv, write_text
from medseg3d.scoring.comparison import Comparison, Difference, Family
from medseg3d.scoring.measures import Subject
from medseg3d.scoring.ranking import Ranking

DECIMALS = 6
DIGITS = 6
"""Significant digits of a p value."""

CONVENTIONS = {
    "cases": "only cases that every model has; the others are listed as unpaired",
    "mean over labels": "taken per case first, over the labels in which every model has a value",
    "missed and spurious labels": "enter with the worst value, as in the tables of scores; a "
    "model that rightly predicts nothing where another predicts a label that the reference lacks "
    "enters with the best: 1 for what should be high, 0 for what should be low; a label that "
    "neither the reference nor any model has is left out, and so is one on which a model was not "
    "scored: a table has no row of it, though it is a region or some reference has it",
    "|column|": "absolute values are compared where values near zero are the better ones",
    "difference": "mean over the cases of second minus first, with a bootstrap interval (BCa) "
    "from resampling patients with all of their cases",
    "p": "two-sided Wilcoxon signed-rank test of the mean difference of each patient; zeros are "
    "left out; exact up to 50 patients, else the normal approximation",
    "effect": "matched-pairs rank-biserial correlation (W+ - W-) / (W+ + W-): 1 if the second "
    "model is higher for every patient, -1 if the first is",
    "favors": "the better model, where the mean, its whole interval and the ranks agree and p_holm "
    "is under one minus the level; empty means not shown, which is not the same as equal",
    "subgroups": "numbers are cut into terciles; each attribute is a family of tests of its own; "
    "a difference that is shown in one group and not in another does not show that the groups "
    "differ",
    "ranking": "models ranked by their means; shares say in which part of the resamples of "
    "patients a model has each rank",
}

FAMILIES: Mapping[Family, str] = {
    "measure": "Holm, over all labels and pairs of models of a metric",
    "table": "Holm, over all metrics, labels and pairs of models",
}


def write_differences(comparison: Comparison, path: Path) -> None:
    """Write one line per pair of models, metric, label and subgroup, as CSV.

    Undefined numbers are empty cells. The file appears complete or not at all.
    """
    lines = [_difference(each) for each in comparison.differences]
    write_csv(path, lines[0] if lines else ["metric"], (line.values() for line in lines))


def write_comparison(comparison: Comparison, path: Path, origin: Mapping[str, Any]) -> None:
    """Write everything about a comparison as JSON; it appears complete or not at all.

    Args:
        comparison: What was found.
        path: File to write or replace.
        origin: What it was made from and by: files, versions, options.
    """
    text = json.dumps(as_dict(comparison) | dict(origin), indent=2, ensure_ascii=False)
    write_text(path, f"{text}\n")  # escapes of bytes that are no UTF-8 are JSON's own


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON can hold it; undefined numbers are ``None``."""
    paired = comparison.paired
    return {
        "conventions": CONVENTIONS | {"p_holm": FAMILIES[comparison.family]},
        "level": comparison.level,
        "resamples": comparison.resamples,
        "seed": comparison.seed,
        "models": list(paired.models),
        "metrics": [vars(measure) for measure in paired.measures],
        "labels": [{"label": label, "name": paired.names[label]} for label in paired.labels],
        "cases": dict(zip(paired.cases, paired.patients, strict=True)),
        "unpaired": {case: list(models) for case, models in paired.unpaired.items()},
        "notes": list(paired.notes),
        "differences": [_difference(each) for each in comparison.differences],
        "rankings": [_ranking(each) for each in comparison.rankings],
    }


def _subject(subject: Subject) -> dict[str, Any]:
    return {
        "metric": subject.measure.name,
        "unit": subject.measure.unit,
        "better": subject.measure.better,
        "label": subject.label,
        "name": subject.name,
    }


def _difference(each: Difference) -> dict[str, Any]:
    return {
        **_subject(each.subject),
        "attribute": each.subject.attribute,
        "group": each.subject.group,
        "first": each.first,
        "second": each.second,
        "cases": each.num_cases,
        "patients": each.num_patients,
        "mean_first": _rounded(each.mean_first),
        "mean_second": _rounded(each.mean_second),
        "difference": _rounded(each.difference),
        "low": _rounded(each.low),
        "high": _rounded(each.high),
        "median_difference": _rounded(each.median),
        "first_better": each.first_better,
        "second_better": each.second_better,
        "p": _significant(each.p),
        "p_holm": _significant(each.p_holm),
        "effect": _rounded(each.effect),
        "favors": each.favors,
    }


def _ranking(each: Ranking) -> dict[str, Any]:
    return {
        **_subject(each.subject),
        "cases": each.num_cases,
        "means": {model: _rounded(mean) for model, mean in each.means.items()},
        "shares": {
            model: [_rounded(share) for share in shares] for model, shares in each.shares.items()
        },
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DECIMALS)


def _significant(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.{DIGITS}g}")
