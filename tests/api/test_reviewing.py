"""``review`` from end to end: what is on the page, what fails alone, and what is refused."""

import base64
import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import medseg3d
from medseg3d import cli
from medseg3d.api.reviewing import review
from medseg3d.api.scoring.run import score
from medseg3d.config import FitConfig, ScoreConfig, to_yaml
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.io import case_stem
from medseg3d.review import folder as review_folder
from medseg3d.runs import options_text
from medseg3d.scoring import read_table
from tests.api.small_sets import SMALL, write_cases

SHAPE = (16, 14, 12)
AFFINE = np.diag([-1.0, -1.2, 2.0, 1.0])
CASES = ("p1_visit1", "p1_visit2", "p2", "p3", "p4", "p5")


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six cases; the prediction of each misses more of the organ than the one before."""
    monkeypatch.chdir(tmp_path)
    for number, case in enumerate(CASES):
        reference = np.zeros(SHAPE, np.uint8)
        reference[3:12, 3:11, 2:10] = 1
        reference[12:14, 3:5, 2:4] = 2
        prediction = reference.copy()
        prediction[3 : 3 + number, 3:11, 2:10] = 0
        noise = np.random.default_rng(number).normal(0, 20, SHAPE)
        save(tmp_path / "images" / f"{case}.nii.gz", (noise + 100 * reference).astype(np.float32))
        save(tmp_path / "labels" / f"{case}.nii.gz", reference)
        save(tmp_path / "predictions" / f"{case}.nii.gz", prediction)
    description = {
        "labels": {"background": 0, "organ": 1, "tumor": 2},
        "channel_names": {"0": "MR"},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["review", *map(str, arguments)])


def listed(folder: Path) -> dict[str, Any]:
    text = (folder / "cases.js").read_text()
    found: dict[str, Any] = json.loads(text.removeprefix("window.REVIEW = ").rstrip(";\n"))
    return found


def case_of(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    text = (folder / found["file"]).read_text()
    told = text.removeprefix("window.REVIEW_CASE(").removesuffix(");\n")
    case: dict[str, Any] = json.loads(told)
    return case


def unpacked(text: str) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text))).dataobj)


def test_a_page_with_references_says_what_score_says(data: Path) -> None:
    result = run("predictions", "--images", "images", "--references", "labels", "-o", "page")
    assert (result.exit_code, result.stdout) == (0, "page/index.html\n"), result.output
    found = listed(data / "page")
    assert found["title"] == "predictions"
    assert [label["name"] for label in found["labels"]] == ["organ", "tumor"]
    assert [case["id"] for case in found["cases"]] == list(CASES)
    assert [case["patient"] for case in found["cases"]] == ["p1", "p1", "p2", "p3", "p4", "p5"]
    assert found["sort"] == "dice"
    config = ScoreConfig(predictions=data / "predictions", references=data / "labels")
    for row in score(config).rows:
        case = next(case for case in found["cases"] if case["id"] == row.case)
        label = case["labels"][str(row.label)]
        assert label["status"] == row.status
        assert label["prediction_ml"] == pytest.approx(row.prediction_ml, abs=1e-6)
        for column, value in row.scores.items():
            assert label["scores"][column] == pytest.approx(value, abs=1e-6)
    assert found["failed"] == []
    for case in found["cases"]:
        assert (data / "page" / case["thumbnail"]).read_bytes().startswith(b"\x89PNG")


def test_the_files_of_a_case_are_those_that_were_given(data: Path) -> None:
    review("predictions", images="images", references="labels")
    found = listed(data / "review")["cases"][4]
    case = case_of(data / "review", found)
    assert (case["id"], case["modality"], case["reduced"]) == ("p4", "MR", False)
    for name, folder in (("prediction", "predictions"), ("reference", "labels")):
        stored = nib.as_closest_canonical(nib.load(data / folder / "p4.nii.gz"))
        assert np.array_equal(unpacked(case[name]), np.asarray(stored.dataobj))
    errors = unpacked(case["errors"])
    assert set(np.unique(errors)) == {0, 1, 3}
    assert np.count_nonzero(errors == 3) == 4 * 8 * 8
    assert case["worst"]["1"]["error_voxels"] == 64
    assert case["worst"]["2"]["error_voxels"] == 0


def test_scores_of_a_table_are_taken_as_they_are(data: Path) -> None:
    score(ScoreConfig(predictions=data / "predictions", references=data / "labels"))
    lines = (data / "scores.csv").read_text().splitlines(keepends=True)
    column = lines[0].split(",").index("dice")
    cells = lines[1].split(",")
    cells[column] = "0.123"
    kept = [lines[0], ",".join(cells), *lines[2:-2]]  # nothing of the last case
    (data / "scores.csv").write_text("".join(kept))
    review("predictions", images="images", scores="scores.csv")
    found = listed(data / "review")["cases"]
    assert found[0]["labels"]["1"]["scores"]["dice"] == 0.123
    assert not any(case["has_reference"] for case in found)
    assert [case["status"] for case in found] == ["ok"] * 5 + ["unscored"]


def test_scores_of_other_label_maps_are_not_shown(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    score(ScoreConfig(predictions=data / "predictions", references=data / "labels"))
    for case in ("p2", "p4"):
        shutil.copy(data / "labels" / f"{case}.nii.gz", data / "predictions")
    options = {"images": "images", "references": "labels", "scores": "scores.csv"}
    review("predictions", **options)
    found = {case["id"]: case for case in listed(data / "review")["cases"]}
    assert [case for case in CASES if found[case]["status"] == "unscored"] == ["p2", "p4"]
    assert found["p2"]["labels"]["1"]["scores"] == {}
    assert caplog.messages == [
        "scores.csv has scores of other label maps than those in predictions for 2 cases (p2, p4), "
        "which are shown without scores; score them again"
    ]
    (data / "scores.json").unlink()  # a table that was mailed alone
    review("predictions", **options, overwrite=True)
    assert {case["status"] for case in listed(data / "review")["cases"]} == {"ok"}


def test_without_references_what_is_unusual_has_reasons(data: Path) -> None:
    odd = np.zeros(SHAPE, np.uint8)
    odd[1:14:4, 1:14:4, 1:12:4] = 1
    save(data / "predictions" / "p2.nii.gz", odd)
    entropy = np.full(SHAPE, 0.2, np.float32)
    for case in CASES:
        save(data / "predictions" / f"{case}_uncertainty.nii.gz", entropy * (1 + (case == "p5")))
    assert run("predictions", "--images", "images", "--title", "Spring").exit_code == 0
    found = listed(data / "review")
    assert (found["title"], found["sort"], found["columns"]) == ("Spring", "outlier", [])
    strangest = max(found["cases"], key=lambda case: case["outlier"])
    assert strangest["id"] == "p2"
    assert any("organ: in 48 parts" in reason for reason in strangest["reasons"])
    assert any(reason.startswith("tumor: not found") for reason in strangest["reasons"])
    unsure = next(case for case in found["cases"] if case["id"] == "p5")
    assert any(reason.startswith("uncertain") for reason in unsure["reasons"])
    case = case_of(data / "review", strangest)
    assert case["reference"] is case["errors"] is None


def test_a_broken_case_is_listed_and_the_others_are_shown(data: Path) -> None:
    torn = data / "predictions" / "p2.nii.gz"
    torn.write_bytes(torn.read_bytes()[:60])
    save(data / "labels" / "p3.nii.gz", np.ones((3, 3, 3), np.uint8))
    (data / "images" / "p4.nii.gz").unlink()
    result = run("predictions", "--images", "images", "--references", "labels")
    assert result.exit_code == 1
    told = result.stderr.splitlines()[-1]
    assert told.startswith("medseg3d review: 3 of 6 cases could not be shown, the others are on")
    found = listed(data / "review")
    assert [case["id"] for case in found["cases"]] == ["p1_visit1", "p1_visit2", "p5"]
    assert [case["file"] for case in found["cases"]] == [f"cases/000{n}.js" for n in (1, 2, 3)]
    assert {one["id"] for one in found["failed"]} == {"p2", "p3", "p4"}
    table = (data / "review_failed.csv").read_text()
    for name in ("p2", "p3", "p4"):
        assert f"\n{name}," in table
    assert len(list((data / "review" / "cases").iterdir())) == 3


def test_where_nothing_can_be_shown_there_is_no_page(data: Path) -> None:
    for case in CASES:
        (data / "predictions" / f"{case}.nii.gz").write_bytes(b"nothing")
    with pytest.raises(RunError, match="6 of 6 cases could not be shown"):
        review("predictions", images="images")
    assert not (data / "review").exists()


def test_a_review_is_replaced_only_when_asked(data: Path) -> None:
    review("predictions", images="images", title="first")
    again = ("predictions", "--images", "images", "--title", "second")
    result = run(*again)
    assert result.exit_code == 1
    assert "review exists already; give --overwrite" in result.stderr
    assert listed(data / "review")["title"] == "first"
    (data / "review" / "review.csv").write_text("verdicts")
    assert run(*again, "--overwrite").exit_code == 0
    assert listed(data / "review")["title"] == "second"
    there = {path.name for path in (data / "review").iterdir()}
    assert there == {*review_folder.OURS, "review.csv"}
    with pytest.raises(RunError, match="holds something else than a review"):
        review("predictions", images="images", out="labels", overwrite=True)
    assert len(list((data / "labels").iterdir())) == 6


def test_a_review_that_a_killed_one_hid_is_not_lost(data: Path) -> None:
    review("predictions", images="images", title="first")
    hidden = data / ".medseg3d-0123abcd-1-0123456789ab-before-review"
    (data / "review").rename(hidden)
    for path in (*hidden.rglob("*"), hidden):
        os.utime(path, (0, 0))
    again = run("predictions", "--images", "images", "--title", "second")
    assert again.exit_code == 1
    assert "review exists already; give --overwrite" in again.stderr
    assert listed(data / "review")["title"] == "first"
    assert not hidden.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_review_leaves_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write, written = review_folder.write_script, []

    def stops(path: Path, *arguments: Any) -> None:
        if len(written) == 2:
            raise error
        written.append(path)
        write(path, *arguments)

    monkeypatch.setattr(review_folder, "write_script", stops)
    before = sorted(data.iterdir())
    with pytest.raises((KeyboardInterrupt, RunError)):
        review("predictions", images="images")
    assert sorted(data.iterdir()) == before


def test_images_are_asked_for(data: Path) -> None:
    with pytest.raises(ConfigError, match="predictions needs the images that were predicted"):
        review("predictions")
    with pytest.raises(DataError, match=r"no table nowhere\.csv"):
        review("predictions", images="images", scores="nowhere.csv")


def test_one_file_of_each_is_a_review_too(data: Path) -> None:
    made = review(
        data / "predictions" / "p5.nii.gz",
        images=data / "images" / "p1_visit1.nii.gz",
        references=data / "labels" / "p2.nii.gz",
        labels={1: "liver"},
    )
    assert (made.page, made.num_cases) == (Path("review/index.html"), 1)
    found = listed(data / "review")
    [case] = found["cases"]
    assert (case["id"], case["outlier"], case["has_reference"]) == ("p1_visit1", None, True)
    assert list(case["labels"]) == ["1"]
    assert [label["name"] for label in found["labels"]] == ["liver", "label 2"]


def test_a_run_is_reviewed_with_the_data_that_it_learned_from(data: Path) -> None:
    folder = data / "runs" / "first"
    shutil.copytree(data / "predictions", folder / "validation")
    (folder / "validation" / "p5.nii.gz").unlink()
    (folder / "config.yaml").write_text(to_yaml(FitConfig(data=data), title="run"))
    made = review(folder)
    assert made.page == folder / "review" / "index.html"
    found = listed(folder / "review")
    assert found["title"] == "first: held-out cases"
    assert [case["id"] for case in found["cases"]] == list(CASES[:-1])
    assert all(case["has_reference"] and case["status"] == "ok" for case in found["cases"])


def test_the_patients_of_a_run_are_those_that_it_was_told(data: Path) -> None:
    folder = data / "runs" / "first"
    shutil.copytree(data / "predictions", folder / "validation")
    lines = [f"{case},person {number // 2}" for number, case in enumerate(CASES)]
    (data / "who.csv").write_text("\n".join(["case,patient", *lines]))
    config = FitConfig(data=data, patients=data / "who.csv")
    (folder / "config.yaml").write_text(to_yaml(config, title="run"))
    review(folder)
    found = [case["patient"] for case in listed(folder / "review")["cases"]]
    assert found == [line.split(",")[1] for line in lines]


def test_a_run_finds_its_data_from_any_folder_and_without_some_label_maps(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data / "runs" / "first"
    shutil.copytree(data / "predictions", folder / "validation")
    first, second = sorted((data / "labels").iterdir())[:2]
    first.unlink()
    config = FitConfig(data=Path(), classes=Path("classes.csv"))  # so that some may lack labels
    (folder / "config.yaml").write_text(options_text(config))
    (data / "elsewhere").mkdir()
    monkeypatch.chdir(data / "elsewhere")
    review(folder)
    found = {case["id"]: case["has_reference"] for case in listed(folder / "review")["cases"]}
    assert (found[case_stem(first)], found[case_stem(second)]) == (False, True)
    (data / "labels").rename(data / "elsewhere" / "labels")
    with pytest.raises(DataError, match=r"cases of .*first cannot be used: .*--images and --ref"):
        review(folder, overwrite=True)


def test_what_nobody_annotated_is_neither_scored_nor_wrong(tmp_path: Path) -> None:
    labels = {"background": 0, "organ": 1, "bone": 2, "ignore": 5}
    declared = write_cases(tmp_path / "declared", labels)
    labels["unsure"] = labels.pop("ignore")
    data = Path(shutil.copytree(declared, tmp_path / "data"))
    facts = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(facts | {"labels": labels}))
    options = SMALL | {"width": 4, "patch_size": (8, 8, 8), "steps_per_epoch": 12, "seed": 3}
    folder = tmp_path / "run"
    medseg3d.fit(data, out=folder, cache=tmp_path / "cache", ignore_label=5, **options)
    expected = read_table(folder / "validation" / "scores.csv")
    assert max(row.prediction_ml for row in expected) > 0
    bare = Path(shutil.copytree(data / "labelsTr", tmp_path / "bare" / "labels"))
    predictions = Path(shutil.copytree(folder / "validation", tmp_path / "predictions"))
    images = data / "imagesTr"
    for reviewed, given in (
        (folder, {}),
        (folder, {"references": bare}),
        (folder / "validation", {"references": bare, "images": images}),
        (predictions, {"references": declared / "labelsTr", "images": images}),
    ):
        review(reviewed, out=tmp_path / "page", overwrite=True, **given)
        found = listed(tmp_path / "page")
        assert [label["name"] for label in found["labels"]] == ["organ", "bone"]
        for case in found["cases"]:
            rows = {str(row.label): row for row in expected if row.case == case["id"]}
            assert case["labels"].keys() == rows.keys()
            for label, row in rows.items():
                told = case["labels"][label]
                assert told["status"] == row.status
                assert told["prediction_ml"] == pytest.approx(row.prediction_ml, abs=1e-6)
                assert told["scores"]["dice"] == pytest.approx(row.scores["dice"], abs=1e-6)
            maps = case_of(tmp_path / "page", case)
            assert set(np.unique(unpacked(maps["reference"]))) == {0, 1, 2}
            assert not unpacked(maps["errors"])[:, :, 5:].any()


def test_a_file_name_that_is_no_utf8_is_spelled_out(data: Path) -> None:
    name = os.fsdecode(b"p\xe9")
    for folder in ("images", "labels", "predictions"):
        (data / folder / "p5.nii.gz").rename(data / folder / f"{name}.nii.gz")
    review("predictions", images="images", references="labels")
    found = listed(data / "review")["cases"][-1]
    assert found["id"] == found["patient"] == case_of(data / "review", found)["id"] == "p\\udce9"


def test_several_models_in_a_table_are_told_apart(data: Path) -> None:
    shutil.copytree(data / "labels", data / "perfect")
    score(
        ScoreConfig(
            predictions=data / "predictions", references=data / "labels", also=(data / "perfect",)
        )
    )
    review("perfect", images="images", scores="scores.csv")
    assert [case["mean"]["dice"] for case in listed(data / "review")["cases"]] == [1.0] * 6
    shutil.copytree(data / "labels", data / "third")
    with pytest.raises(DataError, match=r"2 models \(perfect, predictions\) and none is called"):
        review("third", images="images", scores="scores.csv", overwrite=True)


def test_models_whose_folders_have_one_name_are_told_apart(data: Path) -> None:
    for run_name, folder in (("first", "predictions"), ("second", "labels")):
        shutil.copytree(data / folder, data / run_name / "out")
    config = ScoreConfig(
        predictions=data / "first" / "out",
        references=data / "labels",
        also=(data / "second" / "out",),
    )
    score(config)
    review("second/out", images="images", scores="scores.csv")
    assert [case["mean"]["dice"] for case in listed(data / "review")["cases"]] == [1.0] * 6


def test_predict_offers_a_review(data: Path, tiny_model: Path) -> None:
    arguments = ["predict", "images", "-m", str(tiny_model), "-o", "out", "--device", "cpu"]
    result = CliRunner().invoke(cli.app, [*arguments, "--threads", "1"])
    assert result.exit_code == 0, result.output
    before = "look at the result: medseg3d review "
    [offer] = [line for line in result.stderr.splitlines() if line.startswith(before)]
    words = offer.removeprefix(before).split()
    assert words == ["out", "--images", "images"]
    assert run(*words).exit_code == 0
    assert len(listed(data / "review")["cases"]) == len(CASES)
