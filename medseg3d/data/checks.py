"""Reading every case once before training, and telling all that is wrong with them at once."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

from medseg3d.data.cases import Dataset
from medseg3d.data.doctor import CHECKS
from medseg3d.data.doctor.facts import AS_FIT_DEALS, Folding, Survey
from medseg3d.data.doctor.findings import Finding, Severity, condensed, ranked, summary
from medseg3d.data.doctor.survey import Draw, survey
from medseg3d.data.partners import some
from medseg3d.errors import DataError
from medseg3d.types import Spacing

LOGGER = logging.getLogger("medseg3d")
MOST_CASES_SHOWN = 50


@dataclass(frozen=True)
class Examination:
    """What every case holds and what is to be said about it.

    Attributes:
        survey: What was measured.
        findings: Errors first, then warnings and notes.
    """

    survey: Survey
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings that are as bad as that."""
        return tuple(finding for finding in self.findings if finding.severity is severity)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Label values that occur in any case, sorted, background included."""
        return tuple(sorted(set().union(*(facts.label_counts for facts in self.survey.labeled))))


def examine(
    dataset: Dataset,
    *,
    folding: Folding = AS_FIT_DEALS,
    spacing: Spacing | None = None,
    advance: Callable[[], None] | None = None,
    draw: Draw | None = None,
    known: Iterable[Finding] = (),
) -> Examination:
    """Read every case and let every check look at what was found.

    Args:
        dataset: The cases.
        folding: How the set is to be split.
        spacing: Of the working grid in mm; None for that which fit would choose.
        advance: Called after each case.
        draw: Makes a picture of each case.
        known: Findings that are there already.
    """
    found = survey(
        dataset,
        folding=folding,
        spacing=spacing,
        advance=advance,
        draw=draw,
    )
    checked = chain.from_iterable(CHECKS[name](found) for name in CHECKS)
    return Examination(found, ranked(chain(known, found.faults, checked)))


def check_cases(
    dataset: Dataset,
    *,
    folding: Folding = AS_FIT_DEALS,
    spacing: Spacing | None = None,
    advance: Callable[[], None] | None = None,
) -> Examination:
    """Read and check every case, as ``medseg3d check`` does, and log the warnings.

    Args:
        dataset: Labeled cases.
        folding: How the set is to be split.
        spacing: Of the working grid in mm; None for that which fit would choose.
        advance: Called after each case.

    Returns:
        What the cases hold, none of it an error.

    Raises:
        DataError: Listing every error, one line each.
    """
    examination = examine(
        dataset,
        folding=folding,
        spacing=spacing,
        advance=advance,
    )
    errors = examination.of(Severity.ERROR)
    if len(errors) == 1:
        raise DataError(str(errors[0]))
    if errors:
        cases = {finding.case for finding in errors if finding.case is not None}
        head = f"{len(errors)} errors"
        if cases:
            head = f"{len(cases)} of {len(dataset.cases)} cases cannot be used"
        lines = some([str(finding) for finding in errors], "\n", MOST_CASES_SHOWN)
        raise DataError(f"{head}:\n{lines}")
    for warning in condensed(examination.of(Severity.WARNING)):
        LOGGER.warning("%s", summary(warning))
    return examination
