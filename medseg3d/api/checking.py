"""``check``: what is wrong with a data set, and a copy in which it is repaired."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medseg3d.api.places import expect_writable
from medseg3d.config import CheckConfig, given
from medseg3d.data.case_table import with_patients
from medseg3d.data.checks import Examination, examine
from medseg3d.data.doctor.facts import CaseFacts
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.doctor.reading import begin_with_background
from medseg3d.data.doctor.salvage import find_whole_cases
from medseg3d.data.doctor.survey import Draw
from medseg3d.data.remedies import Change, Remedies
from medseg3d.data.repair import expect_fresh, repair
from medseg3d.errors import DataError, RunError
from medseg3d.progress import Progress

PAGE_NAME = "check.html"
OPTIONS = (
    *("resample_labels", "ignore_geometry", "label_map", "onehot"),
    *("replace_nonfinite", "resample_channels", "rounding_voxels"),
)
"""Options that are handed to the repair."""


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        examination: What every case holds, and the findings.
        changes: What was changed in the repaired copy, or would be.
        copy: The check of that copy, if one was made.
    """

    examination: Examination
    changes: tuple[Change, ...] = ()
    copy: "CheckReport | None" = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Errors first, then warnings and notes."""
        return self.examination.findings

    @property
    def is_sound(self) -> bool:
        """Whether the data set, or its repaired copy if there is one, is free of errors."""
        last = self if self.copy is None else self.copy
        return not last.examination.of(Severity.ERROR)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        dataset = self.examination.survey.dataset
        found: dict[str, Any] = {
            "data": str(dataset.root),
            "layout": dataset.layout,
            "num_cases": len(dataset.cases),
            "channels": None if dataset.channel_names is None else list(dataset.channel_names),
            "labels": {
                str(value): (dataset.label_names or {}).get(value)
                for value in self.examination.label_values
            },
            "counts": {str(kind): len(self.examination.of(kind)) for kind in Severity},
            "findings": [finding.as_dict() for finding in self.findings],
            "cases": [_case(facts) for facts in self.examination.survey.facts],
            "changes": [asdict(change) for change in self.changes],
        }
        return found if self.copy is None else found | {"copy": self.copy.as_dict()}


def check(data: Path | str | CheckConfig, **options: Any) -> CheckReport:
    """Examine a data set: structure, files, geometry, labels, intensities, duplicates.

    The originals are only read. A case that cannot be read does not stop the others.

    Args:
        data: The folder, or all options.
        **options: See :class:`medseg3d.config.CheckConfig`.

    Raises:
        ConfigError: If an option is wrong.
        DataError: If there is no such folder, or nothing in it that could be checked.
        RunError: If the page or the repaired copy cannot be written.
    """
    config = given(CheckConfig, "data", data, options)
    page = _page(config)
    if config.fix is not None and not config.dry_run:
        expect_fresh(config.fix, config.data)
        expect_writable([config.fix])
    examination = _examination(config, config.data, with_pictures=page is not None)
    changes: Sequence[Change] = ()
    copy = None
    if config.fix is not None or config.dry_run:
        changes = _repaired(config, examination)
    if config.fix is not None and not config.dry_run:
        copy = CheckReport(_examination(config, config.fix))
    if page is not None:
        from medseg3d.report.page import write_page

        write_page(page, examination, changes)
    return CheckReport(examination, tuple(changes), copy)


def _page(config: CheckConfig) -> Path | None:
    """Where the page goes; refused before the work if it cannot go there."""
    if config.html is None:
        return None
    is_file = config.html.suffix.lower() in (".html", ".htm")
    page = config.html if is_file else config.html / PAGE_NAME
    if page.exists() and not config.overwrite:
        raise RunError(f"{page} exists; add --overwrite to replace it, or name another file")
    expect_writable([page.parent])
    return page


def _examination(config: CheckConfig, root: Path, *, with_pictures: bool = False) -> Examination:
    draw: Draw | None = None
    if with_pictures:
        from medseg3d.report import pictures

        draw = pictures.draw
    dataset, faults = find_whole_cases(root)
    if not dataset.cases:
        raise DataError("; ".join(map(str, faults)))
    dataset = with_patients(dataset.ignoring(config.ignore_label), config.patients)
    with Progress("Checking", total=len(dataset.cases), unit="case") as bar:
        return examine(dataset, advance=bar.advance, draw=draw, known=faults)


def _repaired(config: CheckConfig, examination: Examination) -> Sequence[Change]:
    dataset = examination.survey.dataset
    remedies = Remedies(**{name: getattr(config, name) for name in OPTIONS})
    if config.onehot:
        remedies = replace(remedies, background_first=begin_with_background(dataset.cases))
    out = config.fix or Path()
    with Progress("Repairing", total=len(dataset.cases), unit="case") as bar:
        return repair(dataset, out, remedies, dry_run=config.dry_run, advance=bar.advance)


def _case(facts: CaseFacts) -> dict[str, Any]:
    return {
        "id": facts.case_id,
        "images": [str(path) for path in facts.case.images],
        "label_map": None if facts.case.labels is None else str(facts.case.labels),
        "patient": facts.case.patient,
        "shape": list(facts.grid.shape),
        "spacing": list(facts.grid.spacing),
        "orientation": facts.grid.orientation,
        "channels": [
            {"minimum": one.minimum, "maximum": one.maximum, "percentiles": list(one.percentiles)}
            for one in facts.channels
        ],
        "label_voxels": {str(value): count for value, count in facts.label_counts.items()},
        "label_means": {str(value): mean for value, mean in facts.label_means.items()},
        "label_sds": {str(value): sd for value, sd in facts.label_sds.items()},
        "digest": facts.digest,
    }
