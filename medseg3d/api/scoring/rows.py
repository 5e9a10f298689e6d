"""The rows of all cases together: every label in each case, and a word on odd values."""

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medseg3d.api.scoring.pairs import SHOWN, Pair, Scored
from medseg3d.geometry.grid import Grid
from medseg3d.scoring import Column, Row, score_case

log = logging.getLogger("medseg3d")


def completed(done: Sequence[tuple[Pair, Scored]], chosen: Sequence[Column]) -> Iterator[Row]:
    """The rows of all pairs, with a row for every label that any of them has."""
    names = {row.label: row.name for _, scored in done for row in scored.rows}
    nothing = np.zeros((1, 1, 1), np.uint8)
    nowhere = Grid((1, 1, 1), np.eye(4))
    for pair, scored in done:
        there = {row.label for row in scored.rows}
        lacking = {label: name for label, name in names.items() if label not in there}
        if not lacking:
            yield from scored.rows
            continue
        empty = score_case(
            pair.case,
            nothing,
            nothing,
            nowhere,
            labels=lacking,
            columns=chosen,
            patient=pair.patient,
            model=pair.model,
        )
        yield from sorted([*scored.rows, *empty], key=lambda row: row.label)


def warn_of_other_values(rows: Sequence[Row]) -> None:
    """Values that only ever occur on one side are more likely a coding than a miss."""
    theirs = {row.label for row in rows if row.reference_ml > 0}
    for model in dict.fromkeys(row.model for row in rows):
        ours = {row.label for row in rows if row.model == model and row.prediction_ml > 0}
        if ours - theirs and theirs - ours:
            log.warning(
                "only the predictions%s hold %s and only the references hold %s; if these mean "
                "the same, map the values to each other before scoring",
                f" of {model}" if model else "",
                _listed(ours - theirs),
                _listed(theirs - ours),
            )


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)[:SHOWN]))
