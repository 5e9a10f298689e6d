"""Voxels that nobody annotated: from ``dataset.json`` to the patches of training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.config import validated
from medseg3d.data.annotation import only_annotated
from medseg3d.data.cache import CachedCase
from medseg3d.data.canonical import load_case
from medseg3d.data.cases import description_near
from medseg3d.data.checks import check_cases
from medseg3d.data.doctor.facts import Folding
from medseg3d.data.fingerprint import measure
from medseg3d.data.layouts import find_cases
from medseg3d.data.patches import PatchDataset, UniformSampler
from medseg3d.data.plan import Normalization, Plan
from medseg3d.data.preprocess import preprocess, preprocessing_key
from medseg3d.errors import ConfigError, DataError

PLAN: dict[str, Any] = {
    "num_cases": 2,
    "labels": {0: "background", 3: "core", 7: "shell"},
    "channels": (Normalization(name="MR", scheme="zscore", lower=0, upper=9, mean=5, sd=1),),
    "spacing": (1.0, 1.0, 1.0),
    "coarse_axis": None,
    "median_shape": (8, 8, 8),
    "patch_size": (4, 4, 4),
    "batch_size": 1,
    "strides": ((2, 2, 2),),
    "kernels": ((3, 3, 3), (3, 3, 3)),
    "width": 4,
    "max_width": 8,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two cases with labels 3 and 7; all but two planes are 9, which is ``ignore``."""
    for number in range(2):
        generator = np.random.default_rng(number)
        labels = generator.choice(np.array([0, 3, 7], np.uint8), (8, 9, 10))
        image = 10 + labels + generator.random(labels.shape)
        labels[:, :, 2:] = 9
        image[labels == 9] = 500
        for kind, array in (("images", image.astype(np.float32)), ("labels", labels)):
            (tmp_path / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / kind / f"case_{number}.nii.gz")
    names = {"background": 0, "core": 3, "shell": 7, "ignore": 9}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    return tmp_path


def test_dataset_json_names_the_value(data: Path) -> None:
    found = find_cases(data)
    assert found.ignore_label == 9
    assert found.label_names == {0: "background", 3: "core", 7: "shell"}
    assert description_near(data / "labels").ignore_label == 9
    checked = check_cases(found, folding=Folding(2))
    assert checked.label_values == (0, 3, 7)


def test_an_option_names_the_value_too(data: Path) -> None:
    (data / "dataset.json").unlink()
    found = find_cases(data).ignoring(7)
    assert found.ignore_label == 7
    assert check_cases(found, folding=Folding(2)).label_values == (0, 3, 9)
    assert find_cases(data).ignoring(None).ignore_label is None
    named = {"labels": {"background": 0, "core": 3, "unsure": 7, "rest": 9}}
    (data / "dataset.json").write_text(json.dumps(named))
    assert find_cases(data).ignoring(7).label_names == {0: "background", 3: "core", 9: "rest"}


def test_intensities_are_measured_on_what_is_annotated(data: Path) -> None:
    case = find_cases(data).cases[0]
    (sample,) = measure(case, ignore_label=9).foreground
    labels = load_case(case).labels
    assert labels is not None
    assert len(sample) == np.isin(labels, (3, 7)).sum()
    assert sample.max() < 20 < measure(case).foreground[0].max()
    assert set(measure(case, ignore_label=9).sides) == {3, 7}


def test_the_value_becomes_the_index_after_the_labels(data: Path) -> None:
    plan = Plan(**PLAN, ignore_label=9)
    assert plan.ignore_index == plan.num_labels == 3
    case = load_case(find_cases(data).cases[0])
    found = preprocess(case, plan).labels
    assert found is not None
    assert case.labels is not None
    np.testing.assert_array_equal(
        found, np.select([case.labels == v for v in (0, 3, 7, 9)], range(4))
    )
    with pytest.raises(DataError, match="label value 9"):
        preprocess(case, Plan(**PLAN))
    plain = Plan(**PLAN | {"labels": {0: "background", 1: "a", 2: "b"}}, ignore_label=3)
    renamed = replace(case, labels=np.searchsorted([0, 3, 7, 9], case.labels).astype(np.uint8))
    np.testing.assert_array_equal(preprocess(renamed, plain).labels, found)


