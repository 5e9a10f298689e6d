"""Whether a model may compute in bf16 or fp16: its Dice must be that of fp32.

A network has logits that differ by rounding; what counts is whether label maps get worse. This is
looked at once, where the references are: on held-out cases, at the end of ``fit``.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from medseg3d.bundle.description import MOST_DICE_CHANGE
from medseg3d.device import Precision, automatic_precision
from medseg3d.io.atomic import write_text

log = logging.getLogger("medseg3d")

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """In which arithmetic the validation goes on.

    Attributes:
        tried: Arithmetic that the run was trained in.
        accepted: ``tried``, or fp32 if it was found worse.
        dice_change: Mean Dice in ``tried`` minus that in fp32; None if nothing was compared.
        num_cases: Cases that were compared.
    """

    tried: Precision
    accepted: Precision
    dice_change: float | None = None
    num_cases: int = 0

    @property
    def dice_changes(self) -> dict[Precision, float]:
        """The change as a bundle holds it."""
        return {} if self.dice_change is None else {self.tried: self.dice_change}

    def write(self, path: Path) -> None:
        """Keep it for a run that is resumed."""
        write_text(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Verdict | None":
        """What :meth:`write` kept, if anything."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def is_comparable(precision: Precision, device: torch.device) -> bool:
    """Whether it is another arithmetic than fp32, and one that the processor is fast in."""
    if precision == "fp32":
        return False
    return precision == "fp16" or precision == automatic_precision(device)


def judged(
    tried: Precision, dice: Sequence[Sequence[float]], dice_fp32: Sequence[Sequence[float]]
) -> Verdict:
    """Accept or refuse an arithmetic, and say so in one line.

    Args:
        tried: The arithmetic.
        dice: In it, of each foreground label in each case; nan where a label is absent.
        dice_fp32: The same in fp32.
    """
    change, num_cases = dice_change(dice, dice_fp32), len(dice)
    if math.isnan(change):
        log.info("%s is not compared with fp32: neither finds a label where it is", tried)
        return Verdict(tried, tried)
    change = round(change, 6)
    told = f"{tried} changes the mean Dice by {change:+.4f} on {num_cases} cases"
    if abs(change) < MOST_DICE_CHANGE:
        log.info("%s: accepted", told)
        return Verdict(tried, tried, change, num_cases)
    log.warning("%s: refused, predictions are made in fp32", told)
    return Verdict(tried, "fp32", change, num_cases)


def dice_change(dice: Sequence[Sequence[float]], dice_fp32: Sequence[Sequence[float]]) -> float:
    """Difference of two mean Dice, each the mean over labels of the means over cases.

    A label counts in a case if both values are known there: one voxel too many where there
    should be none has no say. nan if no label is known anywhere, or if nothing was found at all,
    which is no evidence.

    Examples:
        >>> round(dice_change([[0.5, math.nan], [0.7, 0.9]], [[0.6, 0.0], [0.7, 0.8]]), 6)
        0.025
        >>> dice_change([[0.0]], [[0.0]])
        nan
    """
    ours, theirs = np.asarray(dice, dtype=np.float64), np.asarray(dice_fp32, dtype=np.float64)
    known = ~(np.isnan(ours) | np.isnan(theirs))
    labels = known.any(axis=0)
    if not np.any((ours[known] > 0) | (theirs[known] > 0)):
        return math.nan
    sums = np.where(known, ours - theirs, 0.0).sum(axis=0)[labels]
    return float(np.mean(sums / known.sum(axis=0)[labels]))


def evenly(items: Sequence[T], count: int) -> list[T]:
    """So many of the items, from all parts of the list.

    Examples:
        >>> evenly("abcdefgh", 3), evenly("ab", 3), evenly("ab", 0)
        (['a', 'c', 'f'], ['a', 'b'], [])
    """
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]
