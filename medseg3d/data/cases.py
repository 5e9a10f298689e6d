"""Finding cases: which files belong together, recognised in the layouts that people use.

Nothing is converted or moved, and no voxel is read. Partners that are missing are reported
all at once.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.data.dataset_json import FILE_NAME, Description, read_description
from medseg3d.data.files import (
    LOOKED_FOR,
    deeper_series,
    expect_folder,
    input_files,
    is_segmentation,
    is_there,
    subfolders,
    volumes_in,
    warn_of,
    without_reports,
)
from medseg3d.data.partners import (
    Fault,
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
from medseg3d.io import SUFFIXES, case_stem

IMAGE_FOLDERS = ("imagestr", "images", "image", "imgs", "img")
LABEL_FOLDERS = (
    *("labelstr", "labels", "label", "masks", "mask", "segs", "seg"),
    *("segmentations", "segmentation"),
)
OTHER_FOLDERS = ("imagests", "labelsts")
CHANNEL = re.compile(r"(.+)_(\d{4})")
LABEL_FILE = re.compile(
    r"(?P<start>(?:.*[_ .-])?)(?:seg|segmentation|labels?|masks?|gt)", re.IGNORECASE
)
BIDS_PATIENT = re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?")
VISIT = re.compile(
    r"(.+?)[_-](?:(?:ses|visit|time|timepoint|tp)[_-]?\d+|left|right|lt|rt)", re.IGNORECASE
)
BRATS_VISIT = re.compile(r"(BraTS-[A-Za-z]+-\d{5})-\d{3}")


@dataclass(frozen=True)
class Case:
    """One study to segment.

    Attributes:
        id: Unique name within its set; outputs are named after it.
        images: One file or folder of DICOM slices per channel, or one file with all channels.
        labels: The label map, None where it is to be predicted.
        patient: Whom the case is of; cases of one patient stay in one fold.
    """

    id: str
    images: tuple[Path, ...]
    labels: Path | None
    patient: str


@dataclass(frozen=True)
class Dataset:
    """Labelled cases and what their folder says about them.

    Attributes:
        root: The folder.
        layout: Layout that was recognised, in words.
        cases: Sorted by id.
        label_names: Name of each label value, None if nothing names them.
        channel_names: Name of each channel, None if nothing names them.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    label_names: dict[int, str] | None
    channel_names: tuple[str, ...] | None


def find_cases(root: Path | str, *, skip_unpaired: bool = False) -> Dataset:
    """Find the labelled cases below a folder.

    Args:
        root: Folder in one of these layouts: ``images/`` + ``labels/``, nnU-Net raw
            (``imagesTr``, ``case_0000.nii.gz``), MSD (``dataset.json`` with ``training``
            pairs), or one folder per patient (``P1/ct.nii.gz``, ``P1/seg.nii.gz``).
        skip_unpaired: Leave out, with a warning, images without a label map and the reverse.

    Returns:
        The cases, each with images and a label map.

    Raises:
        DataError: If there is no such folder or no cases in it, or naming all partners that
            are missing and all ids that clash.
    """
    root = expect_folder(Path(root))
    description = _description(root)
    folders = _image_and_label_folders(root)
    if description.training and not (folders and _lists_stems_of_channels(description)):
        return _listed(root, description)
    if folders:
        return _paired(root, *folders, description, skip_unpaired)
    return _patient_folders(root, description, skip_unpaired)


