"""Choosing the slices of one volume among all that a folder holds."""

import filecmp
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.errors import DataError
from medseg3d.io.dicom.headers import TRAITS, Plane, Slice

SAME_PLACE = 0.01
"""Slices lie in one place when they are this part of a pixel apart."""

CONSTANT = ("b", "echo")
"""Traits that all slices of one volume share, even where no two slices lie in one place."""

MOST_NAMED = 6


def one_block(
    path: Path, slices: Sequence[Slice], choice: dict[str, str], name: Path, notes: list[str]
) -> list[Slice]:
    """The slices of one series, of one size and orientation, each once.

    Args:
        path: Folder or file that they come from.
        slices: All its slices.
        choice: Traits that the wanted slices have.
        name: What the user called the volume, for messages.
        notes: Collects what was left out.

    Raises:
        DataError: If there are several such blocks, naming what tells them apart, or a slice of
            the only one has a fault.
    """
    slices = _chosen(name, _distinct_series(slices), choice)
    slices = _one_series(path, slices, notes)
    slices = _without_copies(slices, notes)
    return _one_plane(path, slices, notes)


def _distinct_series(slices: Sequence[Slice]) -> list[Slice]:
    """Series of one number, or none, are told apart by their identifiers."""
    numbers: dict[str, set[str]] = {}
    for each in slices:
        numbers.setdefault(each.traits["series"], set()).add(each.series)
    return [
        each
        if each.traits["series"] and len(numbers[each.traits["series"]]) == 1
        else replace(
            each,
            traits=each.traits
            | {"series": each.series.replace("/", "-"), "number": each.traits["series"]},
        )
        for each in slices
    ]


def _chosen(name: Path, slices: Sequence[Slice], choice: dict[str, str]) -> list[Slice]:
    for key, value in choice.items():
        known = list(dict.fromkeys(s.traits[key] for s in slices if key in s.traits))
        slices = [each for each in slices if each.traits.get(key, "") == value]
        if not slices:
            there = _list(f"{key}={text}" for text in known) or "none has that property"
            raise DataError(f"{name} chooses no slice; there are: {there}")
    return list(slices)


def _one_series(path: Path, slices: Sequence[Slice], notes: list[str]) -> list[Slice]:
    if all(each.fault for each in slices):
        raise DataError(slices[0].fault)
    scouts = [each for each in slices if each.fault and each.is_localizer]
    slices = [each for each in slices if not (each.fault and each.is_localizer)]
    groups = _grouped(slices, lambda each: each.series)
    with_place = {k: g for k, g in groups.items() if any(_is_placed(each) for each in g)}
    if not with_place:
        raise DataError(f"{path} holds no image that tells its position in the patient")
    for key, group in groups.items():
        if key not in with_place and "/" in key and not all(s.is_localizer for s in group):
            raise _lost(group[0])  # nothing says that it is of another series
    bodies = {k: g for k, g in with_place.items() if not all(s.is_localizer or s.fault for s in g)}
    wanted = [each for each in slices if each.fault and not each.is_localizer]
    if wanted and not bodies:  # only scouts are left
        raise DataError(wanted[0].fault)
    kept = bodies or with_place
    dropped = [each for key, group in groups.items() if key not in kept for each in group]
    dropped += scouts
    if len(kept) > 1:
        raise _several(path, kept.values(), "series", [("series",)])
    if dropped:
        why = next((f" ({each.fault})" for each in dropped if each in wanted), "")
        notes.append(f"{path}: {_counted(dropped)} of other series, such as scouts, left out{why}")
    only = next(iter(kept.values()))
    if fault := next((each.fault for each in only if each.fault), ""):
        raise DataError(fault)
    lost = [each for each in only if not _is_placed(each)]
    if lost:
        raise _lost(lost[0])
    return only


def _lost(each: Slice) -> DataError:
    # without it, one at an end of the series would not be missed
    return DataError(
        f"{each.path} tells no position, orientation or pixel size, unlike the slices beside it; "
        "get the series again"
    )


def _without_copies(slices: Sequence[Slice], notes: list[str]) -> list[Slice]:
    """Drop files that are there twice, byte for byte."""
    seen: dict[tuple[str, int | None], Slice] = {}
    copies = []
    for each in slices:
        other = seen.setdefault((each.uid or str(each.path), each.frame), each)
        if other is each:
            continue
        if not filecmp.cmp(each.path, other.path, shallow=False):
            raise DataError(
                f"{each.path} and {other.path.name} claim to be the same image but differ; "
                "remove one"
            )
        copies.append(each)
    if copies:
        notes.append(f"{copies[0].path.parent}: {len(copies)} slices are there twice; one is used")
    return list(seen.values())


