"""Fit, predict and score on a few tiny cases: files in, files out, and every refusal."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import medseg3d
from medseg3d.bundle import load_bundle, read_bundle
from medseg3d.config import FitConfig, PredictConfig, ScoreConfig
from medseg3d.errors import ConfigError, DataError, ModelError, RunError

SHAPE = (14, 12, 10)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("zyx", [95, 6, -4], degrees=True).as_matrix() * [
    1.0,
    1.2,
    1.5,
]
OBLIQUE[:3, 3] = (5.0, 40.0, -7.0)
SMALL = {
    "epochs": 2,
    "steps_per_epoch": 3,
    "folds": 2,
    "batch_size": 1,
    "patch_size": (8, 8, 8),
    "network": {"name": "unet3d", "options": {}},
    "width": 4,
    "precision": "fp32",
    "device": "cpu",
    "checkpoint_minutes": 0,
    "validate_every": 1,
}


def write_case(folder: Path, case_id: str, seed: int, affine: np.ndarray = OBLIQUE) -> None:
    """A bright box with label value 7 and, inside it, a brighter one with label 3."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 5, SHAPE)
    labels = np.zeros(SHAPE, dtype=np.int16)
    i, j, k = rng.integers(1, 4, 3)
    labels[i : i + 8, j : j + 7, k : k + 5] = 7
    labels[i + 2 : i + 5, j + 2 : j + 5, k + 1 : k + 4] = 3
    image += 100 * (labels == 7) + 200 * (labels == 3)
    for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        volume = nib.Nifti1Image(array, affine)
        volume.header.set_xyzt_units("mm")
        nib.save(volume, folder / name / f"{case_id}.nii.gz")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache goes to the working folder: one for all tests of this file."""
    folder = tmp_path_factory.getbasetemp() / "working"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    for number in range(4):
        write_case(folder, f"box_{number}", seed=number)
    return folder


@pytest.fixture(scope="module")
def run(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("runs")
    cache = tmp_path_factory.getbasetemp() / "working" / "runs" / ".cache"
    return medseg3d.fit(cases, out=folder / "boxes", cache=cache, **SMALL)


def test_a_run_folder_explains_itself(run: medseg3d.Run) -> None:
    names = {path.name for path in run.folder.iterdir()}
    names.discard("model.medseg3d.cache")  # only some backends keep one
    assert names == {
        "checkpoints",
        "config.yaml",
        "history.csv",
        "history.png",
        "index.html",
        "model.medseg3d",
        "plan.yaml",
        "provenance.json",
        "split.json",
        "validation",
    }
    parts = json.loads((run.folder / "split.json").read_text())
    assert len(parts["training"]) == len(parts["validation"]) == 2
    assert set(run.dice) == {"label 3", "label 7"}
    provenance = json.loads((run.folder / "provenance.json").read_text())
    assert provenance["versions"]["torch"]
    assert len(provenance["data"]) == 4


def test_held_out_cases_are_scored_on_their_own_grids(run: medseg3d.Run) -> None:
    with (run.folder / "validation" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["3", "7"] * 2
    assert run.scores.csv == run.folder / "validation" / "scores.csv"
    bundle = read_bundle(run.bundle)
    assert bundle.scores["mean"] == pytest.approx(np.mean(list(run.dice.values())), abs=1e-5)


def test_a_second_fit_reuses_the_preprocessed_cases(
    run: medseg3d.Run, cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("preprocessed again")

    monkeypatch.setattr("medseg3d.api.fitting.preparing.preprocess", fail)
    again = medseg3d.fit(cases, out=run.folder.parent / "again", **SMALL)
    first = load_bundle(run.bundle)[1]
    second = load_bundle(again.bundle)[1]
    assert all(np.array_equal(first[name], second[name]) for name in first), "same seed, same model"


def test_prediction_lies_on_the_grid_of_its_image_with_the_label_values(
    run: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    source = cases / "images" / "box_1.nii.gz"
    (prediction,) = medseg3d.predict(source, model=run.bundle, out=tmp_path / "out.nii.gz")
    image, labels = nib.load(source), nib.load(prediction.path)
    assert labels.shape == image.shape
    np.testing.assert_array_equal(labels.affine, image.affine)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert labels.header[field] == image.header[field]
    assert labels.get_data_dtype() == np.uint8
    assert labels.header["intent_code"] == 1002
    assert set(np.unique(np.asarray(labels.dataobj))) <= {0, 3, 7}
    assert set(prediction.volumes_ml) == {"label 3", "label 7"}


def test_orientation_of_storage_does_not_matter(
    run: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    stored = nib.load(cases / "images" / "box_1.nii.gz")
    turned = nib.as_closest_canonical(stored).slicer[::-1, :, ::-1]
    nib.save(turned, tmp_path / "turned.nii.gz")
    (prediction,) = medseg3d.predict(tmp_path / "turned.nii.gz", model=run.folder)
    plain = medseg3d.predict(np.asarray(stored.dataobj), affine=stored.affine, model=run.folder)
    found = nib.as_closest_canonical(nib.load(prediction.path))
    expected = nib.as_closest_canonical(nib.Nifti1Image(plain, stored.affine))
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))


def test_the_newest_finished_run_is_the_default_model(
    run: medseg3d.Run, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "ct.nii.gz"
    image.write_bytes((cases / "images" / "box_0.nii.gz").read_bytes())
    with pytest.raises(ModelError, match="no finished run"):
        medseg3d.predict("ct.nii.gz")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "boxes").symlink_to(run.folder)
    (prediction,) = medseg3d.predict("ct.nii.gz")
    assert prediction.path.resolve() == tmp_path / "ct_seg.nii.gz"


def test_existing_outputs_and_inputs_are_never_replaced(
    run: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    source = tmp_path / "ct.nii.gz"
    source.write_bytes((cases / "images" / "box_0.nii.gz").read_bytes())
    medseg3d.predict(source, model=run.bundle)
    with pytest.raises(RunError, match="--overwrite"):
        medseg3d.predict(source, model=run.bundle)
    medseg3d.predict(source, model=run.bundle, overwrite=True)
    with pytest.raises(RunError, match="is an input"):
        medseg3d.predict(source, model=run.bundle, out=source, overwrite=True)
    with pytest.raises(RunError, match="is an input"):
        medseg3d.predict(tmp_path, model=run.bundle, out=tmp_path, overwrite=True)


def test_every_input_gets_its_output_beside_it(
    run: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    content = (cases / "images" / "box_0.nii.gz").read_bytes()
    for name in ("a/one.nii.gz", "b/two.nii.gz", "three.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = medseg3d.predict(
        [tmp_path / "a", tmp_path / "three.nii.gz", tmp_path / "b"], model=run.bundle
    )
    assert {prediction.path.relative_to(tmp_path).as_posix() for prediction in found} == {
        "a_seg/one.nii.gz",
        "b_seg/two.nii.gz",
        "three_seg.nii.gz",
    }


def test_existing_probabilities_are_kept_too(
    run: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "out_probabilities.nii.gz"
    kept.write_bytes(b"mine")
    options = {"model": run.bundle, "out": tmp_path / "out.nii.gz", "probabilities": True}
    with pytest.raises(RunError, match="out_probabilities"):
        medseg3d.predict(cases / "images" / "box_0.nii.gz", **options)
    assert kept.read_bytes() == b"mine"


def test_a_detached_output_is_refused_before_the_work(
    run: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"not written as \.mhd"):
        medseg3d.predict(
            cases / "images" / "box_0.nii.gz", model=run.bundle, out=tmp_path / "x.mhd"
        )


def test_in_a_batch_the_good_cases_are_written_and_the_bad_one_is_named(
    run: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    whole = (cases / "images" / "box_0.nii.gz").read_bytes()
    (folder / "good.nii.gz").write_bytes(whole)
    (folder / "torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"1 of 2 cases failed, 1 were written: case torn: "):
        medseg3d.predict(folder, model=run.bundle, out=tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["failed.csv", "good.nii.gz", "predictions.json"]


def test_probabilities_sum_to_one_and_agree_with_the_labels(
    run: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    (prediction,) = medseg3d.predict(
        cases / "images" / "box_2.nii.gz",
        model=run.bundle,
        out=tmp_path / "out.nii.gz",
        probabilities=True,
        postprocess="none",
    )
    assert prediction.probabilities is not None
    probabilities = nib.load(prediction.probabilities).get_fdata(dtype=np.float32)
    assert probabilities.shape == (*SHAPE, 3)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-4)
    labels = np.asarray(nib.load(prediction.path).dataobj)
    top = np.asarray([0, 3, 7])[probabilities.argmax(axis=-1)]
    assert (top == labels).mean() > 0.999


def test_scores_of_the_reference_against_itself_are_perfect(cases: Path, tmp_path: Path) -> None:
    result = medseg3d.score(cases / "labels", cases / "labels", out=tmp_path / "scores.csv")
    assert {row.scores["dice"] for row in result.rows} == {1.0}
    assert {row.scores["hausdorff_95_mm"] for row in result.rows} == {0.0}
    with result.csv.open() as file:
        header = file.readline().strip()
    assert header == (
        "case,patient,model,label,name,dice,iou,precision,recall,volume_similarity,hausdorff_mm,"
        "hausdorff_95_mm,assd_mm,masd_mm,surface_dice_1mm,surface_dice_2mm,volume_difference_ml,"
        "prediction_ml,reference_ml,status"
    )
    assert json.loads(result.json.read_text())["convention"]


def test_scoring_on_another_grid_is_refused_but_the_other_cases_are_kept(
    cases: Path, tmp_path: Path
) -> None:
    for number in range(2):
        labels = nib.load(cases / "labels" / f"box_{number}.nii.gz")
        shift = np.diag([0.0, 0, 0, 0])
        shift[0, 3] = 3.0 * number
        moved = nib.Nifti1Image(np.asarray(labels.dataobj), labels.affine + shift)
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "r").mkdir(exist_ok=True)
        nib.save(moved, tmp_path / "p" / f"box_{number}.nii.gz")
        nib.save(labels, tmp_path / "r" / f"box_{number}.nii.gz")
    with pytest.raises(RunError, match=r"case box_1: .*different grids.* mm"):
        medseg3d.score(tmp_path / "p", tmp_path / "r", out=tmp_path / "scores.csv")
    assert "box_0" in (tmp_path / "scores.csv").read_text()


def test_resume_goes_on_with_the_stored_options(
    cases: Path, run: medseg3d.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = run.folder.parent / "cut"

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medseg3d.api.fitting.run.FinalValidation.scores", interrupt)
        with pytest.raises(KeyboardInterrupt):
            medseg3d.fit(cases, out=cut, **SMALL)
    with pytest.raises(ModelError, match="not finished"):
        medseg3d.predict(cases / "images", model=cut, out=tmp_path)
    with pytest.raises(ConfigError, match=r"seed \(stored 0, given 5\)"):
        medseg3d.fit(cases, out=cut, resume=True, seed=5)
    resumed = medseg3d.fit(cases, out=cut, resume=True)
    first, second = load_bundle(run.bundle)[1], load_bundle(resumed.bundle)[1]
    assert all(np.array_equal(first[name], second[name]) for name in first)
    with pytest.raises(RunError, match="is finished"):
        medseg3d.fit(cases, out=cut, resume=True)


def test_a_misspelled_option_of_the_network_is_found_before_the_cases_are_looked_for(
    tmp_path: Path,
) -> None:
    network = {"name": "unet3d", "options": {"widht": 4}}
    for dims in (2, 3):
        with pytest.raises(ConfigError, match="no option 'widht'; did you mean width"):
            medseg3d.fit(tmp_path / "nothing", out=tmp_path / "run", network=network, dims=dims)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "unet3"}, ConfigError, "unknown network 'unet3'; did you mean unet3d"),
        ({"loss": "dice"}, None, ""),
        ({"loss": "dise_ce"}, ConfigError, "did you mean dice_ce"),
        ({"device": "cuda:7"}, ConfigError, "GPUs here"),
        ({"device": "tpu"}, ConfigError, "device"),
        ({"max_minutes": 1}, ConfigError, "exclude each other"),
        ({"fold": 2}, ConfigError, "fold 2 does not exist"),
        ({"patchsize": 3}, ConfigError, "did you mean patch_size"),
        ({"precision": "fp16"}, ConfigError, "needs a GPU"),
        (
            {"loss": {"name": "dice_ce", "options": {"smoothing": 1}}},
            ConfigError,
            "loss 'dice_ce' has no option 'smoothing'; did you mean smooth",
        ),
        (
            {"network": {"name": "unet3d", "options": {"widht": 4}}},
            ConfigError,
            "network 'unet3d' has no option 'widht'; did you mean width",
        ),
        (
            {"network": {"name": "unet3d", "options": {"width": "abc"}}},
            ConfigError,
            "network 'unet3d' cannot be built with .*width='abc'",
        ),
        (
            {"stages": [{"name": "2d", "share": 1.0}]},
            ConfigError,
            "network 'unet3d' has no training stages",
        ),
        (
            {"network": "hdenseunet", "stages": [{"name": "2d", "share": 0.5}]},
            ConfigError,
            "shares of the stages must add up to 1",
        ),
        ({"augmentation": {"mirror_axes": [5]}}, ConfigError, "choose among 0, 1 and 2"),
        ({"augmentation": {"scale": [2, 1]}}, ConfigError, "the smaller first"),
        ({"patch_size": (0, 8, 8)}, ConfigError, "greater than 0"),
        ({"spacing": (-1, 1, 1)}, ConfigError, "greater than 0"),
    ],
)
def test_wrong_options_end_before_anything_is_written(
    cases: Path,
    tmp_path: Path,
    options: dict[str, object],
    error: type[Exception] | None,
    message: str,
) -> None:
    if error is None:
        FitConfig(data=cases, **options)
        return
    with pytest.raises(error, match=message):
        medseg3d.fit(cases, out=tmp_path / "run", **(SMALL | options))
    assert not (tmp_path / "run").exists()


def test_a_run_that_ended_before_its_first_checkpoint_is_begun_anew(
    cases: Path, run: medseg3d.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.folder.parent / "early"

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medseg3d.api.fitting.run.train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            medseg3d.fit(cases, out=folder, **SMALL)
    resumed = medseg3d.fit(cases, out=folder, resume=True)
    first, second = load_bundle(run.bundle)[1], load_bundle(resumed.bundle)[1]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_run_is_not_resumed_on_other_data(
    cases: Path, run: medseg3d.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.folder.parent / "other_data"
    for number in range(4):
        write_case(tmp_path / "changed", f"box_{number}", seed=50 + number)
        write_case(tmp_path / "renamed", f"bax_{number}", seed=number)

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medseg3d.api.fitting.run.train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            medseg3d.fit(cases, out=folder, **SMALL)
    with pytest.raises(RunError, match=r"4 cases have changed since .* such as box_"):
        medseg3d.fit(tmp_path / "changed", out=folder, resume=True)
    with pytest.raises(RunError, match=r"lacks 4 cases of the run .* such as box_0"):
        medseg3d.fit(tmp_path / "renamed", out=folder, resume=True)


def test_a_plan_is_edited_in_its_file_not_beside_it(
    cases: Path, run: medseg3d.Run, tmp_path: Path
) -> None:
    options = {name: SMALL[name] for name in ("epochs", "steps_per_epoch", "folds", "network")}
    with pytest.raises(ConfigError, match="width cannot be given beside a plan"):
        medseg3d.fit(cases, out=tmp_path / "a", plan=run.folder / "plan.yaml", width=8, **options)
    with pytest.raises(ConfigError, match="memory_gb cannot be given beside a plan"):
        medseg3d.fit(
            cases, out=tmp_path / "a", plan=run.folder / "plan.yaml", memory_gb=4, **options
        )
    edited = tmp_path / "plan.yaml"
    text = (run.folder / "plan.yaml").read_text().replace("label 7", "shell")
    edited.write_text(text)
    again = medseg3d.fit(cases, out=tmp_path / "b", plan=edited, **options)
    assert set(again.dice) == {"label 3", "shell"}


def test_a_run_folder_in_use_is_refused(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match="already in use"):
        medseg3d.fit(cases, out=tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_all_faulty_cases_are_listed_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for number in range(4):
        write_case(folder, f"box_{number}", seed=number)
    labels = nib.load(folder / "labels" / "box_1.nii.gz")
    half = nib.Nifti1Image(np.asarray(labels.dataobj) * np.float32(0.5), labels.affine)
    nib.save(half, folder / "labels" / "box_1.nii.gz")
    image = nib.load(folder / "images" / "box_2.nii.gz")
    broken = np.asarray(image.dataobj).astype(np.float32)
    broken[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(broken, image.affine), folder / "images" / "box_2.nii.gz")
    with pytest.raises(DataError) as caught:
        medseg3d.fit(folder, out=tmp_path / "run", **SMALL)
    assert "box_1" in str(caught.value)
    assert "box_2" in str(caught.value)
    assert "box_0" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_options_can_be_given_as_objects(cases: Path, run: medseg3d.Run, tmp_path: Path) -> None:
    found = medseg3d.predict(
        PredictConfig(inputs=(cases / "images",), model=run.folder, out=tmp_path)
    )
    assert len(found) == 4
    result = medseg3d.score(
        ScoreConfig(predictions=tmp_path, references=cases / "labels", out=tmp_path / "s.csv")
    )
    assert len(result.rows) == 8


def test_another_number_of_channels_is_refused(run: medseg3d.Run, tmp_path: Path) -> None:
    for channel in range(2):
        volume = nib.Nifti1Image(np.ones(SHAPE, dtype=np.int16), np.eye(4))
        nib.save(volume, tmp_path / f"a_000{channel}.nii.gz")
    with pytest.raises(RunError, match="2 channels found where the plan has 1"):
        medseg3d.predict(tmp_path, model=run.folder, out=tmp_path / "out")