def find_inputs(paths: Sequence[Path | str], *, unusable: list[Fault] | None = None) -> list[Case]:
    """Find the unlabelled cases that a list of files and folders stands for.

    Of a folder, the images directly inside count, and the DICOM series further below; a folder
    of DICOM slices is one image. Label maps that lie there are left out, with a warning.
    ``case_0000.nii.gz``, ``case_0001.nii.gz`` ... are the channels of one case, when one of
    them is ``_0000``.

    Args:
        paths: Files and folders.
        unusable: Takes up the faults of single cases, as long as there are others; by default
            these are refused too.

    Returns:
        Cases sorted by id, without labels.

    Raises:
        DataError: Naming everything that is missing, unreadable or there twice.
    """
    faults: list[str] = []
    files: dict[Path, Path] = {}
    stems: dict[Path, str] = {}
    for path in map(Path, paths):
        of_path: list[str] = []
        for file, stem in input_files(path, of_path, to_predict=True).items():
            stems[files.setdefault(file.absolute(), file)] = stem
        faults += [Fault(fault, [path.name], path) for fault in of_path]
    by_folder: dict[Path, list[Path]] = {}
    for file in files.values():
        by_folder.setdefault(file.parent, []).append(file)
    found: dict[str, dict[int, Path]] = {}
    for members in by_folder.values():
        for case_id, channels in _group(members, faults, stems=stems).items():
            if case_id in found:
                files_of_both = [next(iter(both.values())) for both in (found[case_id], channels)]
                told = f"case {case_id} is there twice ({' and '.join(map(str, files_of_both))})"
                faults.append(Fault(f"{told}, rename one", [case_id], files_of_both[1]))
            found.setdefault(case_id, channels)
    if unusable is None:
        _expect_all_channels(found, None, faults)
    else:  # how many there must be is for the model to say
        for case_id, channels in found.items():
            _expect_all_channels({case_id: channels}, None, faults)
    alone = [fault for fault in faults if unusable is not None and isinstance(fault, Fault)]
    spoiled = {case_id for fault in alone for case_id in fault.cases}
    found = {case_id: files for case_id, files in found.items() if case_id not in spoiled}
    refuse(None, faults if not found else [fault for fault in faults if fault not in alone])
    if unusable is not None:
        unusable += alone
    if not found:
        raise DataError(f"no images given; name files ({', '.join(SUFFIXES)}) or folders of them")
    return [_case(case_id, channels, None) for case_id, channels in sorted(found.items())]


def pair_by_id(
    predictions: Path | str, references: Path | str, *, skip_unpaired: bool = False
) -> list[tuple[str, Path, Path]]:
    """Pair predicted label maps with references.

    Args:
        predictions: A label map or a folder of them. Files ``*_probabilities`` beside them
            are left out.
        references: The same by an expert. Where no plain id meets, endings such as
            ``_seg``, ``_pred``, ``_label`` and ``_mask`` are ignored on both sides.
        skip_unpaired: Leave out, with a warning, what has no partner.

    Returns:
        ``(id, prediction, reference)``, sorted by id. Two single files are a pair whatever
        their names.

    Raises:
        DataError: Naming all partners that are missing.
    """
    faults: list[str] = []
    ours, theirs = Path(predictions), Path(references)
    predicted = by_id(
        [f for f in input_files(ours, faults) if not case_stem(f).endswith("_probabilities")],
        faults,
    )
    expected = by_id(input_files(theirs, faults), faults)
    refuse(None, faults)
    our_keys, their_keys = common_keys(predicted, expected)
    if ours.is_file() and theirs.is_file() and our_keys.keys() != their_keys.keys():
        return [(case_stem(ours), ours, theirs)]
    if ours.is_file():
        their_keys = {key: name for key, name in their_keys.items() if key in our_keys}
    if theirs.is_file():
        our_keys = {key: name for key, name in our_keys.items() if key in their_keys}
    kinds = ("prediction", "reference")
    expect_partners(our_keys, their_keys, kinds, faults, skip=skip_unpaired)
    refuse(f"{ours} and {theirs}", faults)
    return [
        (key, predicted[name], expected[their_keys[key]])
        for key, name in sorted(our_keys.items())
        if key in their_keys
    ]


def label_names_near(path: Path | str) -> dict[int, str]:
    """Label names from a ``dataset.json`` beside a label map or its folder, else nothing.

    Raises:
        DataError: If there is such a file and it cannot be understood.
    """
    path = Path(path).absolute()
    start = path.parent if path.is_file() else path
    for folder in (start, start.parent):
        names = _description(folder).label_names
        if names:
            return names
    return {}


def patient_of(case_id: str) -> str:
    """Whom a case is of: its id without visit, time point or side, where one is clearly named.

    Examples:
        >>> patient_of("sub-07_ses-02_T1w"), patient_of("A12_visit2"), patient_of("knee3_left")
        ('sub-07', 'A12', 'knee3')
        >>> patient_of("BraTS-GLI-00005-100"), patient_of("hippocampus_001")
        ('BraTS-GLI-00005', 'hippocampus_001')
    """
    bids = BIDS_PATIENT.fullmatch(case_id)
    if bids:
        return bids[1]
    found = VISIT.fullmatch(case_id) or BRATS_VISIT.fullmatch(case_id)
    return patient_of(found[1]) if found else case_id


