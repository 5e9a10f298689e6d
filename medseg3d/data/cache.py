"""Preprocessed cases on disk, in chunks, so that a patch costs no more than its own voxels.

One case is one folder: ``image.b2nd`` (``(C, I, J, K)`` float16), ``labels.b2nd``
(``(I, J, K)`` channel indices), ``coordinates.npy`` (foreground voxels, label by label) and
``facts.json``. Folders are named by content (:func:`case_key`), written beside, flushed to the
disk and renamed, so that what is there is whole. Several runs may share a cache.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import blosc2
import numpy as np
import numpy.typing as npt
import torch

from medseg3d.errors import DataError, RunError, about_case
from medseg3d.io.atomic import reason_of
from medseg3d.machine import free_disk, in_words
from medseg3d.types import Image, LabelMap, Size3

LAYOUT = 1
CHUNK = 64
BLOCK = 32
COORDINATES_PER_LABEL = 20_000
UNFINISHED = ".medseg3d-{}-part"

Coordinates = npt.NDArray[np.integer[Any]]
"""Voxel indices ``(N, 3)`` along ``(I, J, K)``."""


def content_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the SHA-256 of each file, wherever the files lie.

    Args:
        files: The case's files, channels in order and then the labels.

    Raises:
        DataError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}); check that it exists and is readable"
            ) from error
    return digest.hexdigest()


def case_key(plan_fingerprint: str, content: str) -> str:
    """Name of the cache folder of a case: a digest of what it depends on.

    Args:
        plan_fingerprint: Text that changes whenever preprocessing would.
        content: :func:`content_digest` of the case's files.

    Returns:
        32 hexadecimal digits.
    """
    text = f"{LAYOUT}\n{plan_fingerprint}\n{content}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_cache(root: Path) -> None:
    """Make the folder of cached cases, and remove what killed runs left unfinished in it.

    Raises:
        RunError: If it cannot be made or written to.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(root):
            for left in root.glob(UNFINISHED.format("*")):
                with suppress(OSError), _claimed(left):
                    shutil.rmtree(left)
        with _unfinished(root):  # proves that the folder can be written to
            pass
    except OSError as error:
        raise _cannot_write(root, error) from error


