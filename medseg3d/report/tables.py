"""The tables of a check, as text in cells; the terminal and the page show the same ones."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medseg3d.data.checks import Examination
from medseg3d.data.doctor.findings import Finding, condensed, summary
from medseg3d.data.remedies import Change

AXES = ("left-right", "back-front", "foot-head")
MOST_LABELS = 30
MOST_ORIENTATIONS = 4


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: What it shows.
        columns: Headings.
        rows: Cells, as many as headings.
        is_number: Whether each column is set flush right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_number: tuple[bool, ...]


@dataclass(frozen=True)
class Measure:
    """One number per case.

    Attributes:
        name: What was measured, with its unit.
        code: Kind of the findings about it.
        values: Number by case.
    """

    name: str
    code: str
    values: dict[str, float]


def overview(examination: Examination) -> str:
    """Cases, layout, channels and labels in one line."""
    dataset, facts = examination.survey.dataset, examination.survey.facts
    channels = dataset.channel_names or tuple(
        map(str, range(max((one.num_channels for one in facts), default=0)))
    )
    labels = [value for value in examination.label_values if value != 0]
    patients = len({case.patient for case in dataset.cases})
    parts = [
        _count(len(dataset.cases), "case") + f" of {_count(patients, 'patient')}",
        f"layout {dataset.layout}",
        _count(len(channels), "channel") + (f" ({', '.join(channels)})" if channels else ""),
        _count(len(labels), "label"),
    ]
    return "; ".join(parts)


def label_table(examination: Examination) -> Table:
    """How often and how large each label is."""
    facts, names = examination.survey.facts, examination.survey.dataset.label_names or {}
    total = sum(sum(one.label_counts.values()) for one in facts)
    rows: list[tuple[str, ...]] = []
    values = sorted({*examination.label_values, *names})
    for value in values[:MOST_LABELS]:
        having = [one for one in facts if one.label_counts.get(value)]
        voxels = sum(one.label_counts[value] for one in having)
        volumes = [one.label_counts[value] * one.grid.voxel_volume_ml for one in having]
        rows.append(
            (
                str(value),
                names.get(value, "background" if value == 0 else ""),
                f"{len(having)} of {len(facts)}",
                f"{voxels:,}".replace(",", " "),
                f"{100 * voxels / total:.3g} %" if total else "",
                *_spread(volumes),
            )
        )
    columns = ("label", "name", "cases", "voxels", "share", "median mL", "least", "most")
    if len(values) > MOST_LABELS:
        rows.append(("...", f"and {len(values) - MOST_LABELS} more", *[""] * 6))
    return Table("Labels", columns, tuple(rows), (True, False, *[True] * 6))


def measure_table(examination: Examination) -> Table:
    """Spacing, size and intensities over all cases."""
    rows = [
        (measure.name, *_spread(list(measure.values.values()))) for measure in measures(examination)
    ]
    columns = ("measure", "median", "least", "most")
    return Table("Images", columns, tuple(rows), (False, True, True, True))


def orientations(examination: Examination) -> str:
    """How many cases are stored in which order of axes."""
    codes = Counter(facts.grid.orientation for facts in examination.survey.facts)
    parts = [f"{code} {times}" for code, times in codes.most_common(MOST_ORIENTATIONS)]
    more = len(codes) - MOST_ORIENTATIONS
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def measures(examination: Examination) -> list[Measure]:
    """What is measured on every case whose files can be read."""
    facts = examination.survey.facts
    grids = {one.case_id: one.grid.canonical() for one in facts}
    found = []
    for axis, name in enumerate(AXES):
        edges = {case: grid.spacing[axis] for case, grid in grids.items()}
        found.append(Measure(f"spacing {name}, mm", "spacing-outlier", edges))
    for axis, name in enumerate(AXES):
        counts = {case: float(grid.shape[axis]) for case, grid in grids.items()}
        found.append(Measure(f"voxels {name}", "size-outlier", counts))
    num_channels = max((one.num_channels for one in facts), default=0)
    names = examination.survey.dataset.channel_names or ()
    for number in range(num_channels):
        name = names[number] if number < len(names) else f"channel {number}"
        for place, what in ((0, "1st percentile"), (2, "median"), (4, "99th percentile")):
            values = {
                one.case_id: one.channels[number].percentiles[place]
                for one in facts
                if number < one.num_channels
            }
            found.append(Measure(f"{name}, {what}", "intensity-outlier", values))
    return found


def finding_table(examination: Examination) -> Table:
    """One row per kind of finding, the worst first."""
    rows = [
        (str(group[0].severity), group[0].code, str(len(group)), summary(group))
        for group in condensed(examination.findings)
    ]
    columns = ("", "kind", "times", "what was found")
    return Table("Findings", columns, tuple(rows), (False, False, True, False))


def case_table(title: str, findings: Sequence[Finding]) -> Table:
    """Every finding of one kind."""
    columns = {
        "case": [one.case or "" for one in findings],
        "what was found": [one.message for one in findings],
        "what to do": [one.fix or "" for one in findings],
    }
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    rows = tuple(zip(*filled.values(), strict=True))
    return Table(title, tuple(filled), rows, (False,) * len(filled))


def change_table(changes: Iterable[Change], title: str = "") -> Table:
    """What was changed in the copy, one row each."""
    rows = tuple((c.case, c.file, c.change, c.before, c.after) for c in changes)
    return Table(title, ("case", "file", "change", "before", "after"), rows, (False,) * 5)


def count_findings(examination: Examination) -> str:
    """Errors, warnings and notes in numbers.

    Examples:
        >>> from medseg3d.data.cases import Dataset
        >>> from medseg3d.data.doctor.facts import Survey
        >>> from pathlib import Path
        >>> nothing = Dataset(Path(), "none", (), None, None)
        >>> count_findings(Examination(Survey(nothing, (), ()), ()))
        '0 errors, 0 warnings, 0 notes'
    """
    counts = Counter(str(finding.severity) for finding in examination.findings)
    return ", ".join(_count(counts[kind], kind) for kind in ("error", "warning", "note"))


def _spread(values: Sequence[float]) -> tuple[str, str, str]:
    if not values:
        return "", "", ""
    return f"{np.median(values):.4g}", f"{min(values):.4g}", f"{max(values):.4g}"


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}{'' if number == 1 else 's'}"