def _one_plane(path: Path, slices: Sequence[Slice], notes: list[str]) -> list[Slice]:
    groups = _by_plane(slices)
    if len(groups) > 1:
        bodies = [group for group in groups if not all(each.is_localizer for each in group)]
        if len(bodies) == 1:
            dropped = len(slices) - len(bodies[0])
            notes.append(f"{path}: {dropped} localizer images of another orientation are left out")
            return bodies[0]
        raise _several(path, groups, "orientations or sizes", [("plane",), ("size",), ("type",)])
    return groups[0]


def _by_plane(slices: Sequence[Slice]) -> list[list[Slice]]:
    groups: list[list[Slice]] = []
    for each in slices:
        for group in groups:
            if each.plane and group[0].plane and each.plane.same_as(group[0].plane):
                group.append(each)
                break
        else:
            groups.append([each])
    return groups


def expect_one_per_place(
    path: Path, ordered: Sequence[Slice], normal: npt.NDArray[np.float64], plane: Plane
) -> None:
    """Refuse slices in one place, as of several weightings or times.

    Args:
        path: Folder or file that they come from.
        ordered: Slices by their height along ``normal``.
        normal: Unit vector across the slices.
        plane: Their common grid.

    Raises:
        DataError: Listing the volumes by what tells them apart, if something does.
    """
    tolerance = SAME_PLACE * min(plane.spacing)
    doubled = [
        (a, b) for a, b in pairwise(ordered) if _height(normal, b) - _height(normal, a) < tolerance
    ]
    if not doubled:
        for trait in CONSTANT:
            groups = _grouped(ordered, _by_traits((trait,)))
            if len(groups) > 1:
                is_choice = all(len(group) > 1 for group in groups.values())
                names = [(trait,)] if is_choice else []
                raise _several(path, groups.values(), "volumes between each other", names)
        return
    fewest = _fewest(len(ordered) - len(doubled))
    keys = [(key,) for key in TRAITS] + list(combinations(TRAITS, 2))
    for key in keys:
        groups = _grouped(ordered, _by_traits(key))
        if len(groups) < 2 or min(map(len, groups.values())) < fewest:
            continue  # it differs from slice to slice, as times do
        if not any(
            _height(normal, b) - _height(normal, a) < tolerance
            for group in groups.values()
            for a, b in pairwise(group)
        ):
            raise _several(path, groups.values(), "volumes in the same place", [key])
    a, b = doubled[0]
    raise DataError(
        f"{path}: {len(doubled)} slices lie in the place of another, the first {b.path.name} in "
        f"that of {a.path.name}; keep one of each"
    )


def _fewest(places: int) -> int:
    """Slices that a volume among others has at least, where they lie in so many places."""
    return min(places, max(2, places // 2))


def _several(
    path: Path, groups: Iterable[Sequence[Slice]], what: str, keys: Sequence[tuple[str, ...]]
) -> DataError:
    """Say what there is, and how to choose where the traits tell the groups apart."""
    groups = list(groups)
    facts = _facts_of_series if what == "series" else _facts
    for key in keys:
        names = [",".join(f"{k}={g[0].traits.get(k, '')}" for k in key) for g in groups]
        if len(set(names)) == len(groups):
            listed = _list(f"{n} ({facts(g)})" for n, g in zip(names, groups, strict=True))
            choose = f"choose one as {path / names[0]}"
            choose += "" if path.is_file() else ", or give each its own folder"
            break
    else:
        listed = _list(facts(group) for group in groups)
        choose = "give each its own folder"
    return DataError(f"{path} holds {len(groups)} {what}: {listed}; {choose}")


def _facts(group: Sequence[Slice]) -> str:
    sizes = Counter(each.traits["size"] for each in group)
    size = next(iter(sizes)) if len(sizes) == 1 else "mixed sizes"
    modality = group[0].traits["modality"]
    number = group[0].traits.get("number")
    series = f", series number {number}" if number else ""
    return f"{modality}{series}, {len(group)} slice{'s' if len(group) > 1 else ''} of {size}"


def _facts_of_series(group: Sequence[Slice]) -> str:
    descriptions = {each.description for each in group}
    (text,) = descriptions if len(descriptions) == 1 else ("",)
    return _facts(group) + (f", '{text}'" if text else "")


def _counted(slices: Sequence[Slice]) -> str:
    return f"{len(slices)} image{'s' if len(slices) > 1 else ''}"


def _list(texts: Iterable[str]) -> str:
    found = list(texts)
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return ", ".join(found[:MOST_NAMED]) + more


def _grouped(slices: Sequence[Slice], key: Callable[[Slice], Any]) -> dict[Any, list[Slice]]:
    groups: dict[Any, list[Slice]] = {}
    for each in slices:
        groups.setdefault(key(each), []).append(each)
    return groups


def _by_traits(keys: Sequence[str]) -> Callable[[Slice], Any]:
    return lambda each: tuple(each.traits.get(key) for key in keys)


def _height(normal: npt.NDArray[np.float64], each: Slice) -> float:
    return float(normal @ np.asarray(each.position))


def _is_placed(each: Slice) -> bool:
    return each.position is not None and each.plane is not None
