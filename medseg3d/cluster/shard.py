"""A part of the cases for each of several commands that know nothing of each other."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medseg3d.errors import ConfigError

T = TypeVar("T")

SLURM = "slurm"
ARRAY = {name: f"SLURM_ARRAY_TASK_{name.upper()}" for name in ("id", "min", "max", "count")}
"""Variables in which Slurm tells the place of a task in its array (sbatch manual)."""


@dataclass(frozen=True)
class Shard:
    """One part of a fixed division.

    Attributes:
        index: Which part, from 1.
        count: Of how many.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: Iterable[T], *, key: Callable[[T], str]) -> list[T]:
        """The items of this part, sorted by ``key``.

        The key of an item alone decides in which part it is. So each is in exactly one, also when
        items come or go between the starts of the parts; their sizes are about equal only where
        there are many.

        Args:
            items: What is divided.
            key: Tells the items apart, the same on every machine: the id of a case.

        Examples:
            >>> [Shard(index, 2).of("cbade", key=str) for index in (1, 2)]
            [['c', 'd', 'e'], ['a', 'b']]
            >>> [Shard(index, 2).of("cbadef", key=str) for index in (1, 2)]
            [['c', 'd', 'e'], ['a', 'b', 'f']]
        """
        return [item for item in sorted(items, key=key) if self._has(key(item))]

    def _has(self, key: str) -> bool:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1

    def name(self, name: str) -> str:
        """What this part calls a file that all parts would write; the only part keeps the name.

        Examples:
            >>> Shard(2, 4).name("failed.csv"), Shard(1, 1).name("failed.csv")
            ('failed-2of4.csv', 'failed.csv')
        """
        if self.count == 1:
            return name
        path = Path(name)
        return f"{path.stem}-{self.index}of{self.count}{path.suffix}"


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Read ``i/n``, or for ``slurm`` what the array says that this task is in.

    Args:
        text: As on the command line.
        environment: Where Slurm puts its variables.

    Raises:
        ConfigError: If it is no such text, or this is no task of a regular array.

    Examples:
        >>> parse_shard("2/4")
        Shard(index=2, count=4)
        >>> names = ("ID", "MIN", "MAX", "COUNT")
        >>> array = zip(names, ("5", "1", "7", "4"))  # as of --array=1-7:2
        >>> parse_shard("slurm", {f"SLURM_ARRAY_TASK_{name}": value for name, value in array})
        Shard(index=3, count=4)
    """
    if text.strip().lower() == SLURM:
        return _of_array(environment)
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
    if found is None:
        raise ConfigError(f"shard: expected i/n, such as 2/4, or {SLURM}, got {text!r}")
    index, count = int(found[1]), int(found[2])
    if not 1 <= index <= count:
        raise ConfigError(f"shard: the parts of i/n count from 1 to n, got {text!r}")
    return Shard(index, count)


def _of_array(environment: Mapping[str, str]) -> Shard:
    values = {name: environment.get(variable, "") for name, variable in ARRAY.items()}
    missing = [ARRAY[name] for name in ARRAY if not re.fullmatch(r"\d+", values[name], re.ASCII)]
    if missing:
        raise ConfigError(
            f"shard: {missing[0]} holds no number, so this is no task of a Slurm array; start it "
            "with sbatch --array=1-N, or give i/n"
        )
    task, first, last, count = (int(values[name]) for name in ARRAY)
    step = (last - first) // max(count - 1, 1) or 1
    if last != first + (count - 1) * step or (task - first) % step or not first <= task <= last:
        raise ConfigError(
            f"shard: the {count} tasks of this Slurm array, from {first} to {last}, do not follow "
            "each other at one distance, so that their places are unknown; use --array=1-N, or "
            "give i/n to repeat some parts"
        )
    return Shard((task - first) // step + 1, count)
