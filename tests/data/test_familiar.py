"""Warnings about cases unlike the training: each kind alone, and silence on real cases."""

from pathlib import Path

import numpy as np
import pytest

from medseg3d.data.canonical import CanonicalCase, canonical
from medseg3d.data.familiar import case_warnings
from medseg3d.data.fingerprint import CaseFingerprint, intensity_extent, measure
from medseg3d.data.layouts import find_cases
from medseg3d.data.plan import Plan, make_plan
from medseg3d.data.sizes import Resources
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, read_image
from medseg3d.types import Spacing

SHAPE = (24, 20, 16)


def body(seed: int = 0) -> np.ndarray:
    """Hounsfield units: air around soft tissue and some bone, ``(1, I, J, K)``."""
    generator = np.random.default_rng(seed)
    image = generator.normal(-1000, 15, SHAPE)
    image[4:20, 4:16] = generator.normal(40, 30, (16, 12, 16))
    image[11:13, 5:8] = generator.normal(700, 200, (2, 3, 16))
    return np.asarray(image[None].round(), dtype=np.float32)


def case(image: np.ndarray, spacing: Spacing = (0.8, 0.8, 2.0)) -> CanonicalCase:
    shape = image.shape[1:]
    return canonical(Volume(image, Grid(shape, np.diag([*spacing, 1.0])), path=None))  # type: ignore[arg-type]


def plan(*images: np.ndarray, channel: str = "CT", spacing: Spacing = (0.8, 0.8, 2.0)) -> Plan:
    cases = [
        CaseFingerprint(
            shape=image.shape[1:],
            spacing=spacing,
            foreground=tuple(part[10:14, 8:12].ravel() for part in image),
            looks_like_ct=(channel == "CT",) * len(image),
            extents=tuple(intensity_extent(part) for part in image),
        )
        for image in images or [body(seed) for seed in range(1, 6)]
    ]
    return make_plan(
        cases,
        label_names={0: "background", 1: "organ"},
        channel_names=[channel] * len(cases[0].extents),
        resources=Resources(on_gpu=False, memory_gb=8.0),
    )


def test_a_case_like_the_training_is_passed_over_in_silence() -> None:
    assert case_warnings(case(body()), plan()) == []


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 2.0), (0.5, 0.5, 1.0), (1.6, 1.6, 4.0)])
def test_spacings_that_resampling_bridges_are_familiar(spacing: Spacing) -> None:
    assert case_warnings(case(np.tile(body(), (1, 2, 2, 2)), spacing), plan()) == []


@pytest.mark.parametrize(
    ("spacing", "said"),
    [
        ((0.8, 0.8, 5.0), "voxels are 5 mm long from foot to head, in training 2 mm"),
        ((5.0, 0.8, 2.0), "voxels are 5 mm long from left to right, in training 0.8 mm"),
        ((0.8, 0.08, 2.0), "voxels are 0.08 mm long from back to front, in training 0.8 mm"),
    ],
)
def test_a_spacing_far_from_the_training_is_named(spacing: Spacing, said: str) -> None:
    (warning,) = case_warnings(case(np.tile(body(), (1, 1, 20, 1)), spacing), plan())
    assert warning.startswith(said)


def test_the_range_of_the_trained_spacings_counts() -> None:
    wide = plan().model_copy(update={"trained_spacing": ((0.8, 0.8, 2.0), (0.8, 0.8, 4.0))})
    assert case_warnings(case(body(), (0.8, 0.8, 9.0)), wide) == []
    (warning,) = case_warnings(case(body(), (0.8, 0.8, 11.0)), wide)
    assert "in training 2 to 4 mm" in warning


def test_a_cut_image_is_named() -> None:
    assert case_warnings(case(body()[:, :, :, :9]), plan()) == []
    (warning,) = case_warnings(case(body()[:, :, :, :4]), plan())
    assert warning.startswith("the image is 8 mm long from foot to head, in training at least 32")


def test_empty_border_does_not_make_an_image_long() -> None:
    image = np.zeros((1, *SHAPE), dtype=np.float32)
    image[..., :4] = body()[..., :4]
    assert any("8 mm long from foot" in warning for warning in case_warnings(case(image), plan()))


def between_0_and_1(image: np.ndarray) -> np.ndarray:
    clipped = image.clip(-1000, 1000)
    return np.asarray((clipped - clipped.min()) / np.ptp(clipped))


