"""Measurements that outlive an interrupted run: one JSON file, and tables made of it."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
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
        """Keep a record and where it comes from, beside those that others have added meanwhile."""
        with self._alone():
            self._read()
            self.parts.setdefault(part, []).append(record | {"origin": origin()})
            self._write()

    def forget(self, part: str, **facts: Any) -> None:
        """Drop the records that have these facts, to measure them again."""
        with self._alone():
            self._read()
            gone = self.of(part, **facts)
            self.parts[part] = [record for record in self.parts.get(part, []) if record not in gone]
            self._write()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process change the file meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> None:
        if self.path.is_file():
            self.parts = json.loads(self.path.read_text(encoding="utf-8"))

    def _write(self) -> None:
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(self.parts, indent=1), encoding="utf-8")
        partial.rename(self.path)


def origin() -> Record:
    """When, on which processor and with which commit something was measured."""
    words = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": found.stdout.strip(),
        "processor": models[0] if models else "",
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }


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
