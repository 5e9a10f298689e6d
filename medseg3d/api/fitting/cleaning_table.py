"""``postprocessing.csv``: every way to clean a label that ``fit`` tried, and what came of it."""

import csv
import logging
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from medseg3d.config import Cleaning
from medseg3d.io.atomic import write_csv

log = logging.getLogger("medseg3d")

NAME = "postprocessing.csv"
CHOSEN = "chosen"


@dataclass(frozen=True)
class Outcome:
    """What one rule does to one label: a row of the table.

    Attributes:
        label: Name of the label.
        keep_largest: See :class:`medseg3d.config.Cleaning`.
        min_volume_mm3: See there.
        fill_holes: See there.
        cases: Held-out cases that count.
        better: Of these, with a larger Dice than as it is.
        worse: With a smaller one.
        dice: Mean over the cases.
        dice_change: The mean minus that of the label as it is.
        hausdorff_95_mm: Mean over the cases.
        hausdorff_95_change_mm: The mean minus that of the label as it is.
        verdict: Whether it was chosen, or why not.
    """

    label: str
    keep_largest: bool
    min_volume_mm3: float
    fill_holes: bool
    cases: int
    better: int
    worse: int
    dice: float
    dice_change: float
    hausdorff_95_mm: float
    hausdorff_95_change_mm: float
    verdict: str

    @property
    def rule(self) -> Cleaning:
        """What was tried."""
        return Cleaning(
            keep_largest=self.keep_largest,
            min_volume_mm3=self.min_volume_mm3,
            fill_holes=self.fill_holes,
        )


def write_table(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write all outcomes, one per row; what is not known is left empty.

    Raises:
        RunError: If it cannot be written.
    """
    columns = (field.name for field in fields(Outcome))
    write_csv(path, columns, (map(_cell, astuple(outcome)) for outcome in outcomes))


def read_choice(path: Path) -> dict[str, Cleaning]:
    """What was chosen, by the name of the label."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["verdict"] == CHOSEN]
    return {
        row["label"]: Cleaning(
            keep_largest=row["keep_largest"] == "yes",
            min_volume_mm3=float(row["min_volume_mm3"]),
            fill_holes=row["fill_holes"] == "yes",
        )
        for row in rows
    }


def tell(outcomes: Sequence[Outcome]) -> None:
    """Say what was chosen, label by label."""
    found = [each for each in outcomes if each.verdict == CHOSEN]
    for each in found:
        log.info(
            "post-processing of %s: %s (mean Dice %.4f instead of %.4f on %d cases)",
            *(each.label, each.rule.in_words),
            *(each.dice, each.dice - each.dice_change, each.cases),
        )
    if not found:
        log.info("post-processing: none, as nothing that was tried makes a label better")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(round(value, 6))
    return str(value)
