"""A check as one page: no other file is needed, nothing is loaded from anywhere."""

import base64
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from medseg3d.data.checks import Examination
from medseg3d.data.doctor.findings import Finding, Severity, condensed
from medseg3d.data.remedies import Change
from medseg3d.io.atomic import write_text
from medseg3d.report.tables import (
    Measure,
    Table,
    case_table,
    change_table,
    count_findings,
    label_table,
    measure_table,
    measures,
    orientations,
    overview,
)

MOST_PICTURES = 60
STRIP_WIDTH, STRIP_HEIGHT, MARGIN = 520, 26, 8


def write_page(path: Path, examination: Examination, changes: Sequence[Change] = ()) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        RunError: If the file cannot be written.
    """
    write_text(path, page(examination, changes))


def page(examination: Examination, changes: Sequence[Change] = ()) -> str:
    """The page as HTML."""
    root = examination.survey.dataset.root
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    name = escape(root.absolute().name)
    sections = [
        _findings(examination.findings),
        _pictures(examination),
        _changes(changes),
        _table(label_table(examination)),
        _table(measure_table(examination)),
        f"<p>Orientation: {escape(orientations(examination) or 'unknown')}</p>",
        _strips(examination),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: check</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{name}</h1>\n<p>{escape(overview(examination))}</p>\n"
        f'<p class="{_worst(examination)} verdict">{escape(count_findings(examination))}</p>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _worst(examination: Examination) -> str:
    present = {finding.severity for finding in examination.findings}
    return next((str(severity) for severity in Severity if severity in present), "sound")


def _findings(findings: Sequence[Finding]) -> str:
    parts = []
    for group in condensed(findings):
        first = group[0]
        opened = " open" if first.severity is Severity.ERROR or len(group) == 1 else ""
        parts.append(
            f'<details class="{first.severity}"{opened}>'
            f"<summary><b>{first.severity}</b> {escape(first.code.replace('-', ' '))} "
            f"<span>{len(group)}</span></summary>{_table(case_table('', group))}</details>"
        )
    return "<h2>Findings</h2>\n" + "\n".join(parts) if parts else ""


def _pictures(examination: Examination) -> str:
    """The cases that something was found about, the worst first."""
    by_case: dict[str, list[Finding]] = {}
    pictures = examination.survey.pictures
    for finding in examination.findings:
        case = finding.case
        if case is not None and case in pictures and finding.severity is not Severity.NOTE:
            by_case.setdefault(case, []).append(finding)
    figures = [
        _figure(case, pictures[case], findings)
        for case, findings in list(by_case.items())[:MOST_PICTURES]
    ]
    if not figures:
        return ""
    more = len(by_case) - len(figures)
    rest = f"<p>{more} more cases are not shown.</p>" if more > 0 else ""
    return f'<h2>Cases</h2>\n<div class="cases">\n{"".join(figures)}</div>\n{rest}'


def _figure(case: str, picture: bytes, findings: Sequence[Finding]) -> str:
    data = base64.b64encode(picture).decode("ascii")
    codes = dict.fromkeys((str(finding.severity), finding.code) for finding in findings)
    marks = " ".join(
        f'<span class="{severity}">{escape(code.replace("-", " "))}</span>'
        for severity, code in codes
    )
    return (
        f'<figure><img alt="three slices of {escape(case)}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{escape(case)}</b> {marks}</figcaption></figure>\n"
    )


def _changes(changes: Sequence[Change]) -> str:
    return _table(change_table(changes, "Changes in the repaired copy")) if changes else ""


def _table(table: Table) -> str:
    kinds = ['class="number"' if is_number else "" for is_number in table.is_number]
    head = "".join(
        f"<th {kind}>{escape(text)}</th>" for kind, text in zip(kinds, table.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td {kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
    title = f"<h2>{escape(table.title)}</h2>\n" if table.title else ""
    return (
        f'{title}<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _strips(examination: Examination) -> str:
    """Every case as a dot, for each measure that differs between cases."""
    odd = {(finding.code, finding.case) for finding in examination.findings}
    rows = [
        f"<tr><td>{escape(measure.name)}</td><td>{_strip(measure, odd)}</td></tr>"
        for measure in measures(examination)
        if len(set(measure.values.values())) > 1
    ]
    if not rows:
        return ""
    return (
        "<h2>Distribution over the cases</h2>\n"
        "<p>One dot per case, outliers in red; point at a dot for its case.</p>\n"
        f'<div class="wide"><table class="strips">{"".join(rows)}</table></div>'
    )


def _strip(measure: Measure, odd: set[tuple[str, str | None]]) -> str:
    low, high = min(measure.values.values()), max(measure.values.values())
    dots = []
    for case, value in measure.values.items():
        x = MARGIN + (value / 2 - low / 2) / (high / 2 - low / 2) * (STRIP_WIDTH - 2 * MARGIN)
        kind = "odd" if (measure.code, case) in odd else "usual"
        title = f"{escape(case)}: {value:.4g}"
        dots.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{STRIP_HEIGHT // 2}" r="4">'
            f"<title>{title}</title></circle>"
        )
    dots.sort(key=lambda dot: 'class="odd"' in dot)
    return (
        f'<span class="end">{low:.4g}</span>'
        f'<svg width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" role="img" '
        f'aria-label="{escape(measure.name)}">{"".join(dots)}</svg>'
        f'<span class="end">{high:.4g}</span>'
    )
