"""A folder of outputs and its record: one image on a day, one case made anew, another model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.errors import IncompleteError, RunError
from tests.api.test_predicting_faults import in_folder, write_image

Predict = Callable[..., list[medseg3d.Prediction]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, case in enumerate("ab"):
        write_image(tmp_path / "in" / f"{case}.nii", seed=number)
    return tmp_path


@pytest.fixture
def predict(folder: Path, tiny_model: Path) -> Predict:
    def again(place: str = "in", **options: Any) -> list[medseg3d.Prediction]:
        given = {"model": tiny_model, "out": folder / "out", "format": "nii"} | options
        return medseg3d.predict(folder / place, **given)

    return again


def on_record(folder: Path) -> list[str]:
    stored = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    return sorted(record["case"] for record in stored["cases"].values())


def test_a_folder_of_one_image_is_predicted_every_night(folder: Path, predict: Predict) -> None:
    (folder / "in" / "b.nii").unlink()
    assert len(predict(out=None)) == 1
    assert predict(out=None) == []
    write_image(folder / "in" / "c.nii", seed=3)
    assert [found.case_id for found in predict(out=None)] == ["c"]
    assert on_record(folder / "in_seg") == ["a", "c"]


def test_a_folder_of_slices_that_is_one_image_gets_no_record_beside_it(
    tmp_path: Path, dicom_series: Callable[..., list[Path]], tiny_model: Path
) -> None:
    stored = np.random.default_rng(0).integers(0, 300, (10, 14, 12)).astype(np.int16)
    dicom_series(tmp_path / "in" / "P1", stored=stored)
    medseg3d.predict(tmp_path / "in" / "P1", model=tiny_model)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["P1", "P1_seg.nii.gz"]
    medseg3d.predict(tmp_path / "in", model=tiny_model)
    assert on_record(tmp_path / "in_seg") == ["P1"]


def test_label_maps_that_stay_are_not_mixed_with_those_of_other_work(
    folder: Path, predict: Predict
) -> None:
    predict()
    told = (folder / "out" / "predictions.json").read_bytes()
    for case in "ab":
        (folder / "in" / f"{case}.nii").unlink()
    write_image(folder / "in" / "c.nii", seed=3)
    expected = (
        f"2 outputs exist already ({folder / 'out' / 'a.nii'}, {folder / 'out' / 'b.nii'}), made "
        "by another model or with other options; choose another -o, or remove them"
    )
    for options in ({"overlap": 0.1}, {"overwrite": True}, {"skip_existing": True}):
        with pytest.raises(RunError) as caught:
            predict(**options | {"overlap": 0.1})
        assert str(caught.value) == expected
    assert (folder / "out" / "predictions.json").read_bytes() == told
    assert in_folder(folder / "out") == ["a.nii", "b.nii"]
    assert [found.case_id for found in predict()] == ["c"]
    for case in "abc":
        (folder / "out" / f"{case}.nii").unlink()
    assert [found.case_id for found in predict(overlap=0.1)] == ["c"]
    assert on_record(folder / "out") == ["c"]


def test_what_is_there_of_other_work_is_not_forgotten_when_only_the_rest_is_made(
    folder: Path, predict: Predict
) -> None:
    predict()
    write_image(folder / "in" / "c.nii", seed=3)
    told = r"^2 outputs exist already .*; choose another -o, or give --overwrite to replace them$"
    with pytest.raises(RunError, match=told):
        predict(overlap=0.1, skip_existing=True)
    assert on_record(folder / "out") == ["a", "b"]
    assert len(predict(overlap=0.1, overwrite=True)) == 3
    assert on_record(folder / "out") == ["a", "b", "c"]


def test_a_case_of_a_batch_that_is_made_anew_by_other_options_leaves_its_record(
    folder: Path, predict: Predict, caplog: pytest.LogCaptureFixture
) -> None:
    predict(probabilities=True)
    one = {"out": folder / "out" / "a.nii", "roi": "0:5,:,:"}
    with pytest.raises(RunError, match="exist already"):
        predict("in/a.nii", **one)
    assert on_record(folder / "out") == ["a", "b"]
    predict("in/a.nii", **one, overwrite=True)
    assert in_folder(folder / "out") == ["a.nii", "b.nii", "b_probabilities.nii.gz"]
    assert on_record(folder / "out") == ["b"]
    assert "a_probabilities.nii.gz is removed, since it is of other labels" in caplog.text
    assert f"not put on record in {folder / 'out'}" in caplog.text
    labels = np.asarray(nib.load(folder / "out" / "a.nii").dataobj)
    with pytest.raises(IncompleteError, match=r"^1 of 2 cases failed.*a\.nii exists already"):
        predict(probabilities=True)
    np.testing.assert_array_equal(np.asarray(nib.load(folder / "out" / "a.nii").dataobj), labels)


def test_a_case_of_a_batch_that_is_made_anew_alike_stays_on_record(
    folder: Path, predict: Predict
) -> None:
    predict()
    write_image(folder / "in" / "a.nii", seed=77)
    predict("in/a.nii", out=folder / "out" / "a.nii", overwrite=True)
    assert on_record(folder / "out") == ["a", "b"]
    assert predict() == []


def test_what_lies_beside_a_label_map_without_a_record_is_told_of(
    folder: Path, predict: Predict, caplog: pytest.LogCaptureFixture
) -> None:
    one = {"out": folder / "a_seg.nii"}
    predict("in/a.nii", **one, probabilities=True, uncertainty=True)
    assert "is kept" not in caplog.text
    predict("in/a.nii", **one, uncertainty=True, overwrite=True)
    assert [text for text in caplog.messages if "is kept" in text] == [
        f"case a: {folder / 'a_seg_probabilities.nii.gz'} is kept, but is not of the labels that "
        "are made now; remove it if nobody needs it"
    ]
    assert (folder / "a_seg_probabilities.nii.gz").is_file()
