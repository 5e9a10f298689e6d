"""Checks of label maps: values, sizes and whether they fit their images."""

import re
from collections import Counter
from collections.abc import Iterator
from math import log

from medseg3d.data.doctor import CHECKS
from medseg3d.data.doctor.facts import CaseFacts, Survey
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.doctor.outliers import outliers
from medseg3d.data.doctor.reading import COPY
from medseg3d.data.partners import some

MOST_VALUES_SHOWN = 10
SEPARATORS = re.compile(r"[\W_]+")
NO_NAME = re.compile(r"(?:segment|label)\d*")
"""What programs call segments that nobody named."""

LEAST_MEAN, LEAST_SD = 0.25, 0.15
"""Differences in quartile ranges of the image that may be an outlier."""


@CHECKS.register("label-undeclared")
def undeclared_values(survey: Survey) -> Iterator[Finding]:
    """Label values that dataset.json does not name."""
    declared = survey.dataset.label_names
    if declared is None:
        return
    known = some([str(value) for value in sorted(declared)], most=MOST_VALUES_SHOWN)
    for facts in survey.labeled:
        strange = [
            f"{value} ({count} voxel{'' if count == 1 else 's'})"
            for value, count in facts.label_counts.items()
            if value not in declared
        ]
        if not strange:
            continue
        file = facts.case.labels
        message = (
            f"label map {file} holds undeclared values "
            f"{some(strange, most=MOST_VALUES_SHOWN)}, declared are {known}"
        )
        if facts.label_counts.keys() <= {0, 255} and 1 in declared:
            remedy = f"map 255 to 1 ({COPY} --map 255=1)"
        else:
            unknown = sorted(facts.label_counts.keys() - declared.keys())
            missing = sorted(declared.keys() - facts.label_counts.keys() - {0})
            meant = str(missing[0]) if len(unknown) == len(missing) == 1 else "VALUE"
            remedy = (
                "declare the values in dataset.json or map them to declared ones "
                f"({COPY} --map {unknown[0]}={meant})"
            )
        yield facts.about_labels(Severity.ERROR, "label-undeclared", message, remedy)


@CHECKS.register("label-is-image")
def images_as_labels(survey: Survey) -> Iterator[Finding]:
    """An image where the label map should be."""
    for facts in survey.facts:
        if survey.holds_image(facts):
            what = "is a copy of the image" if facts.is_image else "looks like an image"
            values = some([str(value) for value in facts.label_counts], most=MOST_VALUES_SHOWN)
            message = (
                f"label map {facts.case.labels} {what}: it holds {len(facts.label_counts)} values "
                f"({values})"
            )
            yield facts.about_labels(
                Severity.ERROR, "label-is-image", message, "put the label map in its place"
            )


@CHECKS.register("label-255")
def masks_of_255(survey: Survey) -> Iterator[Finding]:
    """Masks of 0 and 255 where nothing says what 255 is, or other label maps have small values."""
    if survey.dataset.label_names is not None:
        return
    masks = [facts for facts in survey.labeled if 255 in facts.label_counts.keys() <= {0, 255}]
    small = [facts for facts in survey.labeled if 0 < max(facts.label_counts) < 255]
    values = sorted(set().union(*(facts.label_counts for facts in small)) - {0})
    severity, others = Severity.WARNING, "; fit would learn the value 255 as it is"
    remedy = f"map 255 to 1 ({COPY} --map 255=1)"
    if small:
        severity = Severity.ERROR
        shown = some([str(value) for value in values], most=MOST_VALUES_SHOWN)
        others = f", but other label maps hold {shown}"
        meant = str(values[0]) if len(values) == 1 else "VALUE"
        remedy = f"map 255 to the label that it stands for ({COPY} --map 255={meant})"
    for facts in masks:
        message = f"label map {facts.case.labels} holds 0 and 255{others}"
        yield facts.about_labels(severity, "label-255", message, remedy)


