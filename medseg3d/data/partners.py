"""Pairing files by id, and telling everything that does not pair.

Faults are collected as text, so that the caller can report all of them in one error.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medseg3d.errors import DataError
from medseg3d.io import case_stem

LOGGER = logging.getLogger("medseg3d")
MOST_NAMED = 10
ROLE = re.compile(
    r"(.+?)[_.-](?:seg|segmentation|pred|prediction|labels?|mask|gt|image|img)", re.IGNORECASE
)


class Fault(str):
    """A sentence about single cases of a set; without them the others can be used.

    Args:
        sentence: What is wrong.
        cases: Their ids.
        file: Where to look.
    """

    __slots__ = ("cases", "file")
    cases: tuple[str, ...]
    file: Path

    def __new__(cls, sentence: str, cases: Iterable[str], file: Path) -> "Fault":
        """Make one; a text cannot be changed later."""
        fault = super().__new__(cls, sentence)
        fault.cases, fault.file = tuple(cases), file
        return fault


def by_id(files: Iterable[Path], faults: list[str]) -> dict[str, Path]:
    """Files by case id; two files of one id are a fault."""
    found: dict[str, Path] = {}
    for file in files:
        case_id = case_stem(file)
        if case_id in found:
            faults.append(f"{case_id} is there twice ({found[case_id]} and {file}), keep one")
        found[case_id] = file
    expect_distinct(found, faults)
    return found


def expect_distinct(files: Mapping[str, Path], faults: list[str]) -> None:
    """Ids must differ by more than letter case or the coding of accents.

    Some disks take such names for one, and one output would replace another.
    """
    seen: dict[str, str] = {}
    for case_id, file in files.items():
        key = unicodedata.normalize("NFC", case_id).casefold()
        other = seen.setdefault(key, case_id)
        if other != case_id:
            is_case = other.casefold() == case_id.casefold()
            how = "letter case" if is_case else "the coding of accents"
            told = f"{files[other]} and {file} differ by {how} only, rename one"
            faults.append(Fault(told, (other, case_id), file))


def expect_partners(
    ours: Mapping[str, str],
    theirs: Mapping[str, str],
    kinds: tuple[str, str],
    faults: list[str],
    *,
    skip: bool = False,
) -> None:
    """Both sides need the same keys; the values are the names to report.

    With ``skip`` what is alone is warned of, as long as anything meets.
    """
    if ours and theirs and not ours.keys() & theirs.keys():
        faults.append(
            f"the {len(ours)} {kinds[0]}s ({some(sorted(ours.values()), most=3)}) and the "
            f"{len(theirs)} {kinds[1]}s ({some(sorted(theirs.values()), most=3)}) share no id; "
            "they seem to be of different sets"
        )
        return
    for mine, other, kind, lacking in ((ours, theirs, *kinds), (theirs, ours, *kinds[::-1])):
        alone = [mine[key] for key in sorted(mine.keys() - other.keys())]
        if not alone:
            continue
        sentence = f"{count(alone, kind)} without {lacking}"
        if skip:
            LOGGER.warning("%s left out", sentence)
        else:
            faults.append(f"{sentence}, add or remove, or give --skip-unpaired")


def common_keys(
    ours: Iterable[str], theirs: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Ids of both sides by the key they are paired with: the id, or the id without its role."""
    plain = {name: name for name in ours}, {name: name for name in theirs}
    if plain[0].keys() & plain[1].keys():
        return plain
    bare = {without_role(name): name for name in ours}, {without_role(n): n for n in theirs}
    unique = all(len(b) == len(p) for b, p in zip(bare, plain, strict=True))
    return bare if unique and bare[0].keys() & bare[1].keys() else plain


def without_role(case_id: str) -> str:
    """Case id without an ending such as ``_seg`` that says what the file is of the case."""
    match = ROLE.fullmatch(case_id)
    return match[1] if match else case_id


def refuse(root: Path | str | None, faults: Sequence[str]) -> None:
    """Raise all faults as one :class:`DataError`, if there are any."""
    if faults:
        raise DataError((f"{root}: " if root else "") + "; ".join(faults))


def count(names: Sequence[str], kind: str) -> str:
    """How many and which, ten at most by name.

    Examples:
        >>> count(["a", "b"], "image"), count(["c"], "file")
        ('2 images (a, b)', '1 file (c)')
    """
    return f"{len(names)} {kind}{'s' if len(names) > 1 else ''} ({some(names)})"


def some(names: Sequence[str], separator: str = ", ", most: int = MOST_NAMED) -> str:
    """The first names and how many more there are."""
    more = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