def test_only_plans_that_ignore_have_another_cache() -> None:
    keys = {preprocessing_key(Plan(**PLAN, ignore_label=value)) for value in (None, 8, 9)}
    assert len(keys) == 3
    assert preprocessing_key(Plan(**PLAN)) in keys


@pytest.mark.parametrize("value", [0, 3, -1])
def test_a_label_cannot_be_ignored(value: int) -> None:
    with pytest.raises(ConfigError, match="ignore_label"):
        validated(Plan, PLAN | {"ignore_label": value})


def sparse(labels: np.ndarray[Any, Any], folder: Path) -> CachedCase:
    image = np.zeros((1, *labels.shape), np.float32)
    return CachedCase.write(
        folder, case_id="a", image=image, labels=labels, num_labels=3, may_ignore=True
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 999), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_what_is_cached_tells_annotated_voxels(
    seed: int, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, (7, 6, 9)).astype(np.uint8)
    labels[generator.random(labels.shape) >= share] = 3
    case = sparse(labels, tmp_path_factory.mktemp("case") / "key")
    assert case.label_counts == tuple((labels == index).sum() for index in range(3))
    assert set(case.labels_present) == set(np.unique(labels)) - {0, 3}
    assert case.is_partly_annotated == (labels == 3).any()
    np.testing.assert_array_equal(case.labels(), labels)
    annotated = np.argwhere(labels != 3)
    expected = annotated if case.is_partly_annotated else annotated[:0]
    np.testing.assert_array_equal(case.annotated_voxels(), expected)
    for index in (1, 2):
        np.testing.assert_array_equal(case.coordinates(index), np.argwhere(labels == index))


def test_a_whole_annotation_is_cached_as_ever(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (7, 6, 9)).astype(np.uint8)
    case = sparse(labels, tmp_path / "key")
    assert not case.is_partly_annotated
    sampler = UniformSampler((4, 4, 4))
    starts = {sampler.draw_start(case, np.random.default_rng(seed)) for seed in range(300)}
    assert len(starts) == 4 * 3 * 6


def test_an_index_beyond_is_refused_as_ever(tmp_path: Path) -> None:
    labels = np.full((4, 4, 4), 3, np.uint8)
    with pytest.raises(DataError, match="labels run from 3 to 3, expected 0 to 2"):
        CachedCase.write(
            tmp_path / "key",
            case_id="a",
            image=np.zeros((1, 4, 4, 4), np.float32),
            labels=labels,
            num_labels=3,
        )


def test_every_patch_holds_something_annotated(tmp_path: Path) -> None:
    labels = np.full((20, 20, 20), 3, np.uint8)
    labels[10, 4, 17] = 0
    labels[2:4, 18, 3] = (1, 0)
    case = sparse(labels, tmp_path / "key")
    patches = PatchDataset([case], (5, 4, 6), seed=0, foreground=0.25)
    for number in range(40):
        found = patches[number]["labels"].numpy()
        assert (found != 3).any()
        assert set(np.unique(found)) <= {0, 1, 3}


def test_nothing_annotated_is_no_reason_to_stop(tmp_path: Path) -> None:
    case = sparse(np.full((6, 6, 6), 3, np.uint8), tmp_path / "key")
    assert PatchDataset([case], (4, 4, 4), seed=0)[0]["labels"].unique().tolist() == [3]


def test_only_annotated_leaves_the_given_arrays_alone() -> None:
    prediction, reference = np.array([1, 2, 2]), np.array([9, 2, 9])
    ours, theirs = only_annotated(prediction, reference, 9)
    assert (ours.tolist(), theirs.tolist()) == ([0, 2, 0], [0, 2, 0])
    assert (prediction.tolist(), reference.tolist()) == ([1, 2, 2], [9, 2, 9])
    for value in (None, 5):
        assert only_annotated(prediction, reference, value) == (prediction, reference)
