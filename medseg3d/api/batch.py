"""Many cases in a row: a bad one is put on record, and the others go on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from medseg3d.errors import RunError, about_case
from medseg3d.io.atomic import stops_all, write_csv
from medseg3d.process import sentence

log = logging.getLogger("medseg3d")

FAILED_CSV = "failed.csv"
MOST_TOLD = 3


@dataclass(frozen=True)
class Failure:
    """One case that could not be done; the fields are the columns of ``failed.csv``."""

    case: str
    file: str
    error: str


COLUMNS = tuple(field.name for field in fields(Failure))


def failed_csv(output: str) -> str:
    """The table of an output that may share its folder with others, after the output's name.

    Examples:
        >>> failed_csv("scores")
        'scores_failed.csv'
    """
    return f"{output}_{FAILED_CSV}"


class Failures:
    """The cases of a batch that failed, in memory and in ``failed.csv``.

    A table that an earlier call left is removed first, however many cases there are now.

    Args:
        num_cases: How many cases there are; a single one gets no table.
        folder: Where the table goes.
        name: What it is called there.
    """

    def __init__(self, num_cases: int, folder: Path, *, name: str = FAILED_CSV) -> None:
        self.num_cases = num_cases
        self.path = folder / name
        self.found: list[Failure] = []
        remove_table(self.path)

    @contextmanager
    def of(self, case_id: str, file: Path) -> Iterator[None]:
        """Put any error inside on record instead of raising it.

        Raises:
            RunError: If the disk takes nothing more, so that the others would fail too.
        """
        try:
            with about_case(case_id):
                yield
        except Exception as error:
            if stops_all(error):
                raise
            log.debug("case %s", case_id, exc_info=True)
            text = sentence(error)
            prefix = f"case {case_id}: "
            self.add(case_id, file, text.removeprefix(prefix))

    def add(self, case_id: str, file: Path, reason: str) -> None:
        """Put a case on record that could not be done."""
        self.found.append(Failure(case_id, str(file), str(reason)))
        if self.num_cases > 1:
            log.error("case %s: %s", case_id, reason)
            write_csv(self.path, COLUMNS, map(astuple, self.found))

    def end(self, told: str) -> None:
        """End the batch.

        Args:
            told: What became of the cases: ``"cases failed, 3 were written"``.

        Raises:
            RunError: If cases failed.
        """
        if not self.found:
            return
        lines = [f"case {failure.case}: {failure.error}" for failure in self.found]
        if self.num_cases == 1:
            raise RunError(lines[0])
        more = len(lines) - MOST_TOLD
        shown = "; ".join(lines[:MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")
        raise RunError(
            f"{len(lines)} of {self.num_cases} {told}: {shown}; all failures are in {self.path}"
        )


def remove_table(path: Path) -> None:
    """Remove a table of failures that an earlier call left; what is somebody else's stays."""
    with suppress(OSError):
        with path.open(encoding="utf-8", errors="replace") as file:
            is_ours = file.readline().strip() == ",".join(COLUMNS)
        if is_ours:
            path.unlink()
