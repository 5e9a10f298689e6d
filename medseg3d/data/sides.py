"""Left and right: which labels are mirror images, and whether patients may be mirrored.

A mirrored patient is a patient only if left and right labels change places and nothing else
tells the sides apart: with the liver on the left it is one that a network should not learn.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median

SAGITTAL = 0
"""The axis from left to right in RAS+ order."""

WORDS = {"left": "left", "right": "right"}
ABBREVIATIONS = {"lh": "left", "rh": "right", "lt": "left", "rt": "right"}
LETTERS = {"l": "left", "r": "right"}
"""Taken for a side only as the first or last word: the L in ``vertebra_L_3`` is none."""

OPPOSITE = {"left": "right", "right": "left"}

FEWEST_CASES = 5
"""With fewer, labels lie on one side by chance too often: 1 in 8 for four cases."""

SHARE_OF_CASES = 0.9

SMALLEST_OFFSET = 0.05
"""Median distance from the middle, as a share of half the image's width, about 8 mm in an
abdomen; spine and pairs of kidneys are below, aorta, heart, pancreas and liver above."""

Names = Mapping[int, str]
Centers = Mapping[int, float]
"""Per label value but the background's, how far its center lies to the right of the middle."""


def side_and_rest(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sides that a name says, in order, and its other words.

    Words end at anything but letters and digits, and before a capital after a small letter.
    ``left`` and ``right`` are looked for first, then ``lh``, ``rh``, ``lt``, ``rt`` and, at
    either end, ``l`` and ``r``.

    Examples:
        >>> side_and_rest("Left-Hippocampus"), side_and_rest("Lung_L")
        ((('left',), ('hippocampus',)), (('left',), ('lung',)))
        >>> side_and_rest("cleft l3 bright")
        ((), ('cleft', 'l3', 'bright'))
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.casefold() for word in re.findall(r"[^\W_]+", spaced)]
    known = WORDS if any(word in WORDS for word in words) else ABBREVIATIONS
    ends = {0, len(words) - 1} if known is ABBREVIATIONS else set()
    sides, rest = [], []
    for place, word in enumerate(words):
        side = known.get(word) or (LETTERS.get(word) if place in ends else None)
        if side is None:
            rest.append(word)
        else:
            sides.append(side)
    return tuple(sides), tuple(rest)


def paired_labels(names: Names) -> dict[int, int]:
    """The label that each label becomes in a mirror.

    Two labels are a pair if their names differ in nothing but the side and no third name
    claims either place; every other label is its own mirror image.

    Args:
        names: Label values and names.

    Returns:
        Partner of every label; applied twice, each label is itself again.

    Examples:
        >>> paired_labels({0: "background", 1: "kidney_left", 2: "kidney_right", 5: "aorta"})
        {0: 0, 1: 2, 2: 1, 5: 5}
    """
    holders: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = defaultdict(list)
    for value, name in names.items():
        holders[side_and_rest(name)].append(value)
    partners = {value: value for value in names}
    for (sides, rest), values in holders.items():
        opposite = holders.get((tuple(OPPOSITE[side] for side in sides), rest), [])
        if sides and len(values) == len(opposite) == 1:
            partners[values[0]] = opposite[0]
    return partners


def left_and_right(names: Names) -> dict[int, int]:
    """The pairs among the labels, left to right.

    Examples:
        >>> left_and_right({2: "R", 4: "L", 5: "middle"})
        {4: 2}
    """
    pairs = paired_labels(names).items()
    return {a: b for a, b in pairs if a != b and side_and_rest(names[a])[0][0] == "left"}


def without_partner(names: Names) -> list[int]:
    """Labels whose name says a side, but for which no single other label is the opposite.

    Examples:
        >>> without_partner({1: "lung_left", 2: "lung_right", 3: "Right lung", 4: "kidney_l"})
        [1, 2, 3, 4]
    """
    partners = paired_labels(names)
    return [
        value
        for value, name in names.items()
        if partners[value] == value and side_and_rest(name)[0]
    ]


def doubts(names: Names, cases: Sequence[Centers]) -> list[str]:
    """Why patients of this data set should not be mirrored along the sagittal axis.

    Args:
        names: Label values and names, background included.
        cases: Per training case, where its labels lie; see :data:`Centers`.

    Returns:
        One clause per label without its partner, and per label or pair that lies on one side;
        nothing if mirroring is safe.

    Examples:
        >>> doubts({0: "background", 1: "liver"}, [{1: 0.4}] * 6)
        ["'liver' lies on the right in 6 of 6 cases"]
        >>> doubts({1: "kidney_left", 2: "kidney_right"}, [{1: -0.4, 2: 0.38}] * 6)
        []
    """
    alone = without_partner(names)
    found = [f"{names[value]!r} has no partner on the other side" for value in alone]
    groups = {
        tuple(sorted({value, partner}))
        for value, partner in paired_labels(names).items()
        if value not in alone
    }
    return found + _one_sided(names, sorted(groups), cases)


def _one_sided(
    names: Names, groups: Sequence[tuple[int, ...]], cases: Sequence[Centers]
) -> list[str]:
    """Labels and pairs that lie beside the middle or, if none does, beside the others."""
    centers = {
        group: {
            number: fmean(case[value] for value in group)
            for number, case in enumerate(cases)
            if case.keys() >= set(group)
        }
        for group in groups
    }
    found = []
    for group, places in centers.items():
        if len(group) == 1 and 0 < len(places) < FEWEST_CASES:
            found.append(f"{names[group[0]]!r} is in {len(places)} cases, too few to tell its side")
        elif side := _side(list(places.values())):
            found.append(f"{_called(names, group)} {side}")
    if found:
        return found
    for group, places in centers.items():
        beside = []
        for number, place in places.items():
            others = [center[number] for center in centers.values() if number in center]
            if len(others) > 1:
                beside.append(place - (sum(others) - place) / (len(others) - 1))
        if side := _side(beside):
            found.append(f"{_called(names, group)} {side}, seen from the other labels")
    return found


def _side(offsets: Sequence[float]) -> str | None:
    """On which side nearly all lie, if they are enough and not near the middle."""
    if len(offsets) < FEWEST_CASES or abs(median(offsets)) < SMALLEST_OFFSET:
        return None
    right = sum(offset > 0 for offset in offsets)
    side, count = max(("right", right), ("left", len(offsets) - right), key=lambda pair: pair[1])
    if count < SHARE_OF_CASES * len(offsets):
        return None
    return f"on the {side} in {count} of {len(offsets)} cases"


def _called(names: Names, group: tuple[int, ...]) -> str:
    if len(group) == 1:
        return f"{names[group[0]]!r} lies"
    return " and ".join(repr(names[value]) for value in group) + " together lie"
