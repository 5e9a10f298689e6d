"""When a run has stopped getting better."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger("medseg3d")

WINDOW = 3
"""Validations whose mean Dice counts: that of a single one goes up and down by chance."""


class Plateau:
    """Tells from the history of a run when it has not got better for long.

    It remembers nothing, so that a resumed run stops where an uninterrupted one does.

    Args:
        patience: Validations without a better smoothed Dice after which the run is to stop;
            None never stops it.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience

    def is_reached(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the run is to stop; says why if it is.

        Args:
            rows: History; those with a ``dice`` that is not nan were validated.
        """
        if self.patience is None:
            return False
        validated = [row for row in rows if not math.isnan(row.get("dice", math.nan))]
        means = smoothed([row["dice"] for row in validated])
        if since_best(means) < self.patience:
            return False
        place = means.index(max(means))
        at = validated[place + WINDOW - 1]
        log.info(
            "stopping early: no better Dice in %d validations (the mean of %d was at most %.4f, "
            "at epoch %d after %.1f min); the best weights are kept",
            *(self.patience, WINDOW, means[place], at["epoch"], at["minutes"]),
        )
        return True


def smoothed(scores: Sequence[float]) -> list[float]:
    """Mean of each ``WINDOW`` scores in a row; none of the first ones, which lack others.

    Examples:
        >>> smoothed([0.25, 0.5, 0.75, 1.0])
        [0.5, 0.75]
        >>> smoothed([0.25, 0.5])
        []
    """
    windows = (scores[end - WINDOW : end] for end in range(WINDOW, len(scores) + 1))
    return [sum(window) / WINDOW for window in windows]


def since_best(scores: Sequence[float]) -> int:
    """How many scores came after the best one, the first of equal ones.

    Examples:
        >>> since_best([0.5, 0.75, 0.75, 0.5]), since_best([0.5, 0.75]), since_best([])
        (2, 0, 0)
    """
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0
