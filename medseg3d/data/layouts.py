"""Labelled cases below a folder, recognised in the layouts that people use.

Nothing is converted or moved, and no voxel is read. Partners that are missing are reported
all at once.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medseg3d.data.cases import Case, Dataset, case_of, patient_of
from medseg3d.data.channels import by_channel, common_channels, expect_all_channels, firsts, group
from medseg3d.data.dataset_json import FILE_NAME, Description, description_in
from medseg3d.data.files import (
    LOOKED_FOR,
    deeper_series,
    expect_folder,
    is_segmentation,
    is_there,
    results_among,
    subfolders,
    volumes_in,
    warn_of,
    without_reports,
)
from medseg3d.data.partners import (
    LOGGER,
    by_id,
    common_keys,
    count,
    expect_distinct,
    expect_partners,
    refuse,
    some,
    without_role,
)
from medseg3d.errors import DataError
from medseg3d.io import SUFFIXES, case_stem, read_grid

IMAGE_FOLDERS = ("imagestr", "images", "image", "imgs", "img")
LABEL_FOLDERS = (
    *("labelstr", "labels", "label", "masks", "mask", "segs", "seg"),
    *("segmentations", "segmentation"),
)
OTHER_FOLDERS = ("imagests", "labelsts")
SEPARATORS = str.maketrans("", "", "_-. ")
"""Characters of a channel's name that say nothing."""
LABEL_FILE = re.compile(
    r"(?P<start>(?:.*[_ .-])?)(?:seg|segmentation|labels?|masks?|gt)", re.IGNORECASE
)


def find_cases(
    root: Path | str, *, skip_unpaired: bool = False, unlabeled: bool = False
) -> Dataset:
    """Find the labelled cases below a folder.

    Args:
        root: Folder in one of these layouts: ``images/`` + ``labels/``, nnU-Net raw
            (``imagesTr``, ``case_0000.nii.gz``), MSD (``dataset.json`` with ``training``
            pairs), or one folder per patient (``P1/ct.nii.gz``, ``P1/seg.nii.gz``).
        skip_unpaired: Leave out, with a warning, images without a label map and the reverse,
            whatever channels they have.
        unlabeled: Take images without a label map as cases without labels, except where
            ``dataset.json`` lists pairs.

    Returns:
        The cases, each with images and a label map.

    Raises:
        DataError: If there is no such folder or no cases in it, or naming all partners that
            are missing and all ids that clash.
    """
    root = expect_folder(Path(root))
    description = description_in(root)
    folders = _image_and_label_folders(root)
    if description.training and not (folders and _lists_stems_of_channels(description)):
        return _listed(root, description, skip_unpaired)
    if folders:
        return _paired(root, *folders, description, skip_unpaired, unlabeled)
    return _patient_folders(root, description, skip_unpaired, unlabeled)


def _listed(root: Path, description: Description, skip_unpaired: bool) -> Dataset:
    """Cases that ``dataset.json`` lists."""
    faults: list[str] = []
    pairs = description.training
    whole = [(images, label) for images, label in pairs if _is_pair(images, label)]
    if skip_unpaired and 0 < len(whole) < len(pairs):
        names = [case_stem(pair[1]) for pair in pairs if pair not in whole]
        told = count(names, "pair")
        LOGGER.warning("%s of %s left out, since a file is missing", told, FILE_NAME)
        pairs = tuple(whole)
    named = [file for images, label in pairs for file in (*images, label)]
    missing = sorted({str(file) for file in named if not is_there(file)})
    if missing:
        remedy = ", or give --skip-unpaired" if 0 < len(whole) < len(pairs) else ""
        faults.append(
            f"{FILE_NAME} names {count(missing, 'file')} that do not exist; add or remove{remedy}"
        )
    listed = by_id([label for _, label in pairs], faults)
    refuse(root, faults)
    images = {label: images for images, label in pairs}
    cases = [
        Case(case_id, images[label], label, patient_of(case_id))
        for case_id, label in listed.items()
    ]
    return _dataset(root, "MSD, listed in dataset.json", cases, description)


