"""Parts of an image, parts of a folder, several machines, and what is written beside labels."""

import csv
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.api.predicting import prediction_batch, worker
from medseg3d.bundle import load_network, read_bundle, save_bundle
from medseg3d.errors import ConfigError, RunError

SHAPE = (40, 36, 30)
TURNED = np.array([[0, -1.2, 0, 9], [0, 0, 1.5, -3], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])


def write_image(path: Path, seed: int = 0, affine: np.ndarray | None = None) -> Path:
    rng = np.random.default_rng(seed)
    array = rng.normal(100, 30, SHAPE).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, TURNED if affine is None else affine), path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "case.nii")


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_a_region_has_the_labels_of_the_whole(image: Path, tiny_model: Path) -> None:
    options = {"model": tiny_model, "precision": "fp32"}
    [whole] = medseg3d.predict(image, out=image.parent / "whole.nii", **options)
    [part] = medseg3d.predict(image, out=image.parent / "p.nii", roi="4:20, :18, 10:", **options)
    expected, found = labels_of(whole.path), labels_of(part.path)
    inside = np.zeros(SHAPE, bool)
    inside[4:20, :18, 10:] = True
    assert not found[~inside].any()
    assert (found[inside] == expected[inside]).mean() > 0.9  # windows lie elsewhere
    assert found[inside].any()
    voxel_ml = abs(np.linalg.det(TURNED[:3, :3])) / 1000
    assert part.volumes_ml["core"] == pytest.approx((found == 3).sum() * voxel_ml)


def test_a_mask_is_a_region_too(image: Path, tiny_model: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:20:2, 3:9, 7:12] = 1
    nib.save(nib.Nifti1Image(mask, TURNED), image.parent / "mask.nii")
    [part] = medseg3d.predict(
        image, model=tiny_model, out=image.parent / "p.nii", roi_mask=image.parent / "mask.nii"
    )
    found = labels_of(part.path)
    assert found.any()
    assert not found[mask == 0].any()


@pytest.mark.parametrize("kind", ["roi", "roi_mask"])
def test_probabilities_and_uncertainty_end_with_the_region(
    image: Path, tiny_model: Path, kind: str
) -> None:
    inside = np.zeros(SHAPE, bool)
    inside[4:20, :18, 10:] = True
    box = {"roi": "4:20,:18,10:"}
    options = {"model": tiny_model, "probabilities": True, "uncertainty": True}
    region = box
    if kind == "roi_mask":
        inside &= np.random.default_rng(5).random(SHAPE) < 0.5
        inside[[4, 19], [0, 17], [10, 29]] = True  # so that the box is the same
        region = {"roi_mask": image.parent / "mask.nii"}
        nib.save(nib.Nifti1Image(inside.astype(np.uint8), TURNED), region["roi_mask"])
    [whole] = medseg3d.predict(image, out=image.parent / "w.nii", **options, **box)
    [found] = medseg3d.predict(image, out=image.parent / "f.nii", **options, **region)
    for name, outside in (("path", 0), ("probabilities", [1, 0, 0]), ("uncertainty", 0)):
        voxels = nib.load(getattr(found, name)).get_fdata()
        of_box = nib.load(getattr(whole, name)).get_fdata()
        np.testing.assert_array_equal(voxels[inside], of_box[inside])
        assert np.abs(voxels[~inside] - outside).max() < 1e-7  # the factor of the file is rounded
    doubt = nib.load(found.uncertainty).get_fdata()[inside]
    assert (doubt > 0.01).mean() > 0.5


def test_probabilities_and_uncertainty_go_with_the_labels(image: Path, tiny_model: Path) -> None:
    [found] = medseg3d.predict(
        *(image,),
        model=tiny_model,
        out=image.parent / "o.nii",
        probabilities=True,
        uncertainty=True,
    )
    assert found.probabilities is not None
    assert found.uncertainty is not None
    stored = nib.load(found.probabilities)
    assert stored.get_data_dtype() == np.uint16
    shares = stored.get_fdata()
    np.testing.assert_allclose(shares.sum(-1), 1, atol=3e-5)
    labels = labels_of(found.path)
    ranks = np.array([0, 3, 7])[shares.argmax(-1)]
    top = np.sort(shares, axis=-1)
    clear = top[..., -1] - top[..., -2] > 1e-4
    np.testing.assert_array_equal(ranks[clear], labels[clear])
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(shares * np.log(shares), axis=-1) / np.log(3)
    uncertainty = nib.load(found.uncertainty).get_fdata()
    np.testing.assert_allclose(uncertainty, entropy, atol=1e-3)
    for path in (found.probabilities, found.uncertainty):
        np.testing.assert_allclose(nib.load(path).affine, TURNED)


