"""The same command on the same folder, again and again: nothing stale, nothing lost, all told."""

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medseg3d
from medseg3d.api.predicting import prediction_batch, worker
from medseg3d.api.predicting.records import Record, Records
from medseg3d.api.predicting.worker import Worker
from medseg3d.bundle import Bundle, inspect_bundle, load_network, read_bundle, save_bundle
from medseg3d.cli import app
from medseg3d.config import PredictConfig, validated
from medseg3d.errors import ConfigError, IncompleteError, RunError
from medseg3d.io import read_labels
from tests.api.test_predicting_faults import failures, in_folder, write_image


def loaded(model: Path) -> tuple[Bundle, torch.nn.Module]:
    return read_bundle(model), load_network(model)


Predict = Callable[..., list[medseg3d.Prediction]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write_image(tmp_path / "in" / f"p{number}.nii", seed=number)
    return tmp_path


@pytest.fixture
def predict(folder: Path, tiny_model: Path) -> Predict:
    def again(**options: Any) -> list[medseg3d.Prediction]:
        given = {"model": tiny_model, "out": folder / "out"} | options
        return medseg3d.predict(folder / "in", **given)

    return again


@pytest.fixture
def other_model(folder: Path, tiny_model: Path) -> Path:
    """The same network with other weights."""
    bundle, network = loaded(tiny_model)
    with torch.no_grad():
        for weights in network.parameters():
            weights.neg_()
    save_bundle(folder / "other.medseg3d", bundle, network)
    return folder / "other.medseg3d"


def test_an_image_that_is_replaced_while_it_is_computed_is_not_finished(
    folder: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Worker.compute

    def compute(self: Worker, job: Any, *rest: Any) -> Any:
        if job.case.id == "p1":
            write_image(folder / "in" / "p1.nii", seed=77)
        return real(self, job, *rest)

    monkeypatch.setattr(Worker, "compute", compute)
    assert len(predict()) == 3
    monkeypatch.undo()
    with pytest.raises(IncompleteError, match=r"case p1: .*p1\.nii\.gz exists already"):
        predict()


def test_an_image_that_changes_while_it_is_read_fails(
    folder: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worker.read_image

    def read(paths: tuple[Path, ...], **options: Any) -> Any:
        found = real(paths, **options)
        if paths[0].stem == "p1":
            write_image(paths[0], seed=77)
        return found

    monkeypatch.setattr(worker, "read_image", read)
    with pytest.raises(IncompleteError, match=r"p1\.nii changed while it was read"):
        predict()
    assert in_folder(folder / "out") == ["failed.csv", "p0.nii.gz", "p2.nii.gz"]


def test_a_corrected_mask_makes_its_case_unfinished(folder: Path, predict: Predict) -> None:
    grid = nib.load(folder / "in" / "p0.nii")
    masks = folder / "masks"
    masks.mkdir()
    for number in range(3):
        mask = np.zeros(grid.shape, np.uint8)
        mask[2:9] = 1
        nib.save(nib.Nifti1Image(mask, grid.affine), masks / f"p{number}.nii.gz")
    assert len(predict(roi_mask=masks)) == 3
    assert predict(roi_mask=masks) == []
    mask[:] = 1
    nib.save(nib.Nifti1Image(mask, grid.affine), masks / "p2.nii.gz")
    with pytest.raises(IncompleteError, match=r"case p2: .* exists already"):
        predict(roi_mask=masks)
    (folder / "out" / "p2.nii.gz").unlink()
    assert [found.case_id for found in predict(roi_mask=masks)] == ["p2"]


def test_a_folder_is_the_same_however_it_is_spelled(
    folder: Path, predict: Predict, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder, with ``..`` in the paths, and by a link."""
    predict()
    (folder / "job").mkdir()
    (folder / "link").symlink_to(folder / "in")
    monkeypatch.chdir(folder / "job")
    up = Path("..")
    assert medseg3d.predict(up / "in", model=tiny_model, out=up / "out") == []
    write_image(folder / "in" / "p3.nii", seed=3)
    done = medseg3d.predict(folder / "link", model=tiny_model, out=folder / "job" / up / "out")
    assert [each.case_id for each in done] == ["p3"]
    assert predict() == []
    kept = json.loads((folder / "out" / "predictions.json").read_text())["cases"]
    assert set(kept) == {str(folder / "out" / f"p{number}.nii.gz") for number in range(4)}
    assert predict(probabilities=True, overwrite=True), "none of them is of another name"
    grid = nib.load(folder / "in" / "p0.nii")
    mask = nib.Nifti1Image(np.ones(grid.shape, np.uint8), grid.affine)
    nib.save(mask, folder / "mask.nii")
    predict(roi_mask=folder / "mask.nii", out=folder / "other")
    again = {"model": tiny_model, "out": up / "other", "roi_mask": up / "mask.nii"}
    assert medseg3d.predict(up / "in", **again) == []


def test_one_study_sent_again_does_not_hold_up_the_new_ones(folder: Path, predict: Predict) -> None:
    predict()
    write_image(folder / "in" / "p1.nii", seed=77)
    write_image(folder / "in" / "p3.nii", seed=3)
    before = (folder / "out" / "p1.nii.gz").read_bytes()
    with pytest.raises(IncompleteError, match=r"^1 of 4 cases failed, 1 were written") as caught:
        predict()
    assert [found.case_id for found in caught.value.done] == ["p3"]
    assert (folder / "out" / "p1.nii.gz").read_bytes() == before
    [failure] = failures(folder / "out")
    assert failure["case"] == "p1"
    assert failure["error"].endswith(
        "remove it to have it made, or give --overwrite to replace all"
    )


def test_only_outputs_in_the_way_end_the_work(predict: Predict) -> None:
    predict()
    with pytest.raises(RunError, match="3 outputs exist already"):
        predict(overlap=0.1)


def test_what_a_person_made_of_a_case_that_failed_is_kept(folder: Path, predict: Predict) -> None:
    whole = (folder / "in" / "p1.nii").read_bytes()
    (folder / "in" / "p1.nii").write_bytes(whole[:-40])
    with pytest.raises(IncompleteError, match="case p1"):
        predict()
    (folder / "out" / "p1.nii.gz").write_bytes(b"drawn by hand")
    (folder / "in" / "p1.nii").write_bytes(whole)
    with pytest.raises(IncompleteError, match=r"case p1: .* exists already"):
        predict()
    assert (folder / "out" / "p1.nii.gz").read_bytes() == b"drawn by hand"


@pytest.mark.parametrize("options", [{"uncertainty": True}, {"probabilities": True}])
def test_a_label_map_is_not_replaced_because_more_is_asked_for(
    folder: Path, predict: Predict, options: dict[str, Any]
) -> None:
    made = predict()
    made[1].path.write_bytes(b"corrected by hand")
    before = [found.path.read_bytes() for found in made]
    with pytest.raises(RunError, match=r"^3 outputs exist already .* give --overwrite to replace"):
        predict(skip_existing=True, **options)
    assert [found.path.read_bytes() for found in made] == before
    assert in_folder(folder / "out") == ["p0.nii.gz", "p1.nii.gz", "p2.nii.gz"]


def test_a_corrected_map_is_not_replaced_because_its_uncertainty_is_gone(
    folder: Path, predict: Predict
) -> None:
    options = {"uncertainty": True, "format": "nii"}
    out = folder / "out"
    usual = [found.path.read_bytes() for found in predict(**options)]
    corrected = usual[1][:-1] + bytes([usual[1][-1] ^ 1])  # of the same size
    (out / "p1.nii").write_bytes(corrected)
    for number in (0, 1):
        (out / f"p{number}_uncertainty.nii.gz").unlink()
    told = r"case p1: .*p1\.nii exists already and is not what this command made"
    with pytest.raises(IncompleteError, match=told) as caught:
        predict(skip_existing=True, **options)
    assert [found.case_id for found in caught.value.done] == ["p0"]
    expected = [usual[0], corrected, usual[2]]
    assert [(out / f"p{number}.nii").read_bytes() for number in range(3)] == expected


@contextmanager
def full_disk_at_p1() -> Iterator[None]:
    """The disk is full when p1 is written, which ends the work."""
    real = Worker.write

    def write(self: Worker, job: Any, labeled: Any) -> Record:
        if job.case.id == "p1":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, job, labeled)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "write", write)
        yield


ENDED = "repeat the command without --overwrite to go on"


@pytest.mark.parametrize("options", [{}, {"skip_existing": True}])
def test_an_interrupted_overwrite_goes_on_with_the_other_model(
    folder: Path, predict: Predict, other_model: Path, options: dict[str, Any]
) -> None:
    predict(uncertainty=True)
    before = {f"p{n}.nii.gz": (folder / "out" / f"p{n}.nii.gz").read_bytes() for n in range(3)}
    with full_disk_at_p1(), pytest.raises(IncompleteError, match=ENDED):
        predict(model=other_model, overwrite=True)
    assert [found.case_id for found in predict(model=other_model, **options)] == ["p1", "p2"]
    after = {path.name: path.read_bytes() for path in (folder / "out").glob("p*.nii.gz")}
    assert after.keys() == before.keys(), "no uncertainty of the old model is left"
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize("options", [{}, {"skip_existing": True}])
@pytest.mark.parametrize("parts", [(None,), ("1/2", "2/2")])
def test_an_interrupted_overwrite_goes_on_with_the_same_model(
    predict: Predict, parts: tuple[str | None, ...], options: dict[str, Any]
) -> None:
    for part in parts:
        predict(shard=part)
    with full_disk_at_p1(), pytest.raises(IncompleteError, match=ENDED):
        predict(overwrite=True)
    assert [found.case_id for found in predict(**options)] == ["p1", "p2"]
    assert predict(**options) == []


def test_a_part_whose_overwrite_was_interrupted_is_finished_by_the_whole(predict: Predict) -> None:
    predict()
    with full_disk_at_p1(), pytest.raises(IncompleteError, match=ENDED):
        predict(overwrite=True, shard="1/2")
    assert [found.case_id for found in predict()] == ["p1"]
    assert predict() == []


def test_no_map_of_an_older_image_stays_after_an_interrupted_overwrite(
    folder: Path, predict: Predict
) -> None:
    before = {found.case_id: found.path.read_bytes() for found in predict()}
    for number in range(3):
        write_image(folder / "in" / f"p{number}.nii", seed=10 + number)
    with full_disk_at_p1(), pytest.raises(IncompleteError, match=ENDED):
        predict(overwrite=True)
    predict(skip_existing=True)
    for case, old in before.items():
        assert (folder / "out" / f"{case}.nii.gz").read_bytes() != old


def test_a_map_of_an_older_image_is_told_of_where_it_is_left_out(
    folder: Path, predict: Predict, caplog: pytest.LogCaptureFixture
) -> None:
    predict()
    assert predict(skip_existing=True) == []
    assert "was made of another image" not in caplog.text
    write_image(folder / "in" / "p1.nii", seed=77)
    assert predict(skip_existing=True) == []
    told = f"case p1: {folder / 'out' / 'p1.nii.gz'} was made of another image than "
    assert [text for text in caplog.messages if "another image" in text] == [
        f"{told}{folder / 'in' / 'p1.nii'} is now, and is left out; remove it to have it made anew"
    ]


def test_nothing_of_other_labels_stays_beside_new_ones(
    folder: Path, predict: Predict, other_model: Path
) -> None:
    predict(uncertainty=True)
    (folder / "out" / "q_uncertainty.nii.gz").write_bytes(b"somebody else's")
    with pytest.raises(RunError, match="exist already"):
        predict(model=other_model)
    assert len(predict(model=other_model, overwrite=True)) == 3
    assert in_folder(folder / "out") == [
        *("p0.nii.gz", "p1.nii.gz", "p2.nii.gz", "q_uncertainty.nii.gz")
    ]


def test_what_belongs_to_a_map_of_another_format_stays_with_it(
    folder: Path, predict: Predict
) -> None:
    predict(uncertainty=True)
    (folder / "out" / "p1_probabilities.nii.gz").write_bytes(b"of another program")
    assert len(predict(format="nrrd", overwrite=True)) == 3
    assert {"p1_uncertainty.nii.gz", "p1_probabilities.nii.gz"} <= {*in_folder(folder / "out")}


def test_models_are_not_mixed_in_a_folder_because_of_one_new_image(
    folder: Path, predict: Predict, other_model: Path
) -> None:
    predict()
    told = (folder / "out" / "predictions.json").read_bytes()
    write_image(folder / "in" / "p3.nii", seed=3)
    with pytest.raises(RunError, match="3 outputs exist already"):
        predict(model=other_model)
    assert (folder / "out" / "predictions.json").read_bytes() == told


def test_labels_of_another_model_do_not_count_as_those_of_a_part_before(
    folder: Path, predict: Predict, other_model: Path
) -> None:
    options = {"format": "nii"}  # every label map has the same size
    (folder / "in" / "broken.nii").write_bytes(b"junk")
    parts = ("1/2", "2/2")
    for part in parts:
        with suppress(IncompleteError):
            predict(shard=part, **options)
    assert list((folder / "out").glob("failed-*of2.csv"))
    (folder / "in" / "broken.nii").unlink()
    assert len(predict(model=other_model, overwrite=True, **options)) == 3
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *("p0.nii", "p1.nii", "p2.nii", "predictions.json")
    ]
    for part in (None, *parts):
        with pytest.raises(RunError, match="outputs exist already"):
            predict(shard=part, **options)
    assert predict(model=other_model, **options) == []
    write_image(folder / "in" / "p3.nii", seed=3)
    assert [found.case_id for found in predict(model=other_model, **options)] == ["p3"]


def test_a_part_by_another_model_leaves_the_other_part_on_record(
    folder: Path, predict: Predict, other_model: Path
) -> None:
    predict()
    replaced = predict(model=other_model, overwrite=True, shard="1/2")
    assert 0 < len(replaced) < 3
    kept = json.loads((folder / "out" / "predictions.json").read_text())["cases"]
    assert kept.keys() == {str(folder / "out" / f"p{n}.nii.gz") for n in range(3)} - {
        str(found.path) for found in replaced
    }


def test_what_a_killed_part_had_planned_is_forgotten_once_it_is_made(
    folder: Path, tiny_model: Path, predict: Predict
) -> None:
    options = validated(PredictConfig, {"inputs": [folder / "in"], "model": tiny_model})
    digests = {str(tiny_model): inspect_bundle(tiny_model).sha256}
    part = Records.open(folder / "out" / "predictions-1of2.json", digests, options)
    part.begin(folder / "out" / f"p{number}.nii.gz" for number in range(3))  # and is killed
    assert len(predict()) == 3
    (folder / "out" / "p1.nii.gz").write_bytes(b"corrected by hand")
    assert predict(skip_existing=True) == []
    assert (folder / "out" / "p1.nii.gz").read_bytes() == b"corrected by hand"


def test_what_a_person_made_of_a_case_that_overwrite_failed_on_is_kept(
    folder: Path, predict: Predict
) -> None:
    predict()
    whole = (folder / "in" / "p1.nii").read_bytes()
    (folder / "in" / "p1.nii").write_bytes(whole[:-40])
    with pytest.raises(IncompleteError, match="case p1"):
        predict(overwrite=True)
    (folder / "out" / "p1.nii.gz").write_bytes(b"drawn by hand")
    (folder / "in" / "p1.nii").write_bytes(whole)
    with pytest.raises(IncompleteError, match=r"case p1: .* exists already"):
        predict()
    assert predict(skip_existing=True) == []
    assert (folder / "out" / "p1.nii.gz").read_bytes() == b"drawn by hand"


def test_the_error_of_a_batch_can_be_sent_between_processes() -> None:
    sent = pickle.loads(pickle.dumps(IncompleteError("1 of 2 cases failed", ["done"])))
    assert (str(sent), sent.done) == ("1 of 2 cases failed", ("done",))


def test_a_file_on_a_bad_disk_fails_alone(
    folder: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def bad(path: Any, *rest: Any, **options: Any) -> int:
        if str(path).endswith("p1.nii"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", bad)
    with pytest.raises(IncompleteError, match=r"^1 of 3 cases failed, 2 were written"):
        predict()


def test_a_worker_does_not_go_on_with_a_model_that_was_replaced(
    folder: Path, tiny_model: Path, other_model: Path
) -> None:
    model = folder / "model.medseg3d"
    outputs = []
    for name, source in (("a", tiny_model), ("b", other_model)):
        shutil.copyfile(source, model)
        digests = (inspect_bundle(model).sha256,)
        given = {"inputs": [folder / "in"], "model": model, "out": folder / name}
        config = validated(PredictConfig, given | {"threads": 1})
        job, *_ = prediction_batch.Batch.found(config).jobs()
        # paths and options are the same for the worker, as with a scheduler that stays
        config = config.model_copy(update={"out": None})
        prediction_batch.predict_job(config, digests, job)
        outputs.append(read_labels(job.target.labels).labels)
    assert (outputs[0] != outputs[1]).any()
    with pytest.raises(RunError, match="is another model than when the command began"):
        prediction_batch.predict_job(config, ("0" * 64,), job)


def test_a_model_that_is_replaced_meanwhile_labels_no_case_that_a_full_gpu_hands_to_the_cpu(
    folder: Path,
    predict: Predict,
    tiny_model: Path,
    other_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, real = folder / "model.medseg3d", worker.open_predictor
    shutil.copyfile(tiny_model, model)

    def full(*_: Any, **__: Any) -> Any:
        shutil.copyfile(other_model, model)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def opened(config: Any) -> Any:
        predictor = real(config)
        if config.device != "cpu":
            predictor.device = torch.device("cuda")
            predictor.label = full  # type: ignore[method-assign]
        return predictor

    for module in (prediction_batch, worker):
        monkeypatch.setattr(module, "open_predictor", opened)
    with pytest.raises(RunError, match=r"^3 of 3 .* is another model than when the command began"):
        predict(model=model)
    assert in_folder(folder / "out") == ["failed.csv"]


def test_a_run_that_ends_meanwhile_is_not_taken(
    folder: Path, tiny_model: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    models = [Path("runs") / name / "model.medseg3d" for name in "ab"]
    for model in models:
        model.parent.mkdir(parents=True)
    shutil.copyfile(tiny_model, models[0])
    config = validated(PredictConfig, {"inputs": [folder / "in"], "out": "out"})
    batch = prediction_batch.Batch.found(config)
    shutil.copyfile(other_model, models[1])
    os.utime(models[1], (2**32, 2**32))
    assert worker.models_of(config) == [models[1]]
    assert worker.models_of(batch.config) == [models[0]]
    assert batch.records.options == Records.open(Path("new"), {}, config).options


def test_what_was_written_is_printed_though_a_case_failed(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in" / "p1.nii").write_bytes(b"junk")
    words = ["predict", str(folder / "in"), "-m", str(tiny_model), "-o", str(folder / "out")]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1
    assert [line.split("\t")[0] for line in found.stdout.splitlines()] == [
        str(folder / "out" / f"p{number}.nii.gz") for number in (0, 2)
    ]


@pytest.mark.parametrize(
    "options",
    [{"roi": "0:5,0:5,0:5"}, {"replace_nonfinite": 0.0}, {"uncertainty": True}, {"out": "x"}],
)
def test_an_array_refuses_what_is_for_files(tiny_model: Path, options: dict[str, Any]) -> None:
    array = np.zeros((9, 9, 9), np.float32)
    with pytest.raises(ConfigError, match=f"^{next(iter(options))}: for files only"):
        medseg3d.predict(array, affine=np.eye(4), model=tiny_model, **options)


def test_labels_beyond_16_bits_are_written_as_they_are(
    folder: Path, predict: Predict, tiny_model: Path
) -> None:
    bundle, network = loaded(tiny_model)
    plan = bundle.plan.model_copy(update={"labels": {0: "background", 3: "core", 70_000: "shell"}})
    large = folder / "large.medseg3d"
    save_bundle(large, bundle.model_copy(update={"plan": plan}), network)
    usual, found = predict()[0], predict(model=large, out=folder / "large")[0]
    expected = read_labels(usual.path).labels.astype(np.int64)
    expected[expected == 7] = 70_000
    np.testing.assert_array_equal(read_labels(found.path).labels, expected)
    assert found.volumes_ml == pytest.approx(usual.volumes_ml)
    assert found.volumes_ml["shell"] > 0


def test_one_channel_needs_no_number_though_another_case_has_it(
    folder: Path, predict: Predict
) -> None:
    write_image(folder / "in" / "brain_0000.nii", seed=4)
    assert [found.case_id for found in predict()] == ["brain", "p0", "p1", "p2"]


def test_files_without_the_number_that_others_have_fail_alone(
    folder: Path, predict: Predict
) -> None:
    for channel in range(2):
        write_image(folder / "in" / f"brain_000{channel}.nii", seed=4)
    with pytest.raises(IncompleteError):
        predict()
    told = {row["case"]: row["error"] for row in failures(folder / "out")}
    assert told.keys() == {"brain", "p0", "p1", "p2"}
    assert "lacks the channel number that others have" in told["p0"]