def _is_pair(images: Iterable[Path], label: Path) -> bool:
    """Whether there is a label map and anything to label; a lacking channel is told later."""
    return is_there(label) and any(map(is_there, images))


def _paired(
    root: Path,
    image_folder: Path,
    label_folder: Path,
    description: Description,
    skip_unpaired: bool,
    unlabeled: bool,
) -> Dataset:
    """Images in one folder, label maps of the same names in another."""
    faults: list[str] = []
    images, labels = volumes_in(image_folder, faults), volumes_in(label_folder, faults)
    if results := results_among(images):
        told = count([file.name for file in results], "label map")
        LOGGER.warning("%s left out of %s", told, image_folder)
        images = [file for file in images if file not in results]
    for folder, files in ((image_folder, images), (label_folder, labels)):
        warn_of(folder, deeper_series(folder, files))
        if not files:
            faults.append(
                f"{folder} holds no file with a suffix of {', '.join(SUFFIXES)} and no DICOM series"
            )
    refuse(None, faults)
    label_files = by_id(labels, faults)
    label_ids = {*label_files, *map(without_role, label_files)}
    grouped = group(images, faults, label_ids)
    image_keys, label_keys = common_keys(grouped, label_files)
    kept = grouped
    if skip_unpaired and not unlabeled:
        kept = {name: grouped[name] for key, name in image_keys.items() if key in label_keys}
    expect_all_channels(kept, description.channel_names, faults)
    paired = {key: image_keys[key] for key in image_keys if key in label_keys or not unlabeled}
    expect_partners(paired, label_keys, ("image", "label map"), faults, skip=skip_unpaired)
    refuse(root, faults)
    labels_of = {key: label_files[name] for key, name in label_keys.items()}
    cases = [
        case_of(key, grouped[name], labels_of.get(key))
        for key, name in image_keys.items()
        if key in labels_of or unlabeled
    ]
    layout = "nnU-Net" if image_folder.name.lower() == "imagestr" else "images and labels"
    return _dataset(
        root, f"{layout}, {image_folder.name} + {label_folder.name}", cases, description
    )


def _patient_folders(
    root: Path, description: Description, skip_unpaired: bool, unlabeled: bool
) -> Dataset:
    """One folder per patient, with the label map beside the images."""
    deeper = _datasets_in(root)
    if deeper:
        names = [folder.name for folder in deeper]
        raise DataError(
            f"{root} holds no labelled cases itself but {count(names, 'data set')}; "
            f"did you mean {deeper[0]}?"
        )
    faults: list[str] = []
    only_pairs = skip_unpaired and not unlabeled
    named = (*IMAGE_FOLDERS, *LABEL_FOLDERS, *OTHER_FOLDERS)
    images: dict[str, dict[str, Path]] = {}
    labels: dict[str, Path] = {}
    for folder in subfolders(root):
        files = [] if folder.name.lower() in named else volumes_in(folder, faults)
        files = without_reports(folder, files)
        label_files = [file for file in files if is_label_file(file)]
        if len(label_files) > 1:
            marks = ", ".join(file.name for file in label_files)
            faults.append(
                f"{folder.name} has {len(label_files)} label maps ({marks}), expected one"
            )
        marked = [LABEL_FILE.fullmatch(case_stem(file)) for file in label_files]
        starts = [folder.name, *(match["start"] for match in marked if match)]
        rest = [file for file in files if file not in label_files]
        if rest:
            of_channels: list[str] = [] if only_pairs and not label_files else faults
            images[folder.name] = by_channel(folder, rest, starts, of_channels)
        if label_files:
            labels[folder.name] = label_files[0]
    if not labels:
        raise _no_cases(root, images)
    expect_distinct(firsts(images), faults)
    kept = {name: files for name, files in images.items() if name in labels or not only_pairs}
    channels = common_channels(kept, faults)
    expect_partners(
        {name: name for name in images if name in labels or not unlabeled},
        {name: name for name in labels},
        ("image", "label map"),
        faults,
        skip=skip_unpaired,
    )
    refuse(root, faults)
    declared = description.channel_names
    if channels and len(channels) > 1:
        ordered = as_declared(channels, declared)
        if ordered is None:  # how many there must be is told later
            LOGGER.warning(
                "%s names the channels %s and the files of each patient are called %s; they are "
                "paired in this order, so use the same names in both if that is wrong",
                *(root / FILE_NAME, some(declared or ()), some(channels)),
            )
        channels = ordered or channels
    cases = [
        Case(name, tuple(files[c] for c in channels or files), labels.get(name), patient_of(name))
        for name, files in images.items()
        if name in labels or unlabeled
    ]
    if declared is None and channels and (len(channels) > 1 or not _holds_channels(cases[0])):
        description = replace(description, channel_names=channels)
    return _dataset(root, "one folder per patient", cases, description)


