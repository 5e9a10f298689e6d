"""Checks of the set as a whole: labels, duplicates, folds and what a common spacing would do."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medseg3d.data.doctor import CHECKS
from medseg3d.data.doctor.facts import CaseFacts, Survey
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.doctor.outliers import FEWEST
from medseg3d.data.doctor.salvage import INCOMPLETE
from medseg3d.data.doctor.structures import Part, erased
from medseg3d.data.files import parts_of, volumes_in
from medseg3d.data.partners import count, some
from medseg3d.data.preprocess import working_shape
from medseg3d.data.sizes import target_spacing
from medseg3d.data.split import make_folds
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.types import Size3, Spacing

SPLITS = ("splits_final.json", "splits.json")
MOST_PARTS_SHOWN = 3


@CHECKS.register("no-foreground")
def no_foreground(survey: Survey) -> Iterator[Finding]:
    """A set without anything to learn."""
    counts = [facts.label_counts for facts in survey.labeled]
    if counts and not any(any(found) for found in counts):
        yield Finding(
            severity=Severity.ERROR,
            code="no-foreground",
            message=f"{survey.dataset.root}: no label map holds anything but background",
            fix="check that the label maps are the right files",
        )


@CHECKS.register("label-absent")
def absent_labels(survey: Survey) -> Iterator[Finding]:
    """Declared labels that no case has; no error while they may be in a label map at fault."""
    occurring = set().union(*(facts.label_counts for facts in survey.labeled))
    if occurring <= {0}:  # which another check tells
        return
    declared = survey.dataset.label_names or {}
    is_sure = len(survey.labeled) == len(survey.dataset.cases) and occurring <= declared.keys()
    for value, name in declared.items():
        if value not in occurring and value != 0:
            yield Finding(
                severity=Severity.ERROR if is_sure else Severity.WARNING,
                code="label-absent",
                message=f"label {value} ({name}) is declared but in no case",
                fix="remove it from dataset.json or add cases that have it"
                if is_sure
                else "correct the other label maps first",
            )


@CHECKS.register("label-in-one-fold")
def labels_of_one_fold(survey: Survey) -> Iterator[Finding]:
    """Labels that are missing from the training cases when their fold is held out."""
    folds = _folds(survey)
    declared = survey.dataset.label_names
    labels = {
        facts.case_id: {v for v in facts.label_counts if v and (declared is None or v in declared)}
        for facts in survey.labeled
    }
    for value in sorted(set().union(*labels.values())):
        cases = [case for case, found in labels.items() if value in found]
        homes = {folds.get(case) for case in cases}
        if len(homes) == 1 and None not in homes:
            yield Finding(
                severity=Severity.WARNING,
                code="label-in-one-fold",
                message=f"{survey.label(value)} is only in {count(cases, 'case')}, "
                f"{'all in' if len(cases) > 1 else 'in'} fold {homes.pop()}; a run that holds out "
                "this fold cannot learn it",
            )


@CHECKS.register("image-duplicate")
def duplicates(survey: Survey) -> Iterator[Finding]:
    """The same image under several ids."""
    patients = {case.id: case.patient for case in survey.dataset.cases}
    folds = _folds(survey)
    by_digest: dict[str, list[str]] = {}
    for facts in survey.facts:
        by_digest.setdefault(facts.digest, []).append(facts.case_id)
    for cases in by_digest.values():
        if len(cases) < 2:
            continue
        several = len({patients[case] for case in cases}) > 1
        homes = sorted({folds[case] for case in cases if case in folds})
        where = f", now in folds {', '.join(map(str, homes))}" if len(homes) > 1 else ""
        yield Finding(
            severity=Severity.WARNING if several else Severity.NOTE,
            code="image-duplicate",
            message=f"cases {some(cases)} have the same image"
            + (f" and may leak between folds{where}" if several else ""),
            fix="keep one of them" if several else None,
        )


@CHECKS.register("few-patients")
def few_patients(survey: Survey) -> Iterator[Finding]:
    """Too few patients for the folds."""
    patients = {case.patient for case in survey.dataset.cases}
    if len(patients) < survey.folding.count:
        count = f"{len(patients)} patient{'' if len(patients) == 1 else 's'}"
        severity, cannot, fix = Severity.WARNING, f"fit makes {survey.folding.count} folds", None
        if len(patients) < 2:
            severity, cannot = Severity.ERROR, "fit needs two, to hold one out"
            fix = "add patients, or tell them apart with --set patients=CSV"
        yield Finding(
            severity=severity,
            code="few-patients",
            message=f"{survey.dataset.root} holds cases of {count}; {cannot}",
            fix=fix,
        )


@CHECKS.register("few-cases")
def few_cases(survey: Survey) -> Iterator[Finding]:
    """Too few cases to tell what is usual, so that no outlier is looked for."""
    if 0 < len(survey.facts) < FEWEST:
        number = len(survey.facts)
        yield Finding(
            severity=Severity.NOTE,
            code="few-cases",
            message=f"{number} case{'' if number == 1 else 's'} could be read; outliers are looked "
            f"for from {FEWEST} on",
        )


@CHECKS.register("patient-in-two-folds")
def given_splits(survey: Survey) -> Iterator[Finding]:
    """A file of splits, as nnU-Net writes it, that puts a patient on both sides."""
    patients = {case.id: case.patient for case in survey.dataset.cases}
    for path in (survey.dataset.root / name for name in SPLITS):
        for fold, part in enumerate(_splits(path) if path.is_file() else []):
            sides = [set(part.get(side, ())) for side in ("train", "val")]
            whom = [{patients.get(case, case) for case in side} for side in sides]
            both = sorted(whom[0] & whom[1])
            if both:
                yield Finding(
                    severity=Severity.WARNING,
                    code="patient-in-two-folds",
                    file=path,
                    message=f"{path}: fold {fold} trains on and validates {count(both, 'patient')}",
                    fix="move all cases of a patient to one side",
                )
            unknown = sorted((sides[0] | sides[1]) - patients.keys())
            if unknown:
                yield Finding(
                    severity=Severity.WARNING,
                    code="split-unknown-case",
                    file=path,
                    message=f"{path}: fold {fold} names {count(unknown, 'case')} that do not exist",
                )


@CHECKS.register("file-unused")
def unused_files(survey: Survey) -> Iterator[Finding]:
    """Volumes beside those of the cases that belong to no case."""
    cases = survey.dataset.cases
    named = [file for case in cases for file in (*case.images, case.labels) if file is not None]
    used = {part.absolute() for file in named for part in (file, *parts_of(file))}
    folders = sorted({file.parent for file in named})
    unused = [
        file for folder in folders for file in volumes_in(folder, []) if file.absolute() not in used
    ]
    if unused and survey.dataset.layout != INCOMPLETE:  # else they are told already
        names = [str(file.relative_to(survey.dataset.root)) for file in unused]
        yield Finding(
            severity=Severity.WARNING,
            code="file-unused",
            message=f"no case has {count(names, 'file')}, beside those of the cases",
        )


@CHECKS.register("structure-erased")
def erased_structures(survey: Survey) -> Iterator[Finding]:
    """Structures so small that the spacing of the working grid leaves nothing of them."""
    if not survey.facts:
        return
    measured, _ = target_spacing([facts.grid.canonical().spacing for facts in survey.facts])
    target = survey.spacing or measured
    chosen = "fit would choose" if survey.spacing is None else "are given"
    if min(target) <= 0:  # rounded away, which another check tells
        return
    for facts in survey.facts:
        shape = _shape(facts)
        try:
            new = working_shape(shape, facts.grid.spacing, _in_order(target, facts.grid))
        except DataError as error:
            yield facts.about_image(Severity.ERROR, "size-absurd", str(error))
            continue
        if survey.holds_image(facts):
            continue
        lost = erased(facts.parts, shape, new)
        for value in sorted({part.label for part in lost}):
            parts = [part for part in lost if part.label == value]
            voxels = sum(part.voxels for part in parts)
            places = [str(_place(facts, part)) for part in parts]
            whole = voxels == facts.label_counts[value]
            specks = not whole and all(part.voxels == 1 for part in parts)
            yield facts.about_labels(
                Severity.NOTE if specks else Severity.WARNING,
                "structure-erased",
                f"{len(parts)} part{'s' if len(parts) > 1 else ''} of {survey.label(value)} with "
                f"{voxels} voxel{'s' if voxels > 1 else ''} in all, at voxel "
                f"{some(places, most=MOST_PARTS_SHOWN)}, would vanish at the "
                f"{_mm(target)} that {chosen}"
                + (", and with it all of the label in this case" if whole else ""),
                "remove specks that are not meant, or fit with a finer spacing (--set spacing=...)",
            )


def _folds(survey: Survey) -> dict[str, str]:
    """Fold by case id, as fit deals them."""
    folding = survey.folding
    if folding.given is not None:
        return dict(folding.given)
    try:
        labels_of = {facts.case_id: facts.label_counts.keys() - {0} for facts in survey.facts}
        cases = [case for case in survey.dataset.cases if case.labels is not None]
        folds = make_folds(cases, folds=folding.count, seed=folding.seed, labels_of=labels_of)
    except DataError:
        return {}
    return {case: str(fold) for fold, cases in enumerate(folds) for case in cases}


def _splits(path: Path) -> list[dict[str, list[str]]]:
    """Case ids by side for each fold of a file of splits; what is no such file is left alone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return []
    folds = content if isinstance(content, list) else []
    return [
        {side: [str(case) for case in cases] for side, cases in fold.items()}
        for fold in folds
        if isinstance(fold, dict) and all(isinstance(cases, list) for cases in fold.values())
    ]


def _shape(facts: CaseFacts) -> Size3:
    """Voxels of the box that is resampled."""
    i, j, k = (
        len(range(*part.indices(length)))
        for part, length in zip(facts.box, facts.grid.shape, strict=True)
    )
    return i, j, k


def _in_order(target: Spacing, grid: Grid) -> Spacing:
    """A spacing in RAS order along the axes of the grid as stored."""
    i, j, k = (target[int(axis)] for axis in grid.steps()[:, 0])
    return i, j, k


def _place(facts: CaseFacts, part: Part) -> tuple[int, ...]:
    """First voxel of a part in the file of the image."""
    first = np.argwhere(part.inside)[0] + part.start
    return tuple(int(index) + (box.start or 0) for index, box in zip(first, facts.box, strict=True))


def _mm(spacing: Spacing) -> str:
    return " x ".join(f"{edge:.4g}" for edge in spacing) + " mm"
