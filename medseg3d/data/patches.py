"""Training patches: TorchIO subjects and samplers over the cache, and batches of them.

A sampler reads the voxels of its patch and no others, and draws foreground from stored
coordinates, where TorchIO's own build a probability map of the whole volume. Whatever is
random about sample number ``n`` comes from a generator seeded by ``n``, so a run resumed at any
step, with any number of workers, sees the batches it would have seen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torchio as tio
from torch.utils.data import Dataset
from torchio.data.sampler import PatchSampler

from medseg3d.data.augment import Augmentation, Changes, patch_subject
from medseg3d.data.cache import CachedCase
from medseg3d.data.stages import size3
from medseg3d.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    from medseg3d.data.cache import Coordinates
    from medseg3d.types import Image, LabelMap, Size3

UNENDING = 2**48
"""Length of a dataset that is read for as long as training goes on."""


def case_subject(case: CachedCase) -> tio.Subject:
    """A TorchIO subject over a cached case; its volumes load when they are first asked for."""
    image = tio.ScalarImage(  # type: ignore[no-untyped-call]
        case.folder / "image.b2nd", reader=partial(_whole_image, case_id=case.case_id)
    )
    subject = {"image": image, "case": case}
    if case.has_labels:
        path = case.folder / "labels.b2nd"
        subject["labels"] = tio.LabelMap(  # type: ignore[no-untyped-call]
            path, reader=partial(_whole_labels, case_id=case.case_id)
        )
    return tio.Subject(subject)


def read_box(case: CachedCase, start: Sequence[int], size: Sequence[int]) -> tuple[Image, LabelMap]:
    """Image ``(C, *size)`` and labels ``size`` of a box, 0 where it leaves the volume.

    Labels are 0 too where none were stored.
    """
    shape = np.array(case.shape)
    first = np.array(start)
    last = first + size
    inner, outer = np.clip(first, 0, shape), np.clip(last, 0, shape)
    image = np.zeros((case.num_channels, *size), dtype=np.float32)
    labels: LabelMap = np.zeros(tuple(size), dtype=np.uint8)
    if (outer <= inner).any():
        return image, labels
    part = case.read_image(inner, outer - inner)
    labels_part: LabelMap = np.zeros(tuple(outer - inner), dtype=np.uint8)
    if case.has_labels:
        labels_part = case.read_labels(inner, outer - inner)
    if part.shape == image.shape:
        return part, labels_part
    where = tuple(slice(*ends) for ends in zip(inner - first, outer - first, strict=True))
    image[:, *where] = part
    labels = labels.astype(labels_part.dtype)
    labels[where] = labels_part
    return image, labels


class CaseSampler(PatchSampler):
    """TorchIO sampler over :func:`case_subject`; reads the patch only.

    Unlike TorchIO's samplers it serves volumes smaller than the patch, which then lie in the
    middle of a patch that is 0 around them.

    Args:
        patch_size: Voxels along ``(I, J, K)``.
    """

    def __init__(self, patch_size: Size3) -> None:
        super().__init__(patch_size)
        self.size: Size3 = patch_size

    @abstractmethod
    def draw_start(self, case: CachedCase, generator: np.random.Generator) -> Size3:
        """First voxel of a random patch; negative where the volume is smaller than the patch."""

    def crop(self, subject: tio.Subject, index_ini: Size3, patch_size: Size3) -> tio.Subject:
        """The patch as a subject with ``image``, ``labels``, ``case`` and ``location``."""
        case = case_of(subject)
        image, labels = read_box(case, index_ini, patch_size)
        ends = [first + length for first, length in zip(index_ini, patch_size, strict=True)]
        location = torch.tensor([*index_ini, *ends])
        return patch_subject(image, labels, case=case.case_id, **{tio.LOCATION: location})

    def __call__(
        self, subject: tio.Subject, num_patches: int | None = None
    ) -> Generator[tio.Subject]:
        """Random patches, endless by default; the seed comes from torch's generator."""
        return self._generate_patches(subject, num_patches)

    def _generate_patches(
        self, subject: tio.Subject, num_patches: int | None = None
    ) -> Generator[tio.Subject]:
        generator = np.random.default_rng(int(torch.randint(2**31, ()).item()))
        drawn = 0
        while num_patches is None or drawn < num_patches:
            start = self.draw_start(case_of(subject), generator)
            yield self.extract_patch(subject, start)
            drawn += 1


