"""The box of the body: what it must never cut, and that it cuts air."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medseg3d.data.body import body_box
from medseg3d.data.canonical import Box, CanonicalCase, canonical, labels_on
from medseg3d.data.plan import Normalization, Plan
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, read_image, read_labels

CT = Normalization(name="CT", scheme="ct", lower=-200, upper=300, mean=40, sd=90)
MR = Normalization(name="MR", scheme="zscore", lower=0, upper=1, mean=0, sd=1)
MM = np.diag([4.0, 4.0, 5.0, 1.0])
SHAPE = (100, 90, 24)


def plan(*channels: Normalization) -> Plan:
    return Plan(
        num_cases=1,
        labels={0: "background", 1: "organ"},
        channels=channels,
        spacing=(4.0, 4.0, 5.0),
        coarse_axis=None,
        median_shape=(8, 8, 8),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3),) * 2,
        width=8,
        max_width=320,
    )


def case(*channels: npt.NDArray[np.generic]) -> CanonicalCase:
    image = np.stack(channels).astype(np.int16)
    return canonical(Volume.from_array(image, Grid(SHAPE, MM)))


def body() -> npt.NDArray[np.bool_]:
    """An ellipse of 200 x 136 mm, 40 mm beside the middle, in all slices."""
    i, j = np.ogrid[:100, :90]
    ellipse = ((i - 60) / 25) ** 2 + ((j - 40) / 17) ** 2 < 1
    return np.repeat(ellipse[..., None], 24, axis=2)


def noise(sd: float, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, sd, SHAPE)


def ct() -> npt.NDArray[np.float64]:
    return np.where(body(), 40, -1000) + noise(20)


def mr(air: float = 10.0) -> npt.NDArray[np.float64]:
    """Noise as in a magnitude image: never below zero."""
    return np.hypot(np.where(body(), 500, 0) + noise(air), noise(air, seed=1))


def ends(box: Box) -> list[tuple[int, int]]:
    return [(part.start, part.stop) for part in box]


def is_whole(box: Box) -> bool:
    return ends(box) == [(0, n) for n in SHAPE]


def margins(box: Box, mask: npt.NDArray[np.bool_]) -> list[float]:
    """Millimeters between what is marked and the ends of the box, along the first two axes."""
    found = []
    for axis, part in enumerate(box[:2]):
        places = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        found += [4.0 * (places[0] - part.start), 4.0 * (part.stop - 1 - places[-1])]
    return found


@pytest.mark.parametrize(("image", "rule"), [(ct(), CT), (mr(), MR), (mr(25.0), MR)])
def test_air_is_cut_and_a_margin_kept(image: npt.NDArray[np.float64], rule: Normalization) -> None:
    box = body_box(case(image), plan(rule))
    kept = margins(box, body())
    assert min(kept) >= 16
    assert max(kept) <= 32
    assert ends(box)[2] == (0, 24)


def test_a_table_is_left_out_and_what_lies_on_it_is_not() -> None:
    image = ct()
    image[20:95, 5:7] = 100  # 300 mm wide, 8 mm thick, in all slices
    box = body_box(case(image), plan(CT))
    assert box[1].start > 7
    image[62:66, 7:24] = 40  # touching the body
    assert body_box(case(image), plan(CT))[1].start <= 7 + 17


@pytest.mark.parametrize(
    "thin",
    [
        np.s_[10:12, 40:43, 5:15],  # a hand beside the body
        np.s_[5:30, 70:72, 3:8],  # a forearm across
        np.s_[88:90, 20:60, :],  # a thin wall through all slices, not wide
    ],
)
def test_thin_parts_beside_the_body_are_kept(thin: tuple[slice, ...]) -> None:
    image = ct()
    image[thin] = 60
    part = np.zeros(SHAPE, np.bool_)
    part[thin] = True
    box = body_box(case(image), plan(CT))
    assert part[box].sum() == part.sum()


def test_any_channel_counts() -> None:
    second = noise(10.0)
    second[5:15, 60:70] += 400
    marked = second > 200
    box = body_box(case(mr(), np.abs(second)), plan(MR, MR))
    assert marked[box].sum() == marked.sum()
    assert min(margins(box, body())) >= 16


def test_dark_surroundings_of_bright_parts_are_kept() -> None:
    image = mr(5.0)
    rim = body() & ~np.roll(body(), 4, axis=1)
    image[rim] = 60  # 12 % of the brightest, as where a coil hardly reaches
    assert min(margins(body_box(case(image), plan(MR)), body())) >= 12


@pytest.mark.parametrize(
    "image",
    [
        np.full(SHAPE, 40.0),
        np.zeros(SHAPE),
        noise(100.0) + 500,
        np.where(body(), -1000, 40) + noise(5),
        mr(100.0),
    ],
)
@pytest.mark.parametrize("rule", [CT, MR])
def test_where_no_air_can_be_told_everything_is_kept(
    image: npt.NDArray[np.float64], rule: Normalization
) -> None:
    assert is_whole(body_box(case(image), plan(rule)))


def test_all_air_is_kept() -> None:
    assert is_whole(body_box(case(noise(10) - 1000), plan(CT)))


def test_ct_in_another_unit_is_kept() -> None:
    assert is_whole(body_box(case(ct() + 1024), plan(CT)))


def test_a_skull_stripped_image_keeps_its_brain() -> None:
    image = np.where(body(), mr(30.0), 0)
    box = body_box(case(image), plan(MR))
    assert body()[box].sum() == body().sum()
    assert not is_whole(box)


@pytest.mark.parametrize("rule", [CT, MR])
@pytest.mark.parametrize("edge", [0.1, 0.4, 4.0])
@pytest.mark.parametrize("shape", [(3, 4, 2), (1, 1, 9), (30, 1, 40)])
def test_tiny_images_are_kept(
    shape: tuple[int, int, int], edge: float, rule: Normalization
) -> None:
    image = np.random.default_rng(0).integers(0, 900, (1, *shape)).astype(np.int16)
    tiny = canonical(Volume.from_array(image, Grid(shape, np.diag([edge, edge, edge, 1.0]))))
    assert ends(body_box(tiny, plan(rule))) == [(0, n) for n in shape]


REAL = [
    ("abdomen_ct/chaos3_ct.nii.gz", "abdomen_ct/chaos3_liver.nii.gz", CT),
    ("abdomen_ct/ts_ct_sm.nii.gz", "abdomen_ct/ts_ct_sm_seg.nii.gz", CT),
    ("abdomen_ct/spleen2_ct.nii.gz", "abdomen_ct/spleen2_spleen.nii.gz", CT),
    ("abdomen_ct/ts_mr_sm.nii.gz", "abdomen_ct/ts_mr_sm_seg.nii.gz", MR),
    ("brain/brain1_image.nrrd", "brain/brain1_label.nrrd", MR),
    ("breast/breast1_image.nrrd", "breast/breast1_label.nrrd", MR),
    ("dicom/ts_ct_j2k", "dicom/ts_ct_j2k_seg.nii.gz", CT),
    ("multimodal/ms19_flair.nii.gz", "multimodal/ms19_lesions.nii.gz", MR),
    ("multimodal/ms19_t1.nii.gz", "multimodal/ms19_lesions.nii.gz", MR),
    ("spine/sct_t1w.nii.gz", "spine/sct_t1w_seg-manual.nii.gz", MR),
    ("spine/sct_t2.nii.gz", "spine/sct_t2_seg-manual.nii.gz", MR),
    ("spine/sub-unf01_T1w.nii.gz", "spine/sub-unf01_T1w_seg.nii.gz", MR),
    ("spine/sub-unf01_T2w.nii.gz", "spine/sub-unf01_T2w_seg.nii.gz", MR),
    ("spine/sub-unf01_T2star.nii.gz", "spine/sub-unf01_T2star_seg.nii.gz", MR),
]


@pytest.mark.parametrize(("image", "labels", "rule"), REAL)
def test_labels_of_real_cases_lie_within(
    shared_data: Path, image: str, labels: str, rule: Normalization
) -> None:
    volume = read_image(shared_data / image)
    reference = labels_on(read_labels(shared_data / labels), volume.grid)
    real = canonical(volume, reference)
    assert real.labels is not None
    box = body_box(real, plan(rule))
    assert np.count_nonzero(real.labels[box]) == np.count_nonzero(real.labels)


def test_labels_of_small_brain_parts_lie_within(shared_data: Path) -> None:
    files = sorted((shared_data / "hippocampus" / "imagesTr").glob("h*.nii.gz"))[::20]
    assert files
    for file in files:
        volume = read_image(file)
        found = read_labels(file.parents[1] / "labelsTr" / file.name)
        real = canonical(volume, labels_on(found, volume.grid))
        assert real.labels is not None
        box = body_box(real, plan(MR))
        assert np.count_nonzero(real.labels[box]) == np.count_nonzero(real.labels)
