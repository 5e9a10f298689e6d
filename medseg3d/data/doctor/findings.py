"""What a check found, as data: a table, a log, JSON and a page are made from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

MOST_CASES_NAMED = 5


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """``fit`` would refuse."""
    WARNING = "warning"
    """It works, but is it meant?"""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: How bad it is.
        code: Short name of the kind of finding, such as ``label-empty``.
        message: What was found and what was expected, as the end of a sentence about the case.
        case: Id of the case, None if it is about the set.
        file: The file, None if it is about several.
        fix: What to do, None if nothing has to be done.
    """

    severity: Severity
    code: str
    message: str
    case: str | None = None
    file: Path | None = None
    fix: str | None = None

    def __str__(self) -> str:
        start = "" if self.case is None else f"case {self.case}: "
        return start + self.advice

    @property
    def advice(self) -> str:
        """Message and remedy."""
        return self.message + ("" if self.fix is None else f"; {self.fix}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "severity": str(self.severity),
            "code": self.code,
            "case": self.case,
            "file": None if self.file is None else str(self.file),
            "message": self.message,
            "fix": self.fix,
        }


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then by kind, then by case."""
    order = list(Severity)
    return tuple(sorted(findings, key=lambda f: (order.index(f.severity), f.code, f.case or "")))


def condensed(findings: Iterable[Finding]) -> list[tuple[Finding, ...]]:
    """Findings of one severity and kind together, in the order of :func:`ranked`."""
    groups: dict[tuple[Severity, str], list[Finding]] = {}
    for finding in ranked(findings):
        groups.setdefault((finding.severity, finding.code), []).append(finding)
    return [tuple(group) for group in groups.values()]


def summary(group: tuple[Finding, ...]) -> str:
    """One line for findings of one kind: the first in full, the other cases by name.

    Examples:
        >>> found = [
        ...     Finding(severity=Severity.NOTE, code="label-empty", message="is empty", case=name)
        ...     for name in "abc"
        ... ]
        >>> summary((found[0],))
        'case a: is empty'
        >>> summary(tuple(found))
        'case a: is empty (the same kind in b, c)'
    """
    first, *others = group
    names = list(dict.fromkeys(finding.case for finding in others if finding.case is not None))
    names = [name for name in names if name != first.case]
    more = len(names) - MOST_CASES_NAMED
    rest = f" and {more} more" if more > 0 else ""
    if names:
        return f"{first} (the same kind in {', '.join(names[:MOST_CASES_NAMED])}{rest})"
    return f"{first} ({len(others)} more of this kind)" if others else str(first)
