"""The whole cases of a folder that has others without partners."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from medseg3d.data.cases import Case, Dataset, patient_of
from medseg3d.data.channels import CHANNEL
from medseg3d.data.dataset_json import FILE_NAME, Description, read_description
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.files import expect_folder, subfolders, volumes_in
from medseg3d.data.layouts import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    as_declared,
    find_cases,
    is_label_file,
)
from medseg3d.data.partners import by_id, common_keys
from medseg3d.errors import DataError
from medseg3d.io import case_stem

INCOMPLETE = "incomplete"
"""Layout of what is left of a folder that was refused."""


def find_whole_cases(root: Path) -> tuple[Dataset, tuple[Finding, ...]]:
    """The cases of a folder, and what is wrong with its structure.

    Where :func:`~medseg3d.data.layouts.find_cases` refuses the folder, the cases that have all
    their files are found nevertheless.

    Raises:
        DataError: If there is no such folder.
    """
    expect_folder(root)
    try:
        return find_cases(root), ()
    except DataError as error:
        finding = Finding(severity=Severity.ERROR, code="structure", message=str(error))
    description = Description(root / FILE_NAME)
    try:
        if description.path.is_file():
            description = read_description(description.path)
    except DataError:
        pass
    try:
        in_order = description.channel_names
        cases = _listed(description) or _paired(root) or _in_folders(root, in_order)
    except DataError:
        cases = []
    whole = sorted(_with_distinct_ids(cases), key=lambda case: case.id)
    labels, channels = description.label_names, description.channel_names
    found = tuple(whole)
    dataset = Dataset(root, INCOMPLETE, found, labels, channels, description.ignore_label)
    return dataset, (finding,)


def _listed(description: Description) -> list[Case]:
    return [
        Case(case_stem(label), images, label, patient_of(case_stem(label)))
        for images, label in description.training
        if label.exists() and all(image.exists() for image in images)
    ]


def _paired(root: Path) -> list[Case]:
    """Images and label maps in two folders; the most common channels count as all."""
    folders = {folder.name.lower(): folder for folder in subfolders(root)}
    image_folder = next((folders[name] for name in IMAGE_FOLDERS if name in folders), None)
    label_folder = next((folders[name] for name in LABEL_FOLDERS if name in folders), None)
    if image_folder is None or label_folder is None:
        return []
    labels = by_id(volumes_in(label_folder, []), [])
    images: dict[str, dict[str, Path]] = {}
    for file in volumes_in(image_folder, []):
        stem = case_stem(file)
        match = None if stem in labels else CHANNEL.fullmatch(stem)
        case_id, channel = (match[1], match[2]) if match else (stem, "")
        images.setdefault(case_id, {})[channel] = file
    image_keys, label_keys = common_keys(images, labels)
    found = [
        (key, images[name], labels[label_keys[key]])
        for key, name in image_keys.items()
        if key in label_keys
    ]
    return list(_with_all_channels(found))


def _in_folders(root: Path, declared: Sequence[str] | None) -> list[Case]:
    """One folder per patient, with one label map and the channels that most have."""
    found = []
    for folder in subfolders(root):
        files = volumes_in(folder, [])
        labels = [file for file in files if is_label_file(file)]
        images = [file for file in files if file not in labels]
        if len(labels) == 1 and images:
            by_name = {case_stem(file).removeprefix(folder.name): file for file in images}
            found.append((folder.name, by_name, labels[0]))
    return list(_with_all_channels(found, declared))


def _with_all_channels(
    found: list[tuple[str, dict[str, Path], Path]], declared: Sequence[str] | None = None
) -> Iterator[Case]:
    numbers = Counter(tuple(sorted(images)) for _, images, _ in found)
    usual = numbers.most_common(1)[0][0] if numbers else ()
    ordered = as_declared(usual, declared) or usual
    for case_id, images, label in found:
        if tuple(sorted(images)) == usual:
            files = tuple(images[channel] for channel in ordered)
            yield Case(case_id, files, label, patient_of(case_id))


def _with_distinct_ids(cases: list[Case]) -> list[Case]:
    """Without those whose id is there twice, if only in other letters."""
    ids = Counter(case.id.casefold() for case in cases)
    return [case for case in cases if ids[case.id.casefold()] == 1]