class CachedCase:
    """A preprocessed case whose patches are read without loading the rest.

    Opened arrays are kept, reads from several threads take turns, and a copy sent to another
    process opens its own.

    Attributes:
        folder: Where the case is stored.
        case_id: Name of the case, in the run that opened it.
        shape: Voxels along ``(I, J, K)``.
        num_channels: Image channels ``C``.
        label_counts: Voxels per label, background first; empty if the case has no labels.
            Voxels that nobody annotated belong to none.
    """

    def __init__(self, folder: Path, case_id: str, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.case_id = case_id
        size_i, size_j, size_k = facts["shape"]
        self.shape: Size3 = (size_i, size_j, size_k)
        self.num_channels: int = facts["num_channels"]
        self.label_counts: tuple[int, ...] = tuple(facts["label_counts"])
        self._offsets: list[int] = facts["coordinate_offsets"]
        self._arrays: dict[str, Any] = {}
        self._turn = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return (CachedCase.open, (self.folder, self.case_id))

    def __repr__(self) -> str:
        return f"CachedCase({self.case_id!r}, shape={self.shape})"

    @classmethod
    def write(
        cls,
        folder: Path,
        *,
        case_id: str,
        image: Image,
        labels: LabelMap | None,
        num_labels: int,
        may_ignore: bool = False,
    ) -> CachedCase:
        """Store a case; a complete folder that is already there is kept.

        Args:
            folder: Where to store it; appears at once and whole, or not at all.
            case_id: Name of the case.
            image: Normalized intensities ``(C, I, J, K)``; stored as float16, so values
                beyond +-65504 are clipped.
            labels: Channel indices ``(I, J, K)`` in ``[0, num_labels)``, or nothing.
            num_labels: Labels ``L``, background included.
            may_ignore: Whether the index ``L`` is allowed too, for voxels that nobody annotated.

        Raises:
            DataError: If the image is not finite, or the labels do not fit image or ``L``.
            RunError: If the disk is full or cannot be written to.
        """
        folder = Path(folder)
        if is_complete(folder):
            return cls.open(folder, case_id)
        with about_case(case_id):
            label_counts = checked_label_counts(image, labels, num_labels + may_ignore)
        try:
            cls._write(folder, case_id, image, labels, num_labels, label_counts)
        except OSError as error:
            raise _cannot_write(folder.parent, error) from error
        return cls.open(folder, case_id)

    @staticmethod
    def _write(
        folder: Path,
        case_id: str,
        image: Image,
        labels: LabelMap | None,
        num_labels: int,
        label_counts: list[int],
    ) -> None:
        with _unfinished(folder.parent) as beside:
            _write_array(beside / "image.b2nd", as_half(image))
            coordinates: Coordinates = np.empty((0, 3), dtype=np.int16)
            offsets = [0]
            if labels is not None:
                small = np.uint8 if len(label_counts) <= 256 else np.uint16
                stored: LabelMap = labels.astype(small)
                _write_array(beside / "labels.b2nd", stored)
                coordinates, offsets = _coordinates_to_store(stored, num_labels)
            with (beside / "coordinates.npy").open("wb") as file:
                np.save(file, coordinates, allow_pickle=False)
                _flush(file)
            facts = {
                "layout": LAYOUT,
                "case": case_id,
                "shape": list(image.shape[1:]),
                "num_channels": image.shape[0],
                "label_counts": label_counts[:num_labels],
                "coordinate_offsets": offsets,
                "bytes": {path.name: path.stat().st_size for path in sorted(beside.iterdir())},
            }
            with (beside / "facts.json").open("wb") as file:
                file.write(json.dumps(facts, indent=1).encode())
                _flush(file)
            _settle(beside, folder)

    @classmethod
    def open(cls, folder: Path, case_id: str | None = None) -> CachedCase:
        """Open a stored case; its arrays are opened when first read.

        Args:
            folder: Where it is stored.
            case_id: Name of the case, which may be another than when it was stored, since folders
                are named by content; by default that one.

        Raises:
            DataError: If the folder is missing or incomplete.
        """
        folder = Path(folder)
        facts = _facts(folder)
        if facts is None:
            raise DataError(
                f"cached case {folder} is missing or incomplete; "
                "delete that folder to build it anew"
            )
        return cls(folder, facts["case"] if case_id is None else case_id, facts)

    @property
    def has_labels(self) -> bool:
        """Whether the case was stored with labels."""
        return bool(self.label_counts)

    @property
    def labels_present(self) -> tuple[int, ...]:
        """Labels other than background with at least one voxel."""
        return tuple(label for label, count in enumerate(self.label_counts) if label and count)

    def coordinates(self, label: int) -> Coordinates:
        """Voxels ``(N, 3)`` of a label; a fixed random subset if there are very many."""
        if label not in self.labels_present:
            return np.empty((0, 3), dtype=np.int16)
        return self._coordinates(label)

    @property
    def is_partly_annotated(self) -> bool:
        """Whether there are voxels that nobody annotated."""
        return len(self._offsets) > max(1, len(self.label_counts))

    @property
    def is_annotated(self) -> bool:
        """Whether anybody annotated a voxel."""
        return not self.is_partly_annotated or self._offsets[-1] > self._offsets[-2]

    def annotated_voxels(self) -> Coordinates:
        """Voxels ``(N, 3)`` that somebody annotated, a subset of them; none if all are."""
        if not self.is_partly_annotated:
            return np.empty((0, 3), dtype=np.int16)
        return self._coordinates(len(self.label_counts))

    def _coordinates(self, label: int) -> Coordinates:
        with self._readable():
            # opened each time: a map that is kept keeps its file open, of a thousand cases each
            path = self.folder / "coordinates.npy"
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
            start, stop = self._offsets[label - 1 : label + 1]
            return np.array(stored[start:stop])

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> Image:
        """Intensities ``(C, *size)`` of the box at voxel ``start``, which lies in the volume."""
        box = (slice(None), *self._box(start, size))
        with self._readable():
            # numpy converts halves one by one, torch in vectors
            return torch.from_numpy(self._array("image")[box]).float().numpy()

    def read_labels(self, start: Sequence[int], size: Sequence[int]) -> LabelMap:
        """Labels ``size`` of the box at voxel ``start``, uint8 or uint16."""
        box = self._box(start, size)
        with self._readable():
            return np.asarray(self._array("labels")[box])

    def image(self) -> Image:
        """The whole image ``(C, I, J, K)``."""
        return self.read_image((0, 0, 0), self.shape)

    def labels(self) -> LabelMap:
        """The whole label map ``(I, J, K)``."""
        return self.read_labels((0, 0, 0), self.shape)

    def _box(self, start: Sequence[int], size: Sequence[int]) -> tuple[slice, slice, slice]:
        i, j, k = (
            slice(int(first), int(first) + int(length))
            for first, length in zip(start, size, strict=True)
        )
        for axis, whole in zip((i, j, k), self.shape, strict=True):
            assert 0 <= axis.start < axis.stop <= whole, f"box {(i, j, k)} leaves {self.shape}"
        return i, j, k

    def _array(self, name: str) -> Any:
        if name == "labels" and not self.has_labels:
            raise DataError(f"case {self.case_id}: no labels were stored; train on labeled cases")
        if name not in self._arrays:
            # More threads would fight for the cores that train.
            single = blosc2.DParams(nthreads=1)
            self._arrays[name] = blosc2.open(
                str(self.folder / f"{name}.b2nd"), mode="r", dparams=single
            )
        return self._arrays[name]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        except DataError:
            raise
        except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise DataError(
                    f"case {self.case_id}: cached case {self.folder} cannot be opened, because too "
                    "many files are open; allow more (ulimit -n)"
                ) from error
            raise DataError(
                f"case {self.case_id}: cached case {self.folder} is damaged ({error}); "
                "delete that folder to build it anew"
            ) from error


def is_complete(folder: Path) -> bool:
    """Whether every file of a stored case is there with the size it was written with."""
    return _facts(Path(folder)) is not None


def as_half(image: Image) -> npt.NDArray[np.float16]:
    """The image in float16, clipped to what it can hold."""
    largest = float(np.finfo(np.float16).max)
    halves = torch.from_numpy(np.ascontiguousarray(image)).clamp(-largest, largest).half()
    return np.asarray(halves.numpy(), dtype=np.float16)


def checked_label_counts(image: Image, labels: LabelMap | None, num_labels: int) -> list[int]:
    """Voxels per label, after making sure that image and labels can be stored."""
    if not np.isfinite(image).all():
        raise DataError(
            "the preprocessed image holds NaN or infinite values; repair or leave out the case"
        )
    if labels is None:
        return []
    if labels.shape != image.shape[1:]:
        raise DataError(
            f"labels of shape {labels.shape} do not fit an image of shape {image.shape[1:]}; "
            "both must lie on one grid"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_labels:
        raise DataError(
            f"labels run from {lowest} to {highest}, expected 0 to {num_labels - 1}; "
            "map label values to channel indices first"
        )
    counts = np.zeros(num_labels, dtype=np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=num_labels)
    return [int(count) for count in counts]


def foreground_coordinates(labels: LabelMap, num_labels: int) -> tuple[Coordinates, list[int]]:
    """Voxels of labels 1 to ``L - 1``, at most 20,000 each, and where each label's begin.

    Returns:
        Coordinates ``(N, 3)`` sorted by label, and ``L`` offsets: those of label ``l`` are
        ``coordinates[offsets[l - 1]:offsets[l]]``.
    """
    foreground = np.flatnonzero(labels)
    values = labels.ravel()[foreground]
    foreground = foreground[np.argsort(values, kind="stable")]
    ends = np.cumsum(np.bincount(values, minlength=num_labels)[1:])
    kept, offsets = [], [0]
    for label, voxels in enumerate(np.split(foreground, ends[:-1]) if num_labels > 1 else [], 1):
        chosen = voxels
        if len(voxels) > COORDINATES_PER_LABEL:
            generator = np.random.default_rng(label)
            chosen = np.sort(generator.choice(voxels, COORDINATES_PER_LABEL, replace=False))
        kept.append(chosen)
        offsets.append(offsets[-1] + len(chosen))
    places = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
    dtype = np.int16 if max(labels.shape) <= np.iinfo(np.int16).max else np.int32
    return np.stack(np.unravel_index(places, labels.shape), axis=1).astype(dtype), offsets


def _coordinates_to_store(labels: LabelMap, num_labels: int) -> tuple[Coordinates, list[int]]:
    """Foreground coordinates and, where not all voxels are annotated, those that are."""
    unknown = labels == num_labels
    if not unknown.any():
        return foreground_coordinates(labels, num_labels)
    known, ends = foreground_coordinates((~unknown).astype(np.uint8), 2)
    coordinates, offsets = foreground_coordinates(np.where(unknown, 0, labels), num_labels)
    return np.concatenate([coordinates, known]), [*offsets, offsets[-1] + ends[-1]]


def _write_array(path: Path, array: npt.NDArray[Any]) -> None:
    spatial = array.ndim - 3
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        contiguous=True,
        chunks=(*array.shape[:spatial], *(min(CHUNK, n) for n in array.shape[spatial:])),
        blocks=((1,) * spatial + tuple(min(BLOCK, n) for n in array.shape[spatial:])),
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, nthreads=1),
    )
    with path.open("wb") as file:  # blosc2 itself does not tell when the disk is full
        file.write(packed.to_cframe())
        _flush(file)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _unfinished(root: Path) -> Iterator[Path]:
    """A folder to write in, claimed so that no other process takes it for a leftover."""
    root.mkdir(parents=True, exist_ok=True)
    beside = root / UNFINISHED.format(secrets.token_hex(8))
    try:
        with ExitStack() as stack:
            with _one_at_a_time(root):
                beside.mkdir()
                with suppress(OSError):
                    stack.enter_context(_claimed(beside))
            yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _claimed(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder; the lock ends with the process, however that ends.

    Raises:
        OSError: If somebody else holds it, or the file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Wait until no other process or thread is in the same section, where locks exist."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(_claimed(root, wait=True))
        yield


def _cannot_write(root: Path, error: OSError) -> RunError:
    return RunError(
        f"the cache {root} cannot be written: {reason_of(error)} ({in_words(free_disk(root))} are "
        "free), or give another folder with --set cache=FOLDER"
    )


def _facts(folder: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in facts["bytes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if facts["layout"] == LAYOUT and sizes == facts["bytes"] else None


def _settle(beside: Path, folder: Path) -> None:
    """Rename a finished folder; another process may have finished the same one first."""
    with _one_at_a_time(folder.parent):
        if is_complete(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)  # damaged since it was written
        beside.rename(folder)