def _case(case_id: str, channels: Mapping[int, Path], labels: Path | None) -> Case:
    images = tuple(channels[channel] for channel in sorted(channels))
    return Case(case_id, images, labels, patient_of(case_id))


def _listed(root: Path, description: Description) -> Dataset:
    """Cases that ``dataset.json`` lists."""
    faults: list[str] = []
    named = [file for images, label in description.training for file in (*images, label)]
    missing = sorted({str(file) for file in named if not is_there(file)})
    if missing:
        faults.append(f"{FILE_NAME} names {count(missing, 'file')} that do not exist")
    listed = by_id([label for _, label in description.training], faults)
    refuse(root, faults)
    images = {label: images for images, label in description.training}
    cases = [
        Case(case_id, images[label], label, patient_of(case_id))
        for case_id, label in listed.items()
    ]
    return _dataset(root, "MSD, listed in dataset.json", cases, description)


def _paired(
    root: Path,
    image_folder: Path,
    label_folder: Path,
    description: Description,
    skip_unpaired: bool,
) -> Dataset:
    """Images in one folder, label maps of the same names in another."""
    faults: list[str] = []
    images, labels = volumes_in(image_folder, faults), volumes_in(label_folder, faults)
    for folder, files in ((image_folder, images), (label_folder, labels)):
        warn_of(folder, deeper_series(folder, files))
        if not files:
            faults.append(
                f"{folder} holds no file with a suffix of {', '.join(SUFFIXES)} and no DICOM series"
            )
    refuse(None, faults)
    label_files = by_id(labels, faults)
    label_ids = {*label_files, *map(without_role, label_files)}
    grouped = _group(images, faults, label_ids)
    _expect_all_channels(grouped, description.channel_names, faults)
    image_keys, label_keys = common_keys(grouped, label_files)
    expect_partners(image_keys, label_keys, ("image", "label map"), faults, skip=skip_unpaired)
    refuse(root, faults)
    cases = [
        _case(key, grouped[name], label_files[label_keys[key]])
        for key, name in image_keys.items()
        if key in label_keys
    ]
    layout = "nnU-Net" if image_folder.name.lower() == "imagestr" else "images and labels"
    return _dataset(
        root, f"{layout}, {image_folder.name} + {label_folder.name}", cases, description
    )


def _patient_folders(root: Path, description: Description, skip_unpaired: bool) -> Dataset:
    """One folder per patient, with the label map beside the images."""
    deeper = _datasets_in(root)
    if deeper:
        names = [folder.name for folder in deeper]
        raise DataError(
            f"{root} holds no labelled cases itself but {count(names, 'data set')}; "
            f"did you mean {deeper[0]}?"
        )
    faults: list[str] = []
    named = (*IMAGE_FOLDERS, *LABEL_FOLDERS, *OTHER_FOLDERS)
    images: dict[str, dict[str, Path]] = {}
    labels: dict[str, Path] = {}
    for folder in subfolders(root):
        files = [] if folder.name.lower() in named else volumes_in(folder, faults)
        files = without_reports(folder, files)
        marked = {file: LABEL_FILE.fullmatch(case_stem(file)) for file in files}
        label_files = [file for file, match in marked.items() if match or is_segmentation(file)]
        if len(label_files) > 1:
            marks = ", ".join(file.name for file in label_files)
            faults.append(
                f"{folder.name} has {len(label_files)} label maps ({marks}), expected one"
            )
        starts = [folder.name, *(match["start"] for match in marked.values() if match)]
        rest = [file for file in files if file not in label_files]
        if rest:
            images[folder.name] = _by_channel(folder, rest, starts, faults)
        if label_files:
            labels[folder.name] = label_files[0]
    if not labels:
        raise _no_cases(root, images)
    expect_distinct(_firsts(images), faults)
    channels = _common_channels(images, faults)
    expect_partners(
        {name: name for name in images},
        {name: name for name in labels},
        ("image", "label map"),
        faults,
        skip=skip_unpaired,
    )
    refuse(root, faults)
    cases = [
        Case(name, tuple(files[c] for c in sorted(files)), labels[name], patient_of(name))
        for name, files in images.items()
        if name in labels
    ]
    if description.channel_names is None and channels:
        description = Description(description.path, description.label_names, channels)
    return _dataset(root, "one folder per patient", cases, description)


def _firsts(groups: Mapping[str, Mapping[Any, Path]]) -> dict[str, Path]:
    """The first file of each case."""
    return {case_id: next(iter(files.values())) for case_id, files in groups.items()}


