"""Reading every case of a set once, keeping numbers and no volumes."""

import hashlib
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from tempfile import TemporaryFile
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import Box, turn_between
from medseg3d.data.cases import Case, Dataset
from medseg3d.data.doctor.facts import AS_FIT_DEALS, CaseFacts, ChannelFacts, Folding, Survey
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.doctor.reading import COPY, read_channels, read_label_map
from medseg3d.data.doctor.structures import small_parts
from medseg3d.data.fingerprint import subsample
from medseg3d.data.regrid import is_transposed
from medseg3d.data.threads import in_threads
from medseg3d.geometry.grid import Grid
from medseg3d.io import LabelVolume, Volume
from medseg3d.types import LabelMap, Spacing

SAMPLE = 100_000
"""Voxels per channel that percentiles are taken from."""

MANY_VALUES = 20
"""A label map with more values than this is compared with its image."""

TABLE = 1 << 16
"""Label values below this are looked up in a table, others are searched."""

Draw = Callable[[Volume, LabelVolume | None], bytes]
"""Makes a small picture of a case."""


class Pictures(Mapping[str, bytes]):
    """Pictures by case id, on the disk, since few of those of a large set are ever shown."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._places: dict[str, tuple[int, int]] = {}

    def add(self, case_id: str, picture: bytes) -> None:
        """Keep one more; the first makes the file, which has no name and ends with this object."""
        if self._file is None:
            self._file = cast(BinaryIO, TemporaryFile())  # noqa: SIM115  (kept open)
            weakref.finalize(self, self._file.close)
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(picture)
        self._places[case_id] = start, len(picture)

    def __getitem__(self, case_id: str) -> bytes:
        start, length = self._places[case_id]
        assert self._file is not None
        self._file.seek(start)
        return self._file.read(length)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def survey(
    dataset: Dataset,
    *,
    folding: Folding = AS_FIT_DEALS,
    spacing: Spacing | None = None,
    workers: int = 2,
    advance: Callable[[], None] | None = None,
    draw: Draw | None = None,
) -> Survey:
    """Read every case.

    Args:
        dataset: The cases.
        folding: How the set is to be split.
        spacing: Of the working grid in mm, if it is given.
        workers: Threads that read, each one case at a time.
        advance: Called after each case.
        draw: Makes a picture of each case while it is in memory.
    """
    measured: list[CaseFacts] = []
    faults: list[Finding] = []
    pictures = Pictures()
    outcomes = in_threads(lambda case: survey_case(case, draw), dataset.cases, threads=workers)
    for case, (facts, findings, picture) in zip(dataset.cases, outcomes, strict=True):
        if facts is not None:
            measured.append(facts.without(dataset.ignore_label))
        faults += findings
        if picture is not None:
            pictures.add(case.id, picture)
        if advance:
            advance()
    return Survey(dataset, tuple(measured), tuple(faults), pictures, folding, spacing)


def survey_case(
    case: Case, draw: Draw | None = None
) -> tuple[CaseFacts | None, list[Finding], bytes | None]:
    """Read image and label map of one case to their end and measure them.

    Returns:
        What was measured, or None if the image cannot be used; what is wrong with the files;
        and a picture, if there is anything to draw.
    """
    volumes, findings = read_channels(case)
    stored, label_findings = read_label_map(case)
    findings += label_findings
    picture = draw(volumes[0], stored) if draw and volumes else None
    if len(volumes) < len(case.images) or any(f.code == "channel-grid" for f in findings):
        return None, findings, picture
    grid, labels, is_turned = volumes[0].grid, None, False
    notes = tuple(note for volume in volumes for note in volume.notes)
    if stored is not None:
        notes += stored.notes
        stored = stored.filled(grid)
        labels, is_turned = _aligned(stored, grid)
        if labels is None:
            findings.append(_elsewhere(case, stored, volumes[0]))
    channels = [channel for volume in volumes for channel in volume.array]
    box = _occupied(channels)
    counts = {} if stored is None else count_labels(stored.labels)
    names = {} if stored is None else stored.names
    means, sds = ({}, {}) if labels is None else _moments(labels, channels[0], sorted(counts))
    facts = CaseFacts(
        case=case,
        grid=grid,
        num_channels=len(channels),
        label_counts=counts,
        digest=_digest(channels),
        notes=notes,
        channels=tuple(map(_channel_facts, channels)),
        label_means=means,
        label_sds=sds,
        parts=() if labels is None else small_parts(labels[box], counts),
        box=box,
        is_turned=is_turned,
        is_image=labels is not None
        and len(counts) > MANY_VALUES
        and np.array_equal(labels, channels[0]),
        label_names={value: name for value, name in names.items() if value in counts},
    )
    return facts, findings, picture


def count_labels(labels: LabelMap) -> dict[int, int]:
    """Voxels of each value that occurs, by value."""
    counts: Counter[int] = Counter()
    for plane in _planes(labels):
        values, times = np.unique(plane, return_counts=True)
        counts.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def _aligned(stored: LabelVolume, grid: Grid) -> tuple[LabelMap | None, bool]:
    if grid.same_as(stored.grid):
        return stored.labels, False
    turn = turn_between(stored.grid, grid)
    return (None, False) if turn is None else (turn.apply(stored.labels), True)


def _elsewhere(case: Case, stored: LabelVolume, image: Volume) -> Finding:
    remedy = f"resample the label map to the image ({COPY} --resample-labels)"
    if is_transposed(stored.grid, image.grid):
        remedy = "its axes were mixed up, export it again from the tool that made it"
    elif stored.grid.shape == image.grid.shape:
        remedy += (
            f", or if its header is wrong give it that of the image ({COPY} --ignore-geometry)"
        )
    return Finding(
        severity=Severity.ERROR,
        code="label-grid",
        case=case.id,
        file=stored.path,
        message=f"label map {stored.path} is not on the grid of image {image.path}: "
        f"{image.grid.difference(stored.grid)}",
        fix=remedy,
    )


def _channel_facts(channel: npt.NDArray[np.generic]) -> ChannelFacts:
    sample = subsample(channel, SAMPLE).astype(np.float64)
    inside = sample[sample != 0]
    percentiles = np.percentile(inside, [1, 25, 50, 75, 99]) if inside.size else np.zeros(5)
    first, second, third, fourth, fifth = percentiles.tolist()
    return ChannelFacts(
        minimum=float(channel.min()),
        maximum=float(channel.max()),
        percentiles=(first, second, third, fourth, fifth),
    )


def _digest(channels: list[npt.NDArray[np.generic]]) -> str:
    """Hash of shape and values, whatever type they are stored in."""
    digest = hashlib.blake2b(digest_size=16)
    for channel in channels:
        digest.update(repr(channel.shape).encode())
        for plane in _planes(channel):
            digest.update(np.ascontiguousarray(plane.T, dtype=np.float32).data)
    return digest.hexdigest()


def _moments(
    labels: LabelMap, channel: npt.NDArray[np.generic], values: list[int]
) -> tuple[dict[int, float], dict[int, float]]:
    """Mean and standard deviation of the intensities in each label, slice by slice."""
    sums, squares, counts = np.zeros((3, len(values)))
    place_of = np.zeros(min(values[-1] + 1, TABLE), dtype=np.intp)
    if values[-1] < TABLE:
        place_of[values] = np.arange(len(values))
    for plane, intensities in zip(_planes(labels), _planes(channel), strict=True):
        flat = plane.ravel(order="F")
        places = place_of[flat] if values[-1] < TABLE else np.searchsorted(values, flat)
        found = intensities.ravel(order="F").astype(np.float64)
        sums += np.bincount(places, found, len(values))
        squares += np.bincount(places, found**2, len(values))
        counts += np.bincount(places, minlength=len(values))
    means = sums / counts
    sds = np.sqrt((squares / counts - means**2).clip(0))
    return (
        dict(zip(values, means.tolist(), strict=True)),
        dict(zip(values, sds.tolist(), strict=True)),
    )


def _occupied(channels: list[npt.NDArray[np.generic]]) -> Box:
    """As :func:`~medseg3d.data.canonical.nonzero_box`, without a copy of the channels."""
    bounds = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(np.any([channel.any(axis=others) for channel in channels], axis=0))
        if found.size == 0:
            return (slice(None), slice(None), slice(None))
        bounds.append(slice(int(found[0]), int(found[-1]) + 1))
    return bounds[0], bounds[1], bounds[2]


def _planes(volume: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.generic]]:
    return (volume[..., k] for k in range(volume.shape[-1]))