def test_fast_and_accurate_are_presets(
    image: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "medseg3d")
    out = image.parent
    write_image(image.parent / "in" / "a.nii")

    def windows(**options: object) -> int:
        name = "".join(options) or "usual"
        medseg3d.predict(out / "in", model=tiny_model, out=out / name, **options)
        [record] = json.loads((out / name / "predictions.json").read_text())["cases"].values()
        return int(record["windows"])

    assert windows(fast=True) < windows() == windows(accurate=True)
    assert "was trained without mirroring, so nothing is mirrored" in caplog.text
    with pytest.raises(ConfigError, match="exclude each other"):
        medseg3d.predict(image, model=tiny_model, fast=True, accurate=True)


def test_the_body_in_air_needs_fewer_windows(tmp_path: Path, tiny_model: Path) -> None:
    array = np.zeros((120, 60, 40), np.int16)
    array[50:75, 20:45] = np.random.default_rng(0).normal(400, 30, (25, 25, 40))
    array += np.random.default_rng(1).normal(3, 1, array.shape).astype(np.int16)
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(array, np.diag([2, 2, 2, 1.0])), tmp_path / "in" / "a.nii")
    seen = {}
    for crop in (True, False):
        out = tmp_path / str(crop)
        medseg3d.predict(tmp_path / "in", model=tiny_model, out=out, crop=crop)
        [record] = json.loads((out / "predictions.json").read_text())["cases"].values()
        seen[crop] = record["windows"]
    assert seen[True] < 0.7 * seen[False]


def test_parts_of_a_folder_are_the_folder(tmp_path: Path, tiny_model: Path) -> None:
    for number in range(5):
        write_image(tmp_path / "in" / f"c{number}.nii", seed=number)
    (tmp_path / "in" / "broken.nii").write_bytes(b"junk")
    out, told = tmp_path / "out", []
    for part in ("1/2", "2/2"):
        try:
            medseg3d.predict(tmp_path / "in", model=tiny_model, out=out, shard=part)
        except RunError as error:
            told.append(str(error))
    assert len(told) == 1
    names = sorted(path.name for path in out.iterdir())
    [failed] = [name for name in names if name.startswith("failed")]
    assert names == sorted(
        [
            *(f"c{n}.nii.gz" for n in range(5)),
            *(failed, "predictions-1of2.json", "predictions-2of2.json"),
        ]
    )
    with (out / failed).open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["broken"]
    done = [
        {record["case"] for record in json.loads((out / name).read_text())["cases"].values()}
        for name in ("predictions-1of2.json", "predictions-2of2.json")
    ]
    assert done[0] | done[1] == {f"c{n}" for n in range(5)}
    assert not done[0] & done[1]


def test_the_whole_knows_what_its_parts_have_done(tmp_path: Path, tiny_model: Path) -> None:
    for number in range(5):
        write_image(tmp_path / "in" / f"c{number}.nii", seed=number)
    out, options = tmp_path / "out", {"model": tiny_model, "out": tmp_path / "out"}
    [c0, c3] = medseg3d.predict(tmp_path / "in", shard="1/3", **options)
    assert [c0.case_id, c3.case_id] == ["c0", "c3"]
    made = c0.path.stat().st_mtime_ns
    found = medseg3d.predict(tmp_path / "in", **options)
    assert [prediction.case_id for prediction in found] == ["c1", "c2", "c4"]
    assert c0.path.stat().st_mtime_ns == made
    whole = json.loads((out / "predictions.json").read_text())["cases"]
    parts = json.loads((out / "predictions-1of3.json").read_text())["cases"]
    assert sorted(record["case"] for record in whole.values()) == [f"c{n}" for n in range(5)]
    assert whole[str(c0.path)] == parts[str(c0.path)]
    for part in ("1/2", "2/2", "3/4"):  # nor is anything done again by other parts
        assert medseg3d.predict(tmp_path / "in", shard=part, **options) == []
    write_image(tmp_path / "in" / "c3.nii", seed=7)
    with pytest.raises(RunError, match=r"^1 of 5 cases failed.*c3\.nii\.gz exists already"):
        medseg3d.predict(tmp_path / "in", **options)