def _dataset(root: Path, layout: str, cases: Iterable[Case], description: Description) -> Dataset:
    ordered = tuple(sorted(cases, key=lambda case: case.id))
    return Dataset(root, layout, ordered, description.label_names, description.channel_names)


def _by_channel(
    folder: Path, files: Sequence[Path], starts: Sequence[str], faults: list[str]
) -> dict[str, Path]:
    """Image files by what their names say after the name of the folder or case."""
    found: dict[str, Path] = {}
    for file in files:
        stem = case_stem(file)
        fitting = [start for start in starts if start and stem.startswith(start)]
        name = stem[max(map(len, fitting), default=0) :].strip("_-. ").lower() or "image"
        if name in found:
            faults.append(
                f"{folder.name} has channel {name} twice ({found[name].name}, {file.name})"
            )
        found[name] = file
    return found


def _common_channels(
    images: Mapping[str, Mapping[str, Path]], faults: list[str]
) -> tuple[str, ...] | None:
    """Sorted channel names; every patient needs the same unless each has a single image."""
    names = sorted(set().union(*images.values()))
    if all(len(files) == 1 for files in images.values()) and len(names) > 1:
        return None
    lacking = [
        f"{patient} lacks {some(absent, most=3)}"
        for patient, files in images.items()
        if (absent := [name for name in names if name not in files])
    ]
    if lacking:
        faults.append(
            f"channels are missing: {some(lacking, '; ')}; every patient needs {some(names)}"
        )
    return tuple(names)


def _group(
    files: Sequence[Path],
    faults: list[str],
    label_ids: Collection[str] = (),
    stems: Mapping[Path, str] | None = None,
) -> dict[str, dict[int, Path]]:
    """Files by case id and channel number; the ids of label maps tell ``_0000`` from a number."""
    stems = {file: stems[file] if stems else case_stem(file) for file in files}
    matches = {file: CHANNEL.fullmatch(stem) for file, stem in stems.items()}
    plain = sum(stem in label_ids for stem in stems.values())
    bare = sum(match[1] in label_ids for match in matches.values() if match)
    numbered = any(match and match[2] == "0000" for match in matches.values()) and bare >= plain
    groups: dict[str, dict[int, Path]] = {}
    unnumbered = []
    for file, match in matches.items():
        if numbered and match is None:
            unnumbered.append(file.name)
            continue
        case_id, channel = (match[1], int(match[2])) if numbered and match else (stems[file], 0)
        channels = groups.setdefault(case_id, {})
        if channel in channels:
            told = f"{case_id} is there twice ({channels[channel]} and {file}), keep one"
            faults.append(Fault(told, [case_id], file))
        channels[channel] = file
    if unnumbered:
        faults.append(
            f"{count(unnumbered, 'file')} lack the channel number that others have; "
            "name them like case_0000"
        )
    expect_distinct(_firsts(groups), faults)
    return groups


def _expect_all_channels(
    groups: Mapping[str, Mapping[int, Path]], names: Sequence[str] | None, faults: list[str]
) -> None:
    """Every case needs channels 0 to the highest of any case."""
    if not groups:
        return
    present = set().union(*groups.values())
    highest = max(max(present), len(names or ()) - 1 if present != {0} else 0)
    lacking = {
        case_id: f"{case_id} lacks "
        + ", ".join(f"{case_id}_{channel:04d}" for channel in absent[:3])
        for case_id, channels in groups.items()
        if (absent := [channel for channel in range(highest + 1) if channel not in channels])
    }
    if lacking:
        told = (
            f"channels are missing: {some([*lacking.values()], '; ')}; every case needs channels "
            f"0000 to {highest:04d}"
        )
        faults.append(Fault(told, lacking, _firsts(groups)[min(lacking)]))
    if names and highest + 1 > len(names):
        faults.append(
            f"{FILE_NAME} names {len(names)} channels ({', '.join(names)}), but there are files of "
            f"channel {highest:04d}"
        )


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


def _description(root: Path) -> Description:
    path = root / FILE_NAME
    return read_description(path) if path.is_file() else Description(path)


def _no_cases(root: Path, images: Collection[str]) -> DataError:
    if images:
        return DataError(
            f"{root}: {count(sorted(images), 'folder')} with images, but none with a label map; "
            "expected a *seg, *label or *mask file in each"
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
