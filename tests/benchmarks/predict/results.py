"""Measurements that outlive an interrupted run: one JSON file, and tables made of it."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path("build/bench-predict")

Record = dict[str, Any]


def say(text: str) -> None:
    """One line to whoever watches."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Results:
    """Records by part, kept on disk after each one.

    Args:
        path: The JSON file; what it holds already is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: dict[str, list[Record]] = {}
        self._read()

    def of(self, part: str, **facts: Any) -> list[Record]:
        """Records of a part that have these facts."""
        return [
            record
            for record in self.parts.get(part, [])
            if all(record.get(name) == value for name, value in facts.items())
        ]

    def add(self, part: str, **record: Any) -> None:
        """Keep a record, beside those that others have added meanwhile."""
        self._read()
        self.parts.setdefault(part, []).append(record)
        self._write()

    def forget(self, part: str, **facts: Any) -> None:
        """Drop the records that have these facts, to measure them again."""
        self._read()
        gone = self.of(part, **facts)
        self.parts[part] = [record for record in self.parts.get(part, []) if record not in gone]
        self._write()

    def _read(self) -> None:
        if self.path.is_file():
            self.parts = json.loads(self.path.read_text(encoding="utf-8"))

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(self.parts, indent=1), encoding="utf-8")
        partial.rename(self.path)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table with columns of equal width.

    Examples:
        >>> print(table(["a", "b"], [[1, "xyz"]]))
        | a | b   |
        |---|-----|
        | 1 | xyz |
    """
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(columns), rule, *map(line, lines)])


def gib(size: float) -> str:
    """Bytes as GiB with two digits."""
    return f"{size / 2**30:.2f}"


def verdict(reached: bool | None) -> str:
    """How a target went; None where it could not be told."""
    return {True: "pass", False: "FAIL", None: "-"}[reached]
