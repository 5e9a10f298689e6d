"""Patches: where they lie, how foreground is spread, and that sample numbers decide all."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchio as tio
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.augment import Augmentation
from medseg3d.data.cache import CachedCase
from medseg3d.data.patches import (
    CaseMaps,
    ForegroundSampler,
    PatchDataset,
    UniformSampler,
    allowed_starts,
    case_subject,
    read_box,
)
from medseg3d.errors import ConfigError, DataError
from medseg3d.io import read_image, read_labels
from medseg3d.training.feed import batches

SHAPE = (20, 18, 16)
sizes = st.tuples(*[st.integers(1, 30)] * 3)

MIRRORING = Augmentation(mirror_axes=(0, 1, 2))


def numbered(shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[np.float32]:
    """A volume whose voxels tell where they are; exact in half precision, never 0."""
    i, j, k = np.indices(shape)
    return np.stack([i, j, k]).astype(np.float32) + 1


def make_case(
    folder: Path, name: str, labels: npt.NDArray[np.int64], image: object = None
) -> CachedCase:
    volume = numbered(labels.shape) if image is None else image
    return CachedCase.write(folder / name, case_id=name, image=volume, labels=labels, num_labels=3)


def two_spots() -> npt.NDArray[np.int64]:
    labels = np.zeros(SHAPE, dtype=np.int64)
    labels[2:6, 2:6, 2:6] = 1
    labels[17, 15, 13] = 2
    return labels


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> CachedCase:
    return make_case(tmp_path_factory.mktemp("cache"), "spots", two_spots())


@pytest.fixture(scope="module")
def four_cases(tmp_path_factory: pytest.TempPathFactory) -> list[CachedCase]:
    folder = tmp_path_factory.mktemp("cache")
    return [make_case(folder, name, two_spots()) for name in "abcd"]


def test_a_subject_loads_its_volumes_only_when_asked(case: CachedCase) -> None:
    subject = case_subject(case)
    assert not subject.get_image("image")._loaded
    np.testing.assert_array_equal(subject.get_image("image").numpy(), numbered())
    np.testing.assert_array_equal(subject.get_image("labels").numpy()[0], two_spots())


def test_sampling_reads_no_volume(case: CachedCase) -> None:
    subject = case_subject(case)
    patch = next(iter(UniformSampler((8, 8, 8))(subject)))
    assert patch.spatial_shape == (8, 8, 8)
    assert not subject.get_image("image")._loaded


def test_a_patch_says_where_it_lies(case: CachedCase) -> None:
    for patch in UniformSampler((5, 6, 7))(case_subject(case), num_patches=10):
        i, j, k, *ends = patch[tio.LOCATION].tolist()
        assert [ends[0] - i, ends[1] - j, ends[2] - k] == [5, 6, 7]
        box = np.s_[i : i + 5, j : j + 6, k : k + 7]
        np.testing.assert_array_equal(patch.get_image("image").numpy(), numbered()[:, *box])
        np.testing.assert_array_equal(patch.get_image("labels").numpy()[0], two_spots()[box])


def test_torchio_sampling_follows_torch_seed(case: CachedCase) -> None:
    def places() -> list[list[int]]:
        torch.manual_seed(3)
        patches = ForegroundSampler((4, 4, 4))(case_subject(case), num_patches=5)
        return [patch[tio.LOCATION].tolist() for patch in patches]

    assert places() == places()


def test_torchio_queue_feeds_from_the_cache(four_cases: list[CachedCase]) -> None:
    queue = tio.Queue(
        tio.SubjectsDataset([case_subject(case) for case in four_cases], load_getitem=False),
        max_length=8,
        samples_per_volume=2,
        sampler=ForegroundSampler((6, 6, 6)),
        num_workers=0,
    )
    patches = list(islice(tio.SubjectsLoader(queue, batch_size=2), 4))
    assert [batch["image"]["data"].shape for batch in patches] == [(2, 3, 6, 6, 6)] * 4


@given(shape=sizes, size=sizes, number=st.integers(0, 99))
def test_patches_stay_in_the_volume_where_they_fit(
    shape: tuple[int, int, int], size: tuple[int, int, int], number: int
) -> None:
    lowest, highest = allowed_starts(shape, size)
    for n, p, low, high in zip(shape, size, lowest, highest, strict=True):
        if p <= n:
            assert (low, high) == (0, n - p)
        else:
            before, after = -low, low + p - n
            assert low == high
            assert before - after in (0, 1)


def test_every_position_is_drawn(case: CachedCase) -> None:
    sampler, generator = UniformSampler((19, 17, 16)), np.random.default_rng(0)
    starts = {sampler.draw_start(case, generator) for _ in range(100)}
    assert starts == {(i, j, 0) for i in (0, 1) for j in (0, 1)}


def test_foreground_labels_are_drawn_evenly(case: CachedCase) -> None:
    sampler, generator = ForegroundSampler((1, 1, 1)), np.random.default_rng(0)
    starts = [sampler.draw_start(case, generator) for _ in range(2000)]
    assert all(two_spots()[start] for start in starts)
    rare = np.mean([start == (17, 15, 13) for start in starts])
    assert rare == pytest.approx(0.5, abs=0.05)
    assert len(set(starts)) == 65


def test_a_patch_around_the_border_is_moved_inside(case: CachedCase) -> None:
    sampler, generator = ForegroundSampler((10, 10, 10)), np.random.default_rng(0)
    starts = {sampler.draw_start(case, generator) for _ in range(400)}
    assert (10, 8, 6) in starts  # label 2 at (17, 15, 13), the patch would end at (22, 20, 18)
    assert min(min(start) for start in starts) == 0


def test_a_case_without_foreground_is_sampled_evenly(tmp_path: Path) -> None:
    empty = make_case(tmp_path, "empty", np.zeros(SHAPE, dtype=np.int64))
    sampler = ForegroundSampler((19, 18, 16))
    starts = {sampler.draw_start(empty, np.random.default_rng(n)) for n in range(30)}
    assert starts == {(0, 0, 0), (1, 0, 0)}


def test_small_volumes_lie_in_the_middle_of_zeros(tmp_path: Path) -> None:
    labels = np.ones((3, 4, 5), dtype=np.int64)
    small = make_case(tmp_path, "small", labels)
    dataset = PatchDataset([small], (7, 4, 4), seed=0)
    for number in range(3):
        sample = dataset[number]
        assert sample["image"].shape == (3, 7, 4, 4)
        assert sample["labels"].shape == (1, 7, 4, 4)
        inside = sample["labels"][0] == 1
        assert inside[2:5].all()
        assert inside.sum() == 3 * 4 * 4
        assert (sample["image"][0] == torch.tensor([0, 0, 1, 2, 3, 0, 0])[:, None, None]).all()


def test_a_box_beside_the_volume_is_empty(case: CachedCase) -> None:
    image, labels = read_box(case, (30, 0, 0), (4, 4, 4))
    assert not image.any()
    assert not labels.any()


@pytest.mark.parametrize("share", [0, 0.25, 1 / 3, 0.5, 0.7, 1])
def test_the_foreground_share_is_exact(case: CachedCase, share: float) -> None:
    dataset = PatchDataset([case], (4, 4, 4), seed=0, foreground=share)
    chosen = [dataset.is_foreground(number) for number in range(300)]
    assert sum(chosen) == round(300 * share)
    if share == 1 / 3:
        assert all(sum(chosen[i : i + 3]) == 1 for i in range(298))


def test_foreground_samples_hold_foreground(case: CachedCase) -> None:
    dataset = PatchDataset([case], (4, 4, 4), seed=0)
    for number in range(30):
        if dataset.is_foreground(number):
            assert dataset[number]["labels"].any()


def test_every_case_comes_once_per_pass(four_cases: list[CachedCase]) -> None:
    dataset = PatchDataset(four_cases, (4, 4, 4), seed=0)
    order = [dataset.case_index(number) for number in range(40)]
    passes = [tuple(order[i : i + 4]) for i in range(0, 40, 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in passes)
    assert len(set(passes)) > 3


def samples(dataset: PatchDataset, numbers: range) -> list[torch.Tensor]:
    return [dataset[number]["image"] for number in numbers]


def test_a_sample_depends_on_its_number_and_seed_alone(four_cases: list[CachedCase]) -> None:
    def dataset(seed: int) -> PatchDataset:
        return PatchDataset(four_cases, (8, 8, 8), seed=seed, augmentation=MIRRORING)

    there, back = dataset(1), dataset(1)
    forward = samples(there, range(12))
    backward = samples(back, range(11, -1, -1))[::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    other = samples(dataset(2), range(12))
    assert not any(torch.equal(a, b) for a, b in zip(forward, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_the_batches_it_would_have_seen(
    four_cases: list[CachedCase], workers: int
) -> None:
    dataset = PatchDataset(four_cases, (8, 8, 8), seed=1, augmentation=MIRRORING)
    cpu = torch.device("cpu")
    whole = list(islice(batches(dataset, 2, first_step=0, workers=0, device=cpu), 5))
    resumed = islice(batches(dataset, 2, first_step=3, workers=workers, device=cpu), 2)
    for expected, found in zip(whole[3:], resumed, strict=True):
        assert torch.equal(expected["image"], found["image"])
        assert torch.equal(expected["labels"], found["labels"])
        assert expected["case"] == found["case"]
    assert found["image"].shape == (2, 3, 8, 8, 8)
    assert found["image"].dtype == torch.float32
    assert found["labels"].shape == (2, 1, 8, 8, 8)
    assert found["labels"].dtype == torch.uint8


@given(size=sizes, number=st.integers(0, 10_000))
def test_augmented_patches_have_the_patch_size(
    case: CachedCase, size: tuple[int, int, int], number: int
) -> None:
    augmentation = Augmentation(
        affine_probability=1, elastic_probability=1, intensity_probability=0.5
    )
    sample = PatchDataset([case], size, seed=0, augmentation=augmentation)[number]
    assert sample["image"].shape == (3, *size)
    assert sample["labels"].shape == (1, *size)
    assert sample["image"].isfinite().all()
    assert set(sample["labels"].unique().tolist()) <= {0, 1, 2}


def test_changes_grow_with_the_share_of_the_voxels_that_a_patch_covers(
    case: CachedCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.data.augment.FEW_PATCHES", 1)
    growing = Augmentation(stronger_after=30.0, affine_probability=1)
    steady = replace(growing, stronger_after=0.0)
    doubled = replace(growing.after(60, times=60), stronger_after=0.0)
    half = (SHAPE[0], SHAPE[1] // 2, SHAPE[2])
    for size, numbers in ((SHAPE, (29, 60)), (half, (59, 120))):
        before, after = (
            [
                PatchDataset([case], size, seed=0, augmentation=augmentation)[number]["image"]
                for augmentation in (growing, expected)
            ]
            for number, expected in zip(numbers, (steady, doubled), strict=True)
        )
        assert torch.equal(*before)
        assert torch.equal(*after)
        unlike = PatchDataset([case], size, seed=0, augmentation=steady)[numbers[1]]["image"]
        assert not torch.equal(after[0], unlike)
    two = PatchDataset([case, case], SHAPE, seed=0, augmentation=growing)
    alone = PatchDataset([case, case], SHAPE, seed=0, augmentation=steady)
    assert torch.equal(two[59]["image"], alone[59]["image"])


def test_rotated_patches_are_filled_from_around_them(tmp_path: Path) -> None:
    shape = (48, 48, 48)
    labels = np.ones(shape, dtype=np.int64)
    full = make_case(tmp_path, "full", labels, np.ones((1, *shape), dtype=np.float32))
    augmentation = Augmentation(affine_probability=1, intensity_probability=0)
    dataset = PatchDataset([full], (16, 16, 16), seed=0, augmentation=augmentation)
    filled = [bool(dataset[number]["labels"].all()) for number in range(100)]
    assert np.mean(filled) > 0.3  # without reading around the patch nearly none would be


@given(size=sizes, number=st.integers(0, 10_000))
def test_maps_move_as_the_image_does(
    case: CachedCase, size: tuple[int, int, int], number: int
) -> None:
    augmentation = Augmentation(
        affine_probability=0.7,
        elastic_probability=0.7,
        intensity_probability=0,
        mirror_axes=(0, 1, 2),
        mirrored_labels=(0, 2, 1),
    )
    maps = CaseMaps(cases=(case,), mirrored=(2, 1, 0))
    dataset = PatchDataset([case], size, seed=0, augmentation=augmentation, maps=maps)
    plain = PatchDataset([case], size, seed=0, augmentation=augmentation)
    sample = dataset[number]
    assert torch.equal(sample["image"], plain[number]["image"])  # nothing else is drawn
    kept, swapped = sample["image"], sample["image"].flip(0)
    assert torch.equal(sample["maps"], kept) or torch.equal(sample["maps"], swapped)


def test_maps_change_places_where_labels_change_sides(case: CachedCase) -> None:
    augmentation = Augmentation(
        affine_probability=0,
        elastic_probability=0,
        intensity_probability=0,
        mirror_axes=(0,),
        mirrored_labels=(0, 2, 1),
    )
    dataset = PatchDataset(
        [case],
        SHAPE,
        seed=0,
        augmentation=augmentation,
        maps=CaseMaps(cases=(case,), mirrored=(2, 1, 0)),
    )
    seen = set()
    for number in range(8):
        sample = dataset[number]
        flipped = bool(sample["labels"][0, 2, 15, 13] == 1)  # label 2 came from the other side
        expected = numbered()[::-1, ::-1] if flipped else numbered()
        np.testing.assert_array_equal(sample["maps"].numpy(), expected)
        seen.add(flipped)
    assert seen == {True, False}


def test_maps_without_augmentation_are_cut_with_the_patch(case: CachedCase) -> None:
    dataset = PatchDataset([case], (8, 30, 8), seed=0, maps=CaseMaps(cases=(case,)))
    for number in range(6):
        assert torch.equal(dataset[number]["maps"], dataset[number]["image"])


def test_wrong_cases_are_refused(tmp_path: Path, case: CachedCase) -> None:
    image = np.zeros((1, 4, 4, 4), dtype=np.float32)
    unlabelled = CachedCase.write(
        tmp_path / "u", case_id="u", image=image, labels=None, num_labels=2
    )
    single = make_case(tmp_path, "single", np.zeros((4, 4, 4), dtype=np.int64), image)
    with pytest.raises(DataError, match="no cases"):
        PatchDataset([], (4, 4, 4), seed=0)
    with pytest.raises(DataError, match="case u: no labels"):
        PatchDataset([unlabelled], (4, 4, 4), seed=0)
    with pytest.raises(DataError, match="case single: 1 channels, but case spots has 3"):
        PatchDataset([case, single], (4, 4, 4), seed=0)
    with pytest.raises(ConfigError, match=r"foreground is 1\.5"):
        PatchDataset([case], (4, 4, 4), seed=0, foreground=1.5)


def test_a_dataset_ends_at_its_length(case: CachedCase) -> None:
    dataset = PatchDataset([case], (4, 4, 4), seed=0, length=3)
    assert len(dataset) == 3
    with pytest.raises(IndexError):
        dataset[3]


def test_a_real_case_keeps_its_labels_on_its_image(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "hippocampus"
    name = "hippocampus_001.nii.gz"
    volume = read_image(folder / "imagesTr" / name)
    labels = read_labels(folder / "labelsTr" / name).labels
    # The image shows the labels, so that any shift between the two would be seen.
    image = labels[None].astype(np.float32)
    assert image.shape == volume.array.shape
    real = make_case(tmp_path, name, labels.astype(np.int64), image)
    augmentation = Augmentation(
        affine_probability=1, elastic_probability=1, intensity_probability=0
    )
    dataset = PatchDataset([real], (40, 56, 40), seed=0, augmentation=augmentation)
    for number in range(6):
        sample = dataset[number]
        shown, moved = sample["image"][0], sample["labels"][0]
        assert set(moved.unique().tolist()) == {0, 1, 2}
        pure = (shown - shown.round()).abs() < 1e-4
        agreement = (shown.round() == moved)[pure & (shown != 1)]
        assert agreement.float().mean() > 0.999