@CHECKS.register("label-names")
def clashing_names(survey: Survey) -> Iterator[Finding]:
    """Names within label maps that stand for other values in other cases.

    3D Slicer numbers segments in the order in which they were drawn.
    """
    values_of: dict[str, dict[int, CaseFacts]] = {}
    names_of: dict[int, dict[str, CaseFacts]] = {}
    in_parts: set[str] = set()  # as of several lymph nodes
    for facts in survey.labeled:
        names = {value: _plain(name) for value, name in facts.label_names.items() if value != 0}
        for value, name in names.items():
            if name and not NO_NAME.fullmatch(name):
                values_of.setdefault(name, {}).setdefault(value, facts)
                names_of.setdefault(value, {}).setdefault(name, facts)
        in_parts |= {name for name, times in Counter(names.values()).items() if times > 1}
    moved = {name for name, cases in values_of.items() if len(cases) > 1} - in_parts
    for name in sorted(moved):
        (value, one), (other_value, other) = list(values_of[name].items())[:2]
        yield Finding(
            severity=Severity.ERROR,
            code="label-names",
            message=f"{one.label_names[value]!r} is label {value} in case {one.case_id} and label "
            f"{other_value} in case {other.case_id}, as their label maps name it",
            fix="give each structure the same value in all cases",
        )
    for value, cases in sorted(names_of.items()):
        if len(cases) > 1 and not moved & cases.keys():
            one, other = list(cases.values())[:2]
            yield Finding(
                severity=Severity.WARNING,
                code="label-names",
                message=f"label {value} is named {one.label_names[value]!r} in case {one.case_id} "
                f"and {other.label_names[value]!r} in case {other.case_id}; fit takes both for one",
            )


def _plain(name: str) -> str:
    """A name without letter case and separators."""
    return SEPARATORS.sub("", name).casefold()


@CHECKS.register("label-empty")
def empty_label_maps(survey: Survey) -> Iterator[Finding]:
    """Label maps without any label."""
    for facts in survey.labeled:
        if facts.label_counts.keys() == {0}:
            message = f"label map {facts.case.labels} holds background only"
            yield facts.about_labels(Severity.WARNING, "label-empty", message)


@CHECKS.register("label-full")
def full_label_maps(survey: Survey) -> Iterator[Finding]:
    """Label maps without background."""
    for facts in survey.labeled:
        if 0 not in facts.label_counts:
            message = f"label map {facts.case.labels} holds no background"
            yield facts.about_labels(Severity.WARNING, "label-full", message)


@CHECKS.register("label-turned")
def turned_label_maps(survey: Survey) -> Iterator[Finding]:
    """Label maps stored in another order of axes; they are turned when read."""
    for facts in survey.labeled:
        if facts.is_turned:
            message = (
                f"label map {facts.case.labels} is stored in another order of axes "
                "than the image, with an affine that says so; it is turned when it is read"
            )
            remedy = f"{COPY} stores it like the image, for programs that do not"
            yield facts.about_labels(Severity.NOTE, "label-turned", message, remedy)


@CHECKS.register("label-intensity-outlier")
def odd_intensities(survey: Survey) -> Iterator[Finding]:
    """The image under a label is brighter, darker or more mixed than in other cases.

    A label map that is mirrored, or of another scan, has an affine that fits nevertheless.
    """
    for value in _foreground(survey):
        means, sds = {}, {}
        for facts in survey.labeled:
            _, lower, middle, upper, _ = facts.channels[0].percentiles
            if value in facts.label_means and upper > lower:
                means[facts.case_id] = (facts.label_means[value] - middle) / (upper - lower)
                sds[facts.case_id] = facts.label_sds[value] / (upper - lower)
        odd = outliers(means, least=LEAST_MEAN) | outliers(sds, least=LEAST_SD)
        for facts in survey.labeled:
            if facts.case_id in odd:
                message = (
                    f"the image has a mean of {facts.label_means[value]:.4g} with a standard "
                    f"deviation of {facts.label_sds[value]:.4g} in {survey.label(value)}, unlike "
                    "most other cases; is the label map mirrored, or of another scan?"
                )
                yield facts.about_labels(Severity.WARNING, "label-intensity-outlier", message)


@CHECKS.register("label-volume-outlier")
def odd_volumes(survey: Survey) -> Iterator[Finding]:
    """A label much larger or smaller than in other cases."""
    for value in _foreground(survey):
        volumes = {
            facts.case_id: facts.label_counts[value] * facts.grid.voxel_volume_ml
            for facts in survey.labeled
            if facts.label_counts.get(value)
        }
        odd = outliers({case: log(volume) for case, volume in volumes.items()}, least=log(3))
        for facts in survey.labeled:
            if facts.case_id in odd:
                message = (
                    f"{survey.label(value)} has {volumes[facts.case_id]:.4g} mL, unlike most "
                    "other cases"
                )
                yield facts.about_labels(Severity.WARNING, "label-volume-outlier", message)


def _foreground(survey: Survey) -> list[int]:
    return sorted(set().union(*(facts.label_counts for facts in survey.labeled)) - {0})