@pytest.mark.parametrize(
    "change",
    [
        between_0_and_1,
        lambda image: image + 1024,
        lambda image: image * 0.1,
        lambda image: image * 16,
        lambda image: (image - image.mean()) / image.std(),
    ],
    ids=["0..1", "offset", "tenth", "16 fold", "zscore"],
)
def test_ct_that_is_not_in_hounsfield_units_is_named(change) -> None:  # type: ignore[no-untyped-def]
    found = case_warnings(case(change(body()).astype(np.float32)), plan())
    assert len(found) == 1
    assert "check that they are in Hounsfield units" in found[0]
    assert "channel CT has intensities from" in found[0]


def test_ct_with_padding_or_a_metal_implant_is_familiar() -> None:
    image = body()
    image[:, 0] = -3024
    image[:, 10, 10, 3] = 30000
    assert case_warnings(case(image), plan()) == []


def test_magnetic_resonance_may_have_any_unit() -> None:
    reference = plan(channel="MR")
    for factor in (1e-9, 0.01, 50):
        assert case_warnings(case((body() + 1050) * np.float32(factor)), reference) == []


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((1, *SHAPE), 7), "channel MR is 7 in every voxel"),
        (np.zeros((1, *SHAPE)), "channel MR is 0 in every voxel"),
        ((body() + 1100) * 1e30, "more than any scanner stores"),
    ],
)
def test_constant_and_huge_images_are_named(image: np.ndarray, said: str) -> None:
    found = case_warnings(case(image.astype(np.float32)), plan(channel="MR"))
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize("voxels", [1, 5, 25])
def test_a_few_voxels_that_rule_the_rest_are_named(voxels: int) -> None:
    image = body() + 1050
    image[0, 0, 0, :voxels] = 1e9
    (warning,) = case_warnings(case(image), plan(channel="MR"))
    assert "but for a few voxels" in warning
    assert "1e+09" in warning


def test_bright_vessels_in_the_dark_rule_nothing() -> None:
    image = np.zeros((1, *SHAPE), dtype=np.float32)
    image[0, 3:9:2, 4, 5] = (400, 500, 600)
    image[0, 0, 0, 0] = image[0, -1, -1, -1] = 1
    assert case_warnings(case(image), plan(channel="MR")) == []


def test_each_channel_is_looked_at() -> None:
    two = np.concatenate([body(), np.full((1, *SHAPE), 3, dtype=np.float32)])
    trained = plan(*[np.concatenate([body(n), body(n + 9)]) for n in range(5)], channel="MR")
    assert case_warnings(case(two), trained) == [
        "channel MR is 3 in every voxel, so nothing can be seen in it"
    ]


def test_plans_of_earlier_versions_give_no_warnings_about_what_they_do_not_know() -> None:
    unknown = {"trained_spacing": None, "trained_extent": None}
    old = plan().model_copy(update=unknown | {"trained_lows": (), "trained_highs": ()})
    strange = case(between_0_and_1(body())[..., :2].astype(np.float32), (9.0, 9.0, 9.0))
    assert case_warnings(strange, old) == []


def test_real_held_out_cases_are_familiar(shared_data: Path) -> None:
    dataset = find_cases(shared_data / "hippocampus")
    training = [measure(one) for one in dataset.cases[::10]]
    reference = make_plan(
        training,
        label_names={0: "background", 1: "Anterior", 2: "Posterior"},
        channel_names=["MRI"],
        resources=Resources(on_gpu=False, memory_gb=8.0),
    )
    for one in dataset.cases[5::10]:
        assert case_warnings(canonical(read_image(one.images)), reference) == [], one.id


def test_real_ct_is_unlike_a_hippocampus_and_normalized_ct_unlike_ct(shared_data: Path) -> None:
    volume = read_image((shared_data / "abdomen_ct" / "ts_ct_sm.nii.gz",))
    other = read_image((shared_data / "abdomen_ct" / "chaos3_ct.nii.gz",))
    grid = canonical(volume).grid
    trained = plan(canonical(volume).image, canonical(other).image, spacing=grid.spacing)
    assert case_warnings(canonical(volume), trained) == []
    scaled = Volume(between_0_and_1(volume.image).astype(np.float32), volume.grid, path=None)
    (warning,) = case_warnings(canonical(scaled), trained)
    assert "Hounsfield" in warning
