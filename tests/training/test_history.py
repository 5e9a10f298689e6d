"""The course of a run as a table and a picture, whatever the labels are called."""

import math
import os
import warnings
from pathlib import Path

import pytest

from medseg3d.training.history import History

NAMES = ("$x_{$", "\N{CJK UNIFIED IDEOGRAPH-809D}", os.fsdecode(b"caf\xe9"))


def row(minutes: float, dice: float | None) -> dict[str, float | None]:
    values = {"epoch": 1, "step": 1, "minutes": minutes, "learning_rate": 0.1, "loss": 1.0}
    if dice is None:
        return values
    return values | {"dice": dice} | {f"dice_{name}": dice for name in NAMES}


def test_any_name_of_a_label_can_be_drawn_and_written(tmp_path: Path) -> None:
    history = History(NAMES, [row(1.0, None), row(2.0, 0.5)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history.draw(tmp_path / "history.png")
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    history.write_csv(tmp_path / "history.csv")
    header, first, second = (tmp_path / "history.csv").read_bytes().removesuffix(b"\n").split(b"\n")
    assert header.endswith(b",dice_caf\xe9")
    assert (first, second) == (b"1,1,1,0.1,1,,,,", b"1,1,2,0.1,1,0.5,0.5,0.5,0.5")


@pytest.mark.parametrize(
    ("found", "title"),
    [
        ((math.nan, 0.25, 0.5), "best mean Dice 0.500 after 3.0 min"),
        ((0.5, math.nan, 0.25), "best mean Dice 0.500 after 1.0 min"),
        ((math.nan,), ""),
        ((), ""),
    ],
)
def test_the_best_is_the_best_of_what_is_known(found: tuple[float, ...], title: str) -> None:
    rows = [row(minutes, dice) for minutes, dice in enumerate(found, start=1)]
    assert History(NAMES, rows)._figure().get_suptitle() == title
