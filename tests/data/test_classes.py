"""Classes of cases, cases without a label map, and folds and patches of both."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from medseg3d.data.annotation import nowhere_annotated
from medseg3d.data.augment import Augmentation
from medseg3d.data.cache import CachedCase
from medseg3d.data.cases import Case, Dataset
from medseg3d.data.classes import class_indices, class_names, with_classes
from medseg3d.data.layouts import find_cases
from medseg3d.data.patches import PatchDataset
from medseg3d.data.split import Split, deal_folds, with_unlabeled
from medseg3d.errors import DataError
from medseg3d.training.feed import batches

MASK = Path("mask.nii.gz")


def of(*cases: Case, ignore_label: int | None = None) -> Dataset:
    names = {0: "background", 4: "cyst"}
    return Dataset(Path("set"), "test", cases, names, None, ignore_label)


CASES = tuple(Case(f"c{n}", (), MASK if n % 2 else None, f"p{n // 2}") for n in range(4))


def test_each_case_gets_its_class(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text("patient,age,class\np1,7,benign\np0,8,malign\np9,9,other\n")
    found = with_classes(of(*CASES), path).cases
    assert [case.class_name for case in found] == ["malign", "malign", "benign", "benign"]
    assert class_names(found) == ("benign", "malign")
    assert class_indices(found, ("benign", "malign")) == [1, 1, 0, 0]
    assert [replace(case, class_name=None) for case in found] == list(CASES)
    assert class_names(CASES) == ()
    assert class_indices(CASES, ()) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("case,site\nc0,A\n", "has the columns case, site; expected a CSV with .* case and class"),
        ("case,class\nc0,A\nc1,B\n", r"names no class for 2 cases \(c2, c3\); add a line"),
        ("patient,class\np0,A\np1,A\n", "gives all cases the class A; .* takes two"),
        ("patient,class\np0,A\np0,B\n", "line 3: patient p0 has class A and class B; keep one"),
    ],
)
def test_classes_that_cannot_be_meant_are_refused_in_a_sentence(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=told) as refused:
        with_classes(of(*CASES), path)
    assert "\n" not in str(refused.value)


def test_what_lacks_labels_takes_a_value_that_is_free() -> None:
    assert of(*CASES).ignoring_missing([0, 1, 2]).ignore_label == 5  # 4 has a name
    assert of(*CASES).ignoring_missing([0, 1, 9]).ignore_label == 10
    assert of(*CASES, ignore_label=3).ignoring_missing([0, 9]).ignore_label == 3


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_images_without_a_mask_are_cases_where_that_is_wanted(tmp_path: Path) -> None:
    flat, deep = tmp_path / "flat", tmp_path / "deep"
    touch(*(flat / "images" / f"{name}.nii.gz" for name in "abc"), flat / "labels" / "b.nii.gz")
    touch(*(deep / name / "t1.nii.gz" for name in "abc"), deep / "b" / "seg.nii.gz")
    for root in (flat, deep):
        with pytest.raises(DataError, match=r"2 images \(a, c\) without label map"):
            find_cases(root)
        found = find_cases(root, unlabeled=True).cases
        assert [case.id for case in found] == ["a", "b", "c"]
        assert [case.labels is None for case in found] == [True, False, True]
        assert found[1] == find_cases(root, skip_unpaired=True).cases[0]


def test_a_mask_without_an_image_is_refused_all_the_same(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.nii.gz", *(tmp_path / "labels" / f"{n}.nii.gz" for n in "ab"))
    with pytest.raises(DataError, match=r"1 label map \(b\) without image"):
        find_cases(tmp_path, unlabeled=True)


patients = st.lists(st.lists(st.booleans(), min_size=1, max_size=3), min_size=2, max_size=8)


@given(patients=patients, folds=st.integers(2, 5))
def test_what_lacks_labels_is_learned_from_and_never_held_out(
    patients: list[list[bool]], folds: int
) -> None:
    cases = [
        Case(f"p{patient}v{visit}", (), MASK if has_mask else None, f"p{patient}")
        for patient, visits in enumerate(patients)
        for visit, has_mask in enumerate(visits)
    ]
    labeled = [case for case in cases if case.labels is not None]
    patient_of = {case.id: case.patient for case in cases}
    assume(len({case.patient for case in labeled}) > 1)
    dealt = deal_folds(labeled, folds=folds)
    found = with_unlabeled(dealt, cases, learn=True)
    assert list(found) == list(dealt)
    for name, part in found.items():
        assert part.validation == dealt[name].validation
        assert set(part.training) >= set(dealt[name].training)
        sides = [{patient_of[each] for each in side} for side in (part.training, part.validation)]
        assert not sides[0] & sides[1]
        for case in cases:
            if case.labels is None:
                assert (case.id in part.training) == (case.patient not in sides[1])


def test_folds_that_are_given_are_only_rid_of_them() -> None:
    folds = {"0": Split(("c2", "c3"), ("c0", "c1")), "1": Split(("c1",), ("c2", "c3"))}
    found = with_unlabeled(folds, CASES, learn=False)
    assert found == {"0": Split(("c2", "c3"), ("c1",)), "1": Split(("c1",), ("c3",))}
    with pytest.raises(DataError, match="fold 1 holds out only cases without a label map"):
        with_unlabeled({"1": Split(("c1", "c3"), ("c0", "c2"))}, CASES, learn=False)


SHAPE = (6, 7, 8)


def cached(folder: Path, name: str, labels: np.ndarray) -> CachedCase:
    image = np.ones((1, *SHAPE), np.float32)
    return CachedCase.write(
        folder / name, case_id=name, image=image, labels=labels, num_labels=3, may_ignore=True
    )


def test_patches_of_a_case_without_labels_know_nothing_even_beyond_it(tmp_path: Path) -> None:
    blank = cached(tmp_path, "blank", nowhere_annotated(np.ones((1, *SHAPE), np.float32), 3))
    whole = cached(tmp_path, "whole", np.zeros(SHAPE, np.uint8))
    sparse = cached(tmp_path, "sparse", np.arange(336).reshape(SHAPE) % 4)
    assert [case.is_annotated for case in (blank, whole, sparse)] == [False, True, True]
    assert blank.has_labels
    assert blank.label_counts == (0, 0, 0)
    turning = Augmentation(affine_probability=1.0)
    dataset = PatchDataset(
        [blank, whole, sparse], (10, 10, 10), seed=1, augmentation=turning, classes=[2, 0, 1]
    )
    seen: dict[str, set[int]] = {}
    for number in range(12):
        sample = dataset[number]
        seen.setdefault(sample["case"], set()).update(sample["labels"].unique().tolist())
        assert sample["classes"] == {"blank": 2, "whole": 0, "sparse": 1}[sample["case"]]
        assert sample["labels"].shape == (1, 10, 10, 10)
    assert seen["blank"] == {3}
    assert seen["whole"] == {0}
    assert seen["sparse"] == {0, 1, 2, 3}


def test_batches_hold_the_classes(tmp_path: Path) -> None:
    cases = [cached(tmp_path, f"{n}", np.full(SHAPE, n, np.uint8)) for n in range(3)]
    patches = PatchDataset(cases, (4, 4, 4), seed=0, classes=[5, 6, 7])
    batch = next(iter(batches(patches, 3, first_step=0, workers=0, device=torch.device("cpu"))))
    assert batch["classes"].tolist() == [5 + int(name) for name in batch["case"]]
    assert "classes" not in PatchDataset(cases, (4, 4, 4), seed=0)[0]
