"""Cases: what they consist of, and which files that a user names belong together.

Nothing is converted or moved, and no voxel is read. Partners that are missing are reported
all at once.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg3d.data.channels import expect_all_channels, group
from medseg3d.data.dataset_json import Description, description_in
from medseg3d.data.files import input_files, label_maps
from medseg3d.data.partners import (
    LOGGER,
    Fault,
    by_id,
    common_keys,
    expect_partners,
    refuse,
)
from medseg3d.errors import DataError
from medseg3d.io import SUFFIXES, case_stem

BIDS_PATIENT = re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?")
VISIT = re.compile(
    r"(.+?)[_-](?:(?:ses|session|visit|time|timepoint|tp)[_-]?\d+|left|right|lt|rt)", re.IGNORECASE
)
MOMENT = re.compile(
    r"(.*\d.*?)[_-](?:(?:day|frame|phase)[_-]?\d+|(?:baseline|follow[_-]?up)[_-]?\d*|ed|es)",
    re.IGNORECASE,
)
"""What a case is called after its patient, who has a number, such as the frame of a heartbeat."""

BRATS_VISIT = re.compile(r"(BraTS-[A-Za-z]+-\d{5})-\d{3}")


@dataclass(frozen=True)
class Case:
    """One study to segment.

    Attributes:
        id: Unique name within its set; outputs are named after it.
        images: One file or folder of DICOM slices per channel, or one file with all channels.
        labels: The label map, None where it is to be predicted.
        patient: Whom the case is of; cases of one patient stay in one fold.
        class_name: The class that somebody gave the whole case, where classes are learned.
    """

    id: str
    images: tuple[Path, ...]
    labels: Path | None
    patient: str
    class_name: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled cases and what their folder says about them.

    Attributes:
        root: The folder.
        layout: Layout that was recognised, in words.
        cases: Sorted by id.
        label_names: Name of each label value, None if nothing names them.
        channel_names: Name of each channel, None if nothing names them.
        ignore_label: Value of voxels that nobody annotated, None if all are annotated.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    label_names: dict[int, str] | None
    channel_names: tuple[str, ...] | None
    ignore_label: int | None = None

    def ignoring(self, value: int | None) -> "Dataset":
        """The same with another ``ignore_label``, which then is no label; None changes nothing."""
        if value is None:
            return self
        names = self.label_names and {v: n for v, n in self.label_names.items() if v != value}
        return replace(self, label_names=names, ignore_label=value)

    def ignoring_missing(self, values: Iterable[int]) -> "Dataset":
        """The same with an ``ignore_label`` for what lacks labels, one that is free for it.

        Args:
            values: Label values that occur.
        """
        if self.ignore_label is not None:
            return self
        return self.ignoring(1 + max([0, *values, *(self.label_names or ())]))


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
    hidden: list[Fault] = []
    files: dict[Path, Path] = {}
    stems: dict[Path, str] = {}
    for path in map(Path, paths):
        of_path: list[str] = []
        for file, stem in input_files(path, of_path, to_predict=True).items():
            stems[files.setdefault(file.absolute(), file)] = stem
        hidden += [fault for fault in of_path if isinstance(fault, Fault)]
        faults += [
            Fault(fault, [path.name], path) for fault in of_path if not isinstance(fault, Fault)
        ]
    by_folder: dict[Path, list[Path]] = {}
    for file in files.values():
        by_folder.setdefault(file.parent, []).append(file)
    found: dict[str, dict[int, Path]] = {}
    for members in by_folder.values():
        for case_id, channels in group(members, faults, stems=stems).items():
            if case_id in found:
                files_of_both = [next(iter(both.values())) for both in (found[case_id], channels)]
                told = f"case {case_id} is there twice ({' and '.join(map(str, files_of_both))})"
                faults.append(Fault(f"{told}, rename one", [case_id], files_of_both[1]))
            found.setdefault(case_id, channels)
    if unusable is None:
        expect_all_channels(found, None, faults)
    else:  # how many there must be is for the model to say
        for case_id, channels in found.items():
            expect_all_channels({case_id: channels}, None, faults)
    alone = [fault for fault in faults if unusable is not None and isinstance(fault, Fault)]
    spoiled = {case_id for fault in alone for case_id in fault.cases}
    found = {case_id: files for case_id, files in found.items() if case_id not in spoiled}
    refuse(None, faults if not found else [fault for fault in faults if fault not in alone])
    hidden = [fault for fault in hidden if fault.file.absolute() not in files]
    if unusable is not None:
        unusable += [*alone, *hidden]
    else:
        for fault in hidden:
            LOGGER.warning("%s", fault)
    if not found:
        raise DataError(f"no images given; name files ({', '.join(SUFFIXES)}) or folders of them")
    return [case_of(case_id, channels, None) for case_id, channels in sorted(found.items())]


def pair_by_id(
    predictions: Path | str, references: Path | str, *, skip_unpaired: bool = False
) -> list[tuple[str, Path, Path]]:
    """Pair predicted label maps with references.

    Args:
        predictions: A label map or a folder of them. Files ``*_probabilities`` and others that
            prediction writes beside them are left out.
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
    predicted = by_id(label_maps(input_files(ours, faults)), faults)
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
    return description_near(path).label_names or {}


def description_near(path: Path | str) -> Description:
    """What a ``dataset.json`` beside a label map or its folder says, if it names labels.

    Raises:
        DataError: If there is such a file and it cannot be understood.
    """
    path = Path(path).absolute()
    start = path.parent if path.is_file() else path
    for folder in (start, start.parent):
        description = description_in(folder)
        if description.label_names:
            return description
    return Description(start)


def patient_of(case_id: str) -> str:
    """Whom a case is of: its id without visit, frame or side, where one is clearly named.

    Examples:
        >>> patient_of("sub-07_ses-02_T1w"), patient_of("A12_visit2"), patient_of("knee3_left")
        ('sub-07', 'A12', 'knee3')
        >>> patient_of("BraTS-GLI-00005-100"), patient_of("hippocampus_001")
        ('BraTS-GLI-00005', 'hippocampus_001')
        >>> patient_of("patient001_frame01"), patient_of("p3_day2"), patient_of("p3_followup")
        ('patient001', 'p3', 'p3')
        >>> patient_of("train_frame_001"), patient_of("p3_follow_up_2"), patient_of("MR_ES")
        ('train_frame_001', 'p3', 'MR_ES')
    """
    bids = BIDS_PATIENT.fullmatch(case_id)
    if bids:
        return bids[1]
    patterns = (VISIT, MOMENT, BRATS_VISIT)
    found = next((match for each in patterns if (match := each.fullmatch(case_id))), None)
    return patient_of(found[1]) if found else case_id


def case_of(case_id: str, channels: Mapping[int, Path], labels: Path | None) -> Case:
    """A case of these files, its channels in the order of their numbers."""
    images = tuple(channels[channel] for channel in sorted(channels))
    return Case(case_id, images, labels, patient_of(case_id))