class UniformSampler(CaseSampler):
    """Patches anywhere in the volume, each position as likely as any other.

    Where only some voxels are annotated, patches lie around one of these.
    """

    def draw_start(self, case: CachedCase, generator: np.random.Generator) -> Size3:
        """First voxel of a patch, drawn evenly."""
        if len(voxels := case.annotated_voxels()):
            return start_around(voxels, case.shape, self.size, generator)
        lowest, highest = allowed_starts(case.shape, self.size)
        return size3(generator.integers(lowest, highest, endpoint=True))


class ForegroundSampler(CaseSampler):
    """Patches around a foreground voxel, moved into the volume where they would leave it.

    The label is drawn evenly among those of the case, so that rare ones are seen as often as
    large ones; a case without foreground is sampled evenly.
    """

    def draw_start(self, case: CachedCase, generator: np.random.Generator) -> Size3:
        """First voxel of a patch around a drawn voxel."""
        if not case.labels_present:
            return UniformSampler(self.size).draw_start(case, generator)
        voxels = case.coordinates(int(generator.choice(case.labels_present)))
        return start_around(voxels, case.shape, self.size, generator)


@dataclass(frozen=True, kw_only=True)
class CaseMaps:
    """Maps made of the labels of whole cases, which are cut and moved with their patches.

    Attributes:
        cases: One per case and of its shape, with the maps ``M`` as channels.
        mirrored: Which map takes the place of each where labels change sides; empty if all stay.
    """

    cases: tuple[CachedCase, ...]
    mirrored: tuple[int, ...] = ()