def test_workers_make_the_same_files_and_a_killed_one_costs_nothing(
    tmp_path: Path, tiny_model: Path
) -> None:
    for number in range(4):
        write_image(tmp_path / "in" / f"c{number}.nii", seed=number)
    (tmp_path / "in" / "broken.nii").write_bytes(b"junk")
    options = {"model": tiny_model, "precision": "fp32"}
    with pytest.raises(RunError, match="1 of 5 cases failed, 4 were written"):
        medseg3d.predict(tmp_path / "in", out=tmp_path / "here", **options)
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not killed:
            for place in Path("/proc").iterdir():
                try:
                    if (
                        place.name.isdigit()
                        and b"spawn_main" in (place / "cmdline").read_bytes()
                        and int((place / "stat").read_text().rpartition(")")[2].split()[1])
                        == os.getpid()
                        and (tmp_path / "there" / "c0.nii.gz").exists()
                    ):
                        os.kill(int(place.name), signal.SIGKILL)
                        killed.append(int(place.name))
                        return
                except OSError:
                    continue
            time.sleep(0.005)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    with pytest.raises(RunError, match="1 of 5 cases failed, 4 were written"):
        medseg3d.predict(tmp_path / "in", out=tmp_path / "there", cluster="local:2", **options)
    thread.join(60)
    assert killed, "all was done before a worker could be killed"
    for number in range(4):
        name = f"c{number}.nii.gz"
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert medseg3d.predict(tmp_path / "in" / "c1.nii", out=tmp_path / "x.nii", **options)


def test_only_the_workers_need_the_gpu(tmp_path: Path, tiny_model: Path) -> None:
    write_image(tmp_path / "a.nii")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    options = {"model": tiny_model, "out": tmp_path / "out", "cluster": address}
    for there in ({"device": "cuda"}, {"precision": "fp16"}):
        with pytest.raises(RunError, match="no Dask scheduler answers at"):
            medseg3d.predict(tmp_path / "a.nii", **options, **there)


def test_options_whose_bytes_are_no_utf8_tell_a_worker_which_model_it_has() -> None:
    names = (b"caf\xe9.nii", b"caf\xe9.nii", b"caf\xe8.nii")
    one, same, other = (
        medseg3d.config.PredictConfig(inputs=(Path(os.fsdecode(name)),)) for name in names
    )
    assert (hash(one), one) == (hash(same), same)
    assert len({one, same, other}) == 2


def test_what_workers_get_holds_absolute_paths(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "in" / "a.nii")
    write_image(tmp_path / "in" / "b.nii")
    monkeypatch.chdir(tmp_path)
    batch = prediction_batch.Batch.found(
        medseg3d.config.PredictConfig(inputs=("in",), model=(tiny_model,), out="out")
    )
    for job in batch.jobs():
        there = job.anywhere()
        paths = [*there.case.images, *there.target.files]
        assert all(path.is_absolute() for path in paths)
        assert paths == [path.absolute() for path in (*job.case.images, *job.target.files)]
    config = prediction_batch._for_workers(batch.config, 3, share=2)
    assert config.threads == 3
    assert 0 < (config.memory_limit or 0) < worker.memory_in_reach()


@pytest.mark.parametrize(
    ("fastest", "evidence", "expected"),
    [
        ("bf16", {}, "fp32"),
        ("bf16", {"fp16": 0.0}, "fp32"),
        ("bf16", {"bf16": 0.0}, "auto"),
        ("bf16", {"bf16": 0.1}, "auto"),
        ("fp16", {"bf16": 0.0}, "fp32"),
        ("fp32", {}, "auto"),
    ],
)
def test_no_worker_tries_an_arithmetic_on_its_own(
    fastest: str,
    evidence: dict[str, float],
    expected: str,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction_batch, "resolve_precision", lambda *_: fastest)
    bundle = read_bundle(tiny_model).model_copy(update={"dice_changes": evidence})
    save_bundle(tmp_path / "model.medseg3d", bundle, load_network(tiny_model))
    models = (tmp_path / "model.medseg3d",)
    config = medseg3d.config.PredictConfig(inputs=("a.nii",), model=models)
    assert prediction_batch.without_trial(config).precision == expected
    told = config.model_copy(update={"precision": "bf16"})
    assert prediction_batch.without_trial(told) == told
