"""A check on the terminal."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from medseg3d.data.checks import Examination
from medseg3d.data.remedies import Change
from medseg3d.report.tables import (
    Table,
    change_table,
    count_findings,
    finding_table,
    label_table,
    measure_table,
    orientations,
    overview,
)

MOST_CHANGES = 20
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def report_text(
    examination: Examination,
    changes: Sequence[Change] = (),
    copy: Examination | None = None,
    folder: Path | None = None,
) -> RenderableType:
    """A check and, if there is one, the repair.

    Args:
        examination: What was found in the data set.
        changes: What was changed in a copy or, without ``copy``, would be.
        copy: What was found in the copy.
        folder: Where the copy is.
    """
    parts: list[RenderableType] = [examination_text(examination)]
    if changes or copy is not None:
        verb = "would be changed" if copy is None else f"changed in {folder}"
        counts = Counter(change.change for change in changes)
        told = ", ".join(f"{kind} ({times})" for kind, times in counts.most_common())
        parts.append(Text(f"\n{len(changes)} {verb}{f': {told}' if told else ''}", "bold"))
        parts.append(table_text(change_table(changes[:MOST_CHANGES])))
        if len(changes) > MOST_CHANGES:
            parts.append(Text(f"and {len(changes) - MOST_CHANGES} more"))
    if copy is not None:
        if copy.findings:
            parts.append(table_text(finding_table(copy)))
        parts.append(Text(f"{folder}: {count_findings(copy)}", "bold"))
    return Group(*parts)


def examination_text(examination: Examination) -> RenderableType:
    """What the cases hold, what was found, and the numbers of findings in the last line."""
    dataset = examination.survey.dataset
    parts: list[RenderableType] = [Text(f"{dataset.root}: {overview(examination)}", "bold")]
    if examination.survey.facts:
        parts += [table_text(label_table(examination)), table_text(measure_table(examination))]
        parts.append(Text(f"orientation: {orientations(examination)}\n"))
    if examination.findings:
        parts.append(table_text(finding_table(examination)))
    parts.append(Text(count_findings(examination), "bold"))
    return Group(*parts)


def table_text(table: Table) -> RichTable:
    """One table; the text in its cells is never taken for markup."""
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, is_number in zip(table.columns, table.is_number, strict=True):
        drawn.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in table.rows:
        style = STYLES.get(row[0], "")
        drawn.add_row(Text(row[0], style), *map(Text, row[1:]))
    return drawn