class PatchDataset(Dataset[dict[str, Any]]):
    """Training patches by sample number.

    Every case is visited once per pass, in an order of the pass; foreground patches are spread
    evenly over the sample numbers, so that every stretch of them has its share.

    Args:
        cases: Cached cases with labels.
        patch_size: Voxels along ``(I, J, K)``.
        seed: Sample ``n`` depends on ``seed`` and ``n`` alone.
        foreground: Share of patches around foreground.
        augmentation: Random changes, none by default.
        classes: Index of the class of each case, if cases have classes.
        maps: Maps of each case, if the loss takes some.
        labeled: Whether cases need labels; in those that lack them all is background.
        length: Number of samples; by default more than any training reads.

    Raises:
        DataError: If there are no cases, or they lack labels or differ in channels.
        ConfigError: If ``foreground`` is no share.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        patch_size: Size3,
        *,
        seed: int,
        foreground: float = 1 / 3,
        augmentation: Augmentation | None = None,
        classes: Sequence[int] | None = None,
        maps: CaseMaps | None = None,
        labeled: bool = True,
        length: int = UNENDING,
    ) -> None:
        if not cases:
            raise DataError("no cases to draw patches from, expected at least one")
        if not 0 <= foreground <= 1:
            raise ConfigError(f"foreground is {foreground}, expected a share between 0 and 1")
        for case in cases:
            if labeled and not case.has_labels:
                raise DataError(f"case {case.case_id}: no labels were stored; leave it out")
            if case.num_channels != cases[0].num_channels:
                raise DataError(
                    f"case {case.case_id}: {case.num_channels} channels, but case "
                    f"{cases[0].case_id} has {cases[0].num_channels}; all need the same"
                )
        self.subjects = [case_subject(case) for case in cases]
        self.patch_size = patch_size
        self.seed = seed
        self.foreground = foreground
        self.augmentation = augmentation
        self.classes = classes
        self.maps = maps
        self.length = length
        shapes = np.array([case.shape for case in cases])
        covered = np.minimum(shapes, patch_size).prod(axis=1) / shapes.prod(axis=1)
        self._seen = float(covered.mean()) / len(cases)
        self._uniform = UniformSampler(patch_size)
        self._on_foreground = ForegroundSampler(patch_size)
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample of that number.

        Returns:
            ``image`` ``(C, *patch_size)`` float32, ``labels`` ``(1, *patch_size)`` uint8, or
            int64 where labels need more, ``case``, the case's id, where cases have classes
            ``classes``, the index of its class, and where they have maps ``maps``
            ``(M, *patch_size)`` float32.
        """
        if not 0 <= number < self.length:
            raise IndexError(f"sample {number} of {self.length}")
        index = self.case_index(number)
        subject = self.subjects[index]
        case = case_of(subject)
        sampler = self._on_foreground if self.is_foreground(number) else self._uniform
        generator = np.random.default_rng([self.seed, number])
        start = sampler.draw_start(case, generator)
        changes = Changes()
        if self.augmentation is not None:
            augmentation = self.augmentation.after(number, times=number * self._seen)
            changes = augmentation.draw(generator, self.patch_size, case.num_channels)
        source, size = changes.source_box(start, self.patch_size, case.shape)
        offset = np.subtract(start, source)
        image, labels = arrays_of(sampler.crop(subject, source, size))
        if self.augmentation is not None:
            image, labels = self.augmentation.apply(
                image, labels, changes, size=self.patch_size, offset=offset
            )
        if not case.is_annotated:  # nor is what the patch shows beyond the image
            unknown = len(case.label_counts)
            labels = np.full(labels.shape, unknown, np.min_scalar_type(unknown))
        stored = labels if labels.dtype == np.uint8 else labels.astype(np.int64)
        sample: dict[str, Any] = {
            "image": torch.from_numpy(image),
            "labels": torch.from_numpy(stored[None]),
            "case": case.case_id,
        }
        if self.classes is not None:
            sample["classes"] = torch.tensor(self.classes[index])
        if self.maps is not None:
            maps, _ = read_box(self.maps.cases[index], source, size)
            maps = changes.carry(
                maps, size=self.patch_size, offset=offset, mirrored=self.maps.mirrored
            )
            sample["maps"] = torch.from_numpy(maps)
        return sample

    def is_foreground(self, number: int) -> bool:
        """Whether a sample lies around foreground; ``floor(share * n)`` of the first ``n`` do."""
        return share_of(self.foreground, number + 1) > share_of(self.foreground, number)

    def case_id(self, number: int) -> str:
        """Id of the case that a sample is from."""
        return case_of(self.subjects[self.case_index(number)]).case_id

    def case_index(self, number: int) -> int:
        """Which case a sample is from."""
        round_number, place = divmod(number, len(self.subjects))
        known, order = self._order
        if known != round_number:
            # The third number keeps it apart from the generators of samples.
            generator = np.random.default_rng([self.seed, round_number, 1])
            order = generator.permutation(len(self.subjects))
            self._order = (round_number, order)
        return int(order[place])


def case_of(subject: tio.Subject) -> CachedCase:
    """The case that :func:`case_subject` made a subject of."""
    case = subject["case"]
    assert isinstance(case, CachedCase)
    return case


def arrays_of(subject: tio.Subject) -> tuple[Image, LabelMap]:
    """Image ``(C, I, J, K)`` and labels ``(I, J, K)`` of a patch."""
    return subject.get_image("image").numpy(), subject.get_image("labels").numpy()[0]


def allowed_starts(
    shape: Size3, size: Size3
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lowest and highest first voxel of a patch; equal where it covers the whole axis."""
    spare = np.subtract(shape, size)
    return np.minimum(spare // 2, 0), np.where(spare > 0, spare, spare // 2)


def start_around(
    voxels: Coordinates, shape: Size3, size: Size3, generator: np.random.Generator
) -> Size3:
    """First voxel of a patch around one of the voxels ``(N, 3)``, moved into the volume."""
    center = voxels[generator.integers(len(voxels))].astype(np.int64)
    lowest, highest = allowed_starts(shape, size)
    return size3(np.clip(center - np.array(size) // 2, lowest, highest))


def share_of(share: float, count: int) -> int:
    """Whole part of ``share * count``, not misled by rounding."""
    return int(share * count + 1e-6)


def _whole_image(path: Path, *, case_id: str) -> tuple[Image, npt.NDArray[np.float64]]:
    return CachedCase.open(path.parent, case_id).image(), np.eye(4)


def _whole_labels(path: Path, *, case_id: str) -> tuple[LabelMap, npt.NDArray[np.float64]]:
    return CachedCase.open(path.parent, case_id).labels(), np.eye(4)
