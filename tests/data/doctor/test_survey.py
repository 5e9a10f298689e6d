"""Every case is read once; what is measured agrees with numpy on the whole array."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg3d.data.cases import Case, Dataset
from medseg3d.data.doctor import reading
from medseg3d.data.doctor.facts import CaseFacts
from medseg3d.data.doctor.survey import Pictures, _channel_facts, survey, survey_case
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, read_image, read_labels, write_labels

AFFINE = np.diag([2.0, 1.0, 3.0, 1.0])
SHAPE = (7, 6, 5)


def case_of(folder: Path, *images: np.ndarray, labels: np.ndarray, name: str = "a") -> Case:
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{name}_{number:04d}.nii.gz")
        nib.Nifti1Image(image, AFFINE).to_filename(paths[-1])
    target = folder / f"{name}.nii.gz"
    nib.Nifti1Image(labels, AFFINE).to_filename(target)
    return Case(name, tuple(paths), target, name)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-50, 200, SHAPE).astype(np.int16)


def some_labels(high: int = 2) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint16 if high < 65536 else np.uint32)
    labels[1:3], labels[5, 2:4] = 1, high
    return labels


def measured(case: Case) -> CaseFacts:
    facts, findings, _ = survey_case(case)
    assert facts is not None
    assert findings == []
    return facts


@pytest.mark.parametrize("high", [2, 300, 40_000, 70_000])
def test_label_counts_means_and_deviations_are_those_of_the_voxels(
    tmp_path: Path, high: int
) -> None:
    image, labels = noise(0), some_labels(high)
    facts = measured(case_of(tmp_path, image, labels=labels.astype(np.int32)))
    assert facts.label_counts == {v: int((labels == v).sum()) for v in (0, 1, high)}
    for value in (0, 1, high):
        inside = image[labels == value]
        assert facts.label_means[value] == pytest.approx(inside.mean())
        assert facts.label_sds[value] == pytest.approx(inside.std())
    low, _, median, _, _ = np.percentile(image[image != 0], [1, 25, 50, 75, 99])
    assert facts.channels[0].minimum == image.min()
    assert facts.channels[0].maximum == image.max()
    assert facts.channels[0].percentiles[0] == pytest.approx(low)
    assert facts.channels[0].percentiles[2] == pytest.approx(median)


def test_equal_voxels_have_equal_digests_whatever_stores_them(tmp_path: Path) -> None:
    image = noise(1)
    changed = image.copy()
    changed[3, 2, 1] += 1
    digests = [
        measured(case_of(tmp_path, stored, labels=np.ones_like(stored), name=name)).digest
        for name, stored in (
            ("a", image),
            ("b", image.astype(np.float32)),
            ("c", changed),
            ("d", image.reshape(SHAPE[::-1])),
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_mirrored_label_map_is_measured_where_it_lies(tmp_path: Path) -> None:
    image, labels = noise(2), some_labels()
    case = case_of(tmp_path, image, labels=labels)
    mirrored = AFFINE @ np.array(
        [[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    nib.Nifti1Image(labels[::-1], mirrored).to_filename(str(case.labels))
    facts = measured(case)
    assert facts.is_turned
    assert facts.label_means[1] == pytest.approx(image[labels == 1].mean())


def test_the_box_is_where_any_channel_is_not_zero(tmp_path: Path) -> None:
    first, second = np.zeros((2, *SHAPE), np.int16)
    first[2, 3, 1] = second[4, 1, 1] = 5
    facts = measured(case_of(tmp_path, first, second, labels=some_labels()))
    assert facts.box == (slice(2, 5), slice(1, 4), slice(1, 2))
    assert facts.num_channels == 2


def test_pictures_are_kept_by_case_and_not_in_memory() -> None:
    pictures = Pictures()
    assert dict(pictures) == {}
    drawn = {f"p{number}": bytes([number]) * number for number in range(1, 5)}
    for case, picture in drawn.items():
        pictures.add(case, picture)
        assert pictures["p1"] == drawn["p1"]  # read between two writes
    assert dict(pictures) == drawn
    assert "p9" not in pictures


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        case_of(tmp_path, noise(n), noise(n + 9), labels=some_labels(), name=f"c{n}")
        for n in range(3)
    ]
    read: list[Any] = []
    for name, function in (("read_image", read_image), ("read_labels", read_labels)):
        monkeypatch.setattr(
            reading, name, lambda path, function=function: read.append(path) or function(path)
        )
    found = survey(Dataset(tmp_path, "test", tuple(cases), None, None))
    assert [facts.case_id for facts in found.facts] == ["c0", "c1", "c2"]
    assert sorted(read) == sorted(f for c in cases for f in (*c.images, c.labels))


def masks(*places: int) -> np.ndarray:
    stacked = np.zeros((*SHAPE, len(places)), np.uint8)
    for number, place in enumerate(places):
        stacked[place, ..., number] = 1
    return stacked


@pytest.mark.parametrize(
    ("labels", "code", "remedy"),
    [
        (masks(1, 2), "label-one-hot", "--onehot"),
        (
            masks(1, 1),
            "label-many-volumes",
            "overlap in 30 voxels, which one label map cannot hold; export one",
        ),
        (some_labels().astype(np.float32) / 4, "label-interpolated", None),
        (np.where(some_labels() == 1, np.nan, 0).astype(np.float32), "label-not-finite", None),
        (-some_labels().astype(np.int16), "label-negative", "--map -2=0"),
    ],
)
def test_a_label_map_that_cannot_be_used_gets_its_kind_and_remedy(
    tmp_path: Path, labels: np.ndarray, code: str, remedy: str | None
) -> None:
    case = case_of(tmp_path, noise(3), labels=labels)
    facts, (finding,), _ = survey_case(case)
    assert facts is not None
    assert facts.label_counts == {}
    assert (finding.code, finding.case, finding.file) == (code, "a", case.labels)
    assert str(case.labels) in finding.message
    assert remedy is None if finding.fix is None else remedy is not None and remedy in finding.fix


def test_a_transposed_label_map_is_not_to_be_resampled(tmp_path: Path) -> None:
    case = case_of(tmp_path, noise(3), labels=some_labels().transpose(2, 1, 0))
    _, (finding,), _ = survey_case(case)
    assert finding.code == "label-grid"
    assert "axes in the order (2, 1, 0)" in finding.message
    assert "export it again from the tool that made it" in str(finding)
    assert "--" not in str(finding)


def test_channels_on_other_grids_and_bad_voxels_are_told(tmp_path: Path) -> None:
    bad = noise(4).astype(np.float32)
    bad[1, 1, 1] = np.inf
    case = case_of(tmp_path, noise(5), bad, labels=some_labels())
    facts, (finding,), _ = survey_case(case)
    assert facts is None
    assert (finding.code, finding.file) == ("image-not-finite", case.images[1])
    nib.Nifti1Image(noise(6), np.diag([1.0, 1, 1, 1])).to_filename(case.images[1])
    facts, (finding,), _ = survey_case(case)
    assert facts is None
    assert finding.code == "channel-grid"
    assert "--resample-channels" in str(finding)


def test_a_label_map_cropped_by_its_viewer_is_measured_where_it_lies(tmp_path: Path) -> None:
    labels = some_labels()
    whole = case_of(tmp_path, noise(0), labels=labels)
    part = labels[1:6]  # every foreground voxel lies there
    moved = AFFINE.copy()
    moved[:3, 3] = AFFINE[:3, :3] @ (1, 0, 0)
    like = Volume.from_array(part[None].astype(np.float32), Grid(part.shape, moved))
    write_labels(tmp_path / "a.seg.nrrd", part, like)
    cropped = measured(replace(whole, labels=tmp_path / "a.seg.nrrd"))
    assert cropped.label_means == measured(whole).label_means
    assert cropped.label_counts == measured(whole).label_counts


@pytest.mark.parametrize("shape", [(200, 200, 250), (256, 256, 195), (200, 200, 500)])
def test_percentiles_are_of_voxels_all_over_the_image(shape: tuple[int, ...]) -> None:
    image = np.broadcast_to(np.arange(1, shape[0] + 1, dtype=np.int16)[:, None, None], shape)
    for channel in (image, image.transpose(1, 0, 2), np.asfortranarray(image)):
        found = _channel_facts(channel).percentiles
        expected = np.percentile(image, [1, 25, 50, 75, 99])
        assert found == pytest.approx(expected, abs=0.03 * shape[0])
