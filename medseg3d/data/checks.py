"""Reading every case once before training, and telling all that is wrong with them at once."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from medseg3d.data.cases import Case, Dataset
from medseg3d.data.partners import some
from medseg3d.errors import DataError, about_case
from medseg3d.geometry.grid import Grid
from medseg3d.io import read_image, read_labels
from medseg3d.types import LabelMap

LOGGER = logging.getLogger("medseg3d")
MOST_VALUES_SHOWN = 10
MOST_CASES_SHOWN = 50


@dataclass(frozen=True)
class CaseFacts:
    """What a sound case holds.

    Attributes:
        case_id: Id of the case.
        grid: Grid of image and label map.
        num_channels: Channels of the image.
        label_counts: Voxels of each label value that occurs, background included.
        digest: Hash of the voxels of the image; equal images have equal ones.
        notes: Oddities of the files that were dealt with, one sentence each.
    """

    case_id: str
    grid: Grid
    num_channels: int
    label_counts: dict[int, int]
    digest: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckedCases:
    """What a set of sound cases holds.

    Attributes:
        facts: One entry per case, in the order of the cases.
        num_channels: Channels of every image.
        label_values: Label values that occur in any case, sorted, background included.
        warnings: What is odd but no reason to stop, one sentence each.
    """

    facts: tuple[CaseFacts, ...]
    num_channels: int
    label_values: tuple[int, ...]
    warnings: tuple[str, ...]


def check_cases(
    dataset: Dataset, *, workers: int = 2, advance: Callable[[], None] | None = None
) -> CheckedCases:
    """Read and check every case.

    Args:
        dataset: Labelled cases.
        workers: Threads that read.
        advance: Called after each case.

    Returns:
        What the cases hold. The warnings are logged too.

    Raises:
        DataError: Listing every faulty case, one line each.
    """
    declared = None if dataset.label_names is None else dataset.label_names.keys()
    named = None if dataset.channel_names is None else len(dataset.channel_names)

    def outcome(case: Case) -> CaseFacts | str:
        try:
            return check_case(case, num_channels=named, labels=declared)
        except DataError as error:
            return str(error)
        finally:
            if advance:
                advance()

    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(outcome, dataset.cases))
    facts = tuple(found for found in outcomes if isinstance(found, CaseFacts))
    faults = [found for found in outcomes if isinstance(found, str)]
    num_channels, odd = _common_channels(facts)
    faults += odd
    if faults:
        head = f"{len(faults)} of {len(dataset.cases)} cases cannot be used"
        raise DataError(
            faults[0] if len(faults) == 1 else f"{head}:\n{some(faults, chr(10), MOST_CASES_SHOWN)}"
        )
    values = sorted(set().union(*(found.label_counts for found in facts)))
    if not any(values):
        raise DataError(f"{dataset.root}: no label map holds anything but background")
    warnings = tuple(_warnings(dataset, facts))
    for warning in warnings:
        LOGGER.warning("%s", warning)
    return CheckedCases(facts, num_channels, tuple(values), warnings)


def check_case(
    case: Case, num_channels: int | None = None, labels: Collection[int] | None = None
) -> CaseFacts:
    """Read image and label map to their end and check that they fit.

    Args:
        case: The case; without a label map only its image is checked.
        num_channels: Channels that the image must have, None for any.
        labels: Label values that are declared, None for any.

    Raises:
        DataError: Naming the case and the files, if one cannot be read, the grids differ,
            channels are missing or label values are not declared.
    """
    with about_case(case.id):
        volume = read_image(case.images)
        found = len(volume.array)
        if num_channels not in (None, found):
            raise DataError(
                f"image {case.images[0]} has {found} channels, expected {num_channels}; add the "
                "missing files or correct the channels in dataset.json"
            )
        counts: dict[int, int] = {}
        notes = volume.notes
        if case.labels is not None:
            stored = read_labels(case.labels)
            if not volume.grid.same_as(stored.grid):
                raise DataError(
                    f"label map {case.labels} is not on the grid of image {case.images[0]}: "
                    f"{volume.grid.difference(stored.grid)}; resample the label map to the image"
                )
            counts = _count_labels(stored.labels)
            notes += stored.notes
            if labels is not None:
                _expect_declared(case, counts, labels)
        digest = hashlib.blake2b(np.ascontiguousarray(volume.array).data, digest_size=16)
        return CaseFacts(case.id, volume.grid, found, counts, digest.hexdigest(), notes)


def _count_labels(labels: LabelMap) -> dict[int, int]:
    flat = labels.ravel()
    if labels.dtype.itemsize <= 2:
        counts = np.bincount(flat)
        values = np.flatnonzero(counts)
        return dict(zip(values.tolist(), counts[values].tolist(), strict=True))
    values, counts = np.unique(flat, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _expect_declared(case: Case, counts: Mapping[int, int], labels: Collection[int]) -> None:
    strange = [
        f"{value} ({count} voxels)" for value, count in counts.items() if value not in labels
    ]
    if not strange:
        return
    declared = some([str(value) for value in sorted(labels)], most=MOST_VALUES_SHOWN)
    if counts.keys() <= {0, 255} and 1 in labels:
        remedy = "map 255 to 1"
    else:
        remedy = "declare the values in dataset.json or map them to declared ones"
    raise DataError(
        f"label map {case.labels} holds undeclared values "
        f"{some(strange, most=MOST_VALUES_SHOWN)}, declared are {declared}; {remedy}"
    )


def _common_channels(facts: Collection[CaseFacts]) -> tuple[int, list[str]]:
    """Number of channels that most images have, and the cases that have another."""
    numbers = Counter(found.num_channels for found in facts)
    if not numbers:
        return 0, []
    usual, times = numbers.most_common(1)[0]
    odd = [
        f"case {found.case_id}: image has {found.num_channels} channels, {times} other "
        f"{'cases have' if times > 1 else 'case has'} {usual}"
        for found in facts
        if found.num_channels != usual
    ]
    return usual, odd


def _warnings(dataset: Dataset, facts: Collection[CaseFacts]) -> list[str]:
    warnings = [f"case {found.case_id}: {note}" for found in facts for note in found.notes]
    empty = [found.case_id for found in facts if not any(found.label_counts)]
    if empty:
        warnings.append(f"{len(empty)} label maps hold background only: {some(empty)}")
    full = [found.case_id for found in facts if 0 not in found.label_counts]
    if full:
        warnings.append(f"{len(full)} label maps hold no background: {some(full)}")
    occurring = set().union(*(found.label_counts for found in facts))
    for value, name in (dataset.label_names or {}).items():
        if value not in occurring and value != 0:
            warnings.append(f"label {value} ({name}) is declared but in no case")
    patients = {case.id: case.patient for case in dataset.cases}
    by_digest: dict[str, list[str]] = {}
    for found in facts:
        by_digest.setdefault(found.digest, []).append(found.case_id)
    for ids in by_digest.values():
        if len({patients[case_id] for case_id in ids}) > 1:
            warnings.append(f"cases {some(ids)} have the same image and may leak between folds")
    return warnings