def is_label_file(file: Path) -> bool:
    """Whether a file among the images of a patient is the label map, by its name or format."""
    return LABEL_FILE.fullmatch(case_stem(file)) is not None or is_segmentation(file)


def as_declared(found: Collection[str], declared: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names that files give to channels, in the order in which they are declared, or sorted.

    Letter case and separators do not matter.

    Returns:
        The names as the files have them, None if others are declared.

    Examples:
        >>> as_declared(["flair", "t1"], ["T1", "FLAIR"]), as_declared(["flair", "t1"], ["T1"])
        (('t1', 'flair'), None)
    """
    if declared is None:
        return tuple(sorted(found))
    known = {_bare(name): name for name in found}
    wanted = [_bare(name) for name in declared]
    if known.keys() != set(wanted) or not len(known) == len(wanted) == len(found):
        return None
    return tuple(known[name] for name in wanted)


def _bare(name: str) -> str:
    return name.translate(SEPARATORS).casefold()


def _holds_channels(case: Case) -> bool:
    """Whether the file of a case, not a series, holds several channels that nothing names."""
    file = case.images[0]
    try:
        return file.is_file() and read_grid(file)[1] > 1
    except (DataError, OSError):  # told of when it is read
        return False


def _dataset(root: Path, layout: str, cases: Iterable[Case], description: Description) -> Dataset:
    ordered = tuple(sorted(cases, key=lambda case: case.id))
    names, channels = description.label_names, description.channel_names
    return Dataset(root, layout, ordered, names, channels, description.ignore_label)


def _image_and_label_folders(root: Path) -> tuple[Path, Path] | None:
    folders = {folder.name.lower(): folder for folder in subfolders(root)}
    images = [folders[name] for name in IMAGE_FOLDERS if name in folders]
    labels = [folders[name] for name in LABEL_FOLDERS if name in folders]
    if not images:
        return None
    if not labels:
        raise DataError(
            f"{images[0]} has no folder of label maps beside it; expected one of labels, masks, "
            "segs, segmentations or labelsTr"
        )
    return images[0], labels[0]


def _lists_stems_of_channels(description: Description) -> bool:
    """Whether listed images exist only as ``case_0000``, as in nnU-Net's older files."""
    return any(
        not image.exists() and (image.parent / f"{case_stem(image)}_0000{_suffix(image)}").exists()
        for images, _ in description.training
        for image in images
    )


def _suffix(path: Path) -> str:
    return path.name[len(case_stem(path)) :]


def _no_cases(root: Path, images: Collection[str]) -> DataError:
    if images:
        return DataError(
            f"{root}: {count(sorted(images), 'folder')} with images, but none with a label map; "
            "expected a *seg, *label, *mask or .seg.nrrd file in each"
        )
    return DataError(f"{root} holds no labelled cases; looked for {LOOKED_FOR}")


def _datasets_in(root: Path) -> list[Path]:
    """Subfolders that look like data sets of their own."""
    return [
        folder
        for folder in subfolders(root)
        if (folder / FILE_NAME).is_file()
        or any(sub.name.lower() in IMAGE_FOLDERS for sub in subfolders(folder))
    ]
