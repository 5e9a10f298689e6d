"""A run on sparse annotation: what nobody annotated is not learned, predicted or scored."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.api.fitting.planning import planned
from medseg3d.bundle import load_bundle, read_bundle
from medseg3d.config import FitConfig, validated
from medseg3d.data.plan import Plan
from tests.api.small_sets import SMALL, write_cases

LABELS = {"background": 0, "organ": 1, "bone": 2, "ignore": 5}
OPTIONS = SMALL | {"width": 4, "patch_size": (8, 8, 8), "seed": 3, "steps_per_epoch": 12}


def labels_in(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def dice(prediction: np.ndarray, reference: np.ndarray, value: int) -> float:
    ours, theirs = prediction == value, reference == value
    return float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("sparse"), LABELS)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("runs")
    return medseg3d.fit(data, out=folder / "run", cache=folder / "cache", **OPTIONS)


def test_the_model_knows_the_annotated_labels_only(run: medseg3d.Run) -> None:
    plan = read_bundle(run.bundle).plan
    assert plan.ignore_label == 5
    assert plan.labels == {0: "background", 1: "organ", 2: "bone"}
    assert set(run.dice) == {"organ", "bone"}
    for path in run.folder.glob("validation/*.nii.gz"):
        assert set(np.unique(labels_in(path))) <= {0, 1, 2}


def test_scores_are_of_what_is_annotated(run: medseg3d.Run, data: Path, tmp_path: Path) -> None:
    found = {(row.case, row.label): row.scores["dice"] for row in run.scores.rows}
    folder = run.folder / "validation"
    result = medseg3d.score(folder, data / "labelsTr", skip_unpaired=True, out=tmp_path / "s.csv")
    again = {(row.case, row.label): row.scores["dice"] for row in result.rows}
    assert found.keys() == again.keys()
    for case, value in found:
        prediction = labels_in(folder / f"{case}.nii.gz")
        reference = labels_in(data / "labelsTr" / f"{case}.nii.gz")
        known = reference != 5
        expected = dice(prediction[known], reference[known], value)
        assert found[case, value] == pytest.approx(expected, abs=1e-6)
        assert again[case, value] == pytest.approx(expected, abs=1e-6)
    assert max(found.values()) > 0, "something was found, or nothing is told"


@pytest.mark.parametrize("is_free", [False, True])
def test_a_plan_that_is_used_again_keeps_what_its_value_stands_for(
    run: medseg3d.Run, data: Path, tmp_path: Path, is_free: bool
) -> None:
    for kind, name in (("imagesTr", "images"), ("labelsTr", "labels")):  # and nothing declared
        (tmp_path / name).mkdir()
        for path in (data / kind).iterdir():
            shutil.copy(path, tmp_path / name / path.name.replace("_0000", ""))
    plan = Plan.load(run.folder / "plan.yaml").model_copy(update={"ignore_is_free": is_free})
    plan.save(tmp_path / "plan.yaml")
    given = {"data": tmp_path, "plan": tmp_path / "plan.yaml", "folds": 2, "device": "cpu"}
    found = planned(validated(FitConfig, given), tmp_path / "again")[1]
    assert (found.ignore_label, found.ignore_is_free) == (5, is_free)


def test_the_value_may_be_declared_or_given_and_be_any(
    run: medseg3d.Run, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for path in sorted(data.rglob("*.nii.gz")):
        volume = nib.load(path)
        array = np.asarray(volume.dataobj).copy()
        if path.parent.name == "labelsTr":
            array[array == 5] = 77
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, volume.affine), other / path.parent.name / path.name)
    facts = json.loads((data / "dataset.json").read_text())
    del facts["labels"]["ignore"]
    (other / "dataset.json").write_text(json.dumps(facts))
    again = medseg3d.fit(
        other, out=tmp_path / "run", cache=tmp_path / "cache", ignore_label=77, **OPTIONS
    )
    scored = medseg3d.score(
        *(again.folder / "validation", other / "labelsTr"),
        out=tmp_path / "scores.csv",
        skip_unpaired=True,
    )
    assert scored.rows == again.scores.rows, "score knows the value from the run"
    first, second = load_bundle(run.bundle)[1], load_bundle(again.bundle)[1]
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert again.dice == pytest.approx(run.dice)
