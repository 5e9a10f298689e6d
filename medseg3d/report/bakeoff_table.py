"""Networks of a bake-off as a table: CSV for programs, Markdown for people."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg3d.io.atomic import write_csv

MIB, GIB = 1 << 20, 1 << 30

MEANING = (
    "Dice and HD95 are means over the held-out cases of the mean over labels, with the 95 % "
    "interval over patients; a label that only one of reference and prediction has counts as the "
    "worst value. GFLOP: one forward pass of one patch, two per multiplication with addition, "
    "convolutions and matrix products only. Seconds per case: reading and labeling one held-out "
    "case with the model loaded. Memory: the most that the whole process held, on a GPU that of "
    "the GPU."
)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One network; numbers are ``nan`` or 0 until they are known.

    Attributes:
        network: Its name.
        status: How far it is.
        dice: Mean Dice.
        dice_low: Lower bound of its interval.
        dice_high: Upper bound.
        hausdorff_95_mm: Mean 95 % Hausdorff distance in mm.
        parameters: Numbers that it learned.
        gflop_per_patch: Of one forward pass, in 1e9 operations.
        seconds_per_case: Median time to label a case.
        training_memory: Most bytes that training held.
        prediction_memory: Most bytes that labeling held.
        steps: Optimizer steps in its budget.
        minutes: Time of training.
        note: Why it failed.
    """

    network: str
    status: Literal["done", "failed", "waiting"] = "done"
    dice: float = math.nan
    dice_low: float = math.nan
    dice_high: float = math.nan
    hausdorff_95_mm: float = math.nan
    parameters: int = 0
    gflop_per_patch: float = math.nan
    seconds_per_case: float = math.nan
    training_memory: int = 0
    prediction_memory: int = 0
    steps: int = 0
    minutes: float = math.nan
    note: str = ""

    def in_words(self) -> dict[str, str]:
        """What people read, by column.

        Examples:
            >>> row = Contestant(network="vnet", dice=0.8512, parameters=45_600_000).in_words()
            >>> row["Dice"], row["HD95 mm"], row["parameters"]
            ('0.851', '', '45.6 M')
        """
        interval = f" [{self.dice_low:.3f}; {self.dice_high:.3f}]"
        numbers = {
            "Dice": _text(self.dice, ".3f") + ("" if math.isnan(self.dice_low) else interval),
            "HD95 mm": _text(self.hausdorff_95_mm, ".2f"),
            "parameters": _text(self.parameters / 1e6, ".3g", " M"),
            "GFLOP per patch": _text(self.gflop_per_patch, ".3g"),
            "s per case": _text(self.seconds_per_case, ".3g"),
            "training GiB": _text(self.training_memory / GIB, ".2f"),
            "prediction GiB": _text(self.prediction_memory / GIB, ".2f"),
            "steps": str(self.steps),
        }
        note = self.note
        if self.status != "done":
            numbers, note = dict.fromkeys(numbers, ""), note or self.status
        return {"network": self.network, **numbers, "note": note}

    def in_numbers(self) -> dict[str, str | int | float]:
        """What programs read, by column; what is not known is empty."""
        numbers: dict[str, str | int | float] = {
            "dice": _number(self.dice, 6),
            "dice_low": _number(self.dice_low, 6),
            "dice_high": _number(self.dice_high, 6),
            "hausdorff_95_mm": _number(self.hausdorff_95_mm, 6),
            "parameters": self.parameters,
            "gflop_per_patch": _number(self.gflop_per_patch, 6),
            "seconds_per_case": _number(self.seconds_per_case, 4),
            "training_memory_mib": round(self.training_memory / MIB),
            "prediction_memory_mib": round(self.prediction_memory / MIB),
            "steps": self.steps,
            "minutes": _number(self.minutes, 2),
        }
        if self.status != "done":
            numbers = dict.fromkeys(numbers, "")
        return {"network": self.network, "status": self.status, **numbers, "note": self.note}


def ranked(contestants: Iterable[Contestant]) -> list[Contestant]:
    """The best Dice first, then those without one, failed before waiting, by name."""

    def place(one: Contestant) -> tuple[bool, float, str, str]:
        is_unknown = math.isnan(one.dice)
        return is_unknown, 0.0 if is_unknown else -one.dice, one.status, one.network

    return sorted(contestants, key=place)


def write_numbers(contestants: Sequence[Contestant], path: Path) -> None:
    """Write the table for programs.

    Raises:
        RunError: If it cannot be written.
    """
    rows = (one.in_numbers().values() for one in contestants)
    write_csv(path, Contestant(network="").in_numbers(), rows)


def as_markdown(contestants: Sequence[Contestant], *, title: str, figure: str | None) -> str:
    """The page for people.

    Args:
        contestants: In the order of the rows.
        title: What was compared, one line.
        figure: File name of the figure, if there is one.
    """
    columns = list(Contestant(network="").in_words())
    rows = [list(one.in_words().values()) for one in contestants]
    lines = [columns, [":--", *["--:"] * (len(columns) - 2), ":--"], *rows]
    table = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
    picture = [] if figure is None else [f"![Dice and costs of each network]({figure})"]
    return "\n\n".join([f"# {title}", table, MEANING, *picture]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _text(value: float, form: str, unit: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{form}}{unit}"


def _number(value: float, decimals: int) -> float | str:
    return "" if math.isnan(value) else round(value, decimals)
