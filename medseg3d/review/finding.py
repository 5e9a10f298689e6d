"""Which files belong to one case: an image, its prediction and, where there is one, a reference."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from medseg3d.data.cases import Case, find_inputs
from medseg3d.data.files import input_files, label_maps
from medseg3d.data.partners import Fault, by_id, common_keys, count, refuse, without_role
from medseg3d.errors import DataError
from medseg3d.io import case_stem
from medseg3d.review.volumes import CaseFiles

log = logging.getLogger("medseg3d")

UNCERTAINTY = "_uncertainty"
"""Ending of what prediction writes beside a label map and the page can show."""


def find_cases(
    predictions: Path,
    images: Sequence[Path] | Mapping[str, Case],
    references: Path | None = None,
    *,
    unusable: list[Fault],
) -> list[CaseFiles]:
    """The cases that have a prediction, each with its files.

    Args:
        predictions: A label map or a folder of them.
        images: Files and folders with the images, or the cases of a data set by id.
        references: A label map or a folder of them; those of the data set by default.
        unusable: Takes up predictions without an image that can be used, and images that were
            named and do not exist.

    Returns:
        Cases sorted by id. A prediction that is given as a file is paired with a single image
        and a single reference whatever their names.

    Raises:
        DataError: If a path does not exist or holds nothing usable, or nothing pairs.
    """
    faults: list[str] = []
    spoiled: list[Fault] = []
    volumes = label_maps(input_files(predictions, faults))
    ours = by_id([file for file in volumes if not case_stem(file).endswith(UNCERTAINTY)], faults)
    refuse(None, faults)
    theirs: dict[str, Path] = {}
    if isinstance(images, Mapping):
        cases = dict(images)
        theirs = {name: case.labels for name, case in cases.items() if case.labels is not None}
    else:
        cases = {case.id: case for case in find_inputs(images, unusable=spoiled)}
    images_given = {image.absolute() for case in cases.values() for image in case.images}
    ours = {name: file for name, file in ours.items() if file.absolute() not in images_given}
    if references is not None:
        theirs = by_id(input_files(references, faults), faults)
        refuse(None, faults)
    is_file = predictions.is_file()
    image_of = _partners(ours, cases, whatever=is_file)
    reference_of = _partners(ours, theirs, whatever=is_file)
    reasons = _reasons(ours.keys() - image_of.keys(), spoiled)
    if not image_of:
        refuse(None, list(reasons.values()))
        raise DataError(
            f"none of the {count(sorted(ours), 'prediction')} in {predictions} has an image of "
            f"its name; found {count(sorted(cases), 'image')}"
        )
    for name in sorted(ours.keys() - image_of.keys()):
        fault = reasons.get(name, Fault("has no image of its name", [name], ours[name]))
        unusable.append(Fault(fault, [name], fault.file))
    for fault in spoiled:
        if fault not in reasons.values():
            if fault.file in images and not fault.file.exists():
                unusable.append(fault)
            else:
                log.info("%s", fault)
    if left := len(cases) - len(image_of):
        log.info("%d of %d images have no prediction and are left out", left, len(cases))
    if theirs and (lacking := sorted(image_of.keys() - reference_of.keys())):
        log.warning("%s shown without a reference", count(lacking, "prediction"))
    return [
        CaseFiles(
            id=cases[image_of[name]].id,
            images=cases[image_of[name]].images,
            prediction=ours[name],
            reference=theirs[reference_of[name]] if name in reference_of else None,
            uncertainty=_beside(ours[name]),
            patient=cases[image_of[name]].patient,
        )
        for name in sorted(image_of, key=lambda name: cases[image_of[name]].id)
    ]


def _partners(
    ours: Mapping[str, object], theirs: Mapping[str, object], *, whatever: bool
) -> dict[str, str]:
    """The id on the other side that each of our ids means; ``whatever``: two alone are a pair."""
    if whatever and len(ours) == len(theirs) == 1:
        return dict(zip(ours, theirs, strict=True))
    our_keys, their_keys = common_keys(ours, theirs)
    return {name: their_keys[key] for key, name in our_keys.items() if key in their_keys}


def _reasons(lacking: Collection[str], faults: Iterable[Fault]) -> dict[str, Fault]:
    """What is wrong with the images of those predictions that have one."""
    found = {
        without_role(case): fault
        for fault in faults
        for case in (*fault.cases, case_stem(fault.file))
    }
    keys = {name: without_role(name) for name in sorted(lacking)}
    return {name: found[key] for name, key in keys.items() if key in found}


def _beside(prediction: Path) -> Path | None:
    """The uncertainty that was written beside a label map."""
    path = prediction.with_name(f"{case_stem(prediction)}{UNCERTAINTY}.nii.gz")
    return path if path.is_file() else None
