"""Batches that go wrong: what is written, what is said, what is left behind."""

import csv
import errno
import gzip
import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import medseg3d
from medseg3d.api.predicting import prediction_batch, worker
from medseg3d.api.predicting.needs import Footprint, Needs, needs_of
from medseg3d.bundle import read_bundle
from medseg3d.config import PredictConfig, validated
from medseg3d.data.cases import find_inputs
from medseg3d.errors import DataError, RunError
from medseg3d.io import read_labels
from medseg3d.runs import find_bundle

ODD_NAMES = (
    "-leading.dash",
    "dots.v1.2",
    "glob[ab]*",
    "Müller, 中文 (2)",
    "quote'\"s",
    "n" * 230,
)


def write_image(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    array = rng.normal(100, 30, (13, 12, 11)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = nib.Nifti1Image(array, np.diag([-1.0, 1.2, 1.5, 1.0])).to_bytes()
    path.write_bytes(content)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(4):
        write_image(tmp_path / "images" / f"case{number}.nii", seed=number)
    return tmp_path / "images"


@pytest.fixture
def fails_on_case2(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """The error in this list is raised when case2 is read."""
    errors: list[Exception] = []
    real = worker.read_image

    def read(paths: tuple[Path, ...], **options: Any) -> Any:
        if errors and paths[0].stem == "case2":
            raise errors[0]
        return real(paths, **options)

    monkeypatch.setattr(worker, "read_image", read)
    return errors


REPORT = "predictions.json"


def in_folder(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != REPORT)


def failures(folder: Path, name: str = "failed.csv") -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files_that_are_none_fail_alone(images: Path, tiny_model: Path) -> None:
    (images / "case0.nii").unlink()
    (images / "case0.nii").symlink_to("nowhere.nii")
    os.mkfifo(images / "pipe.nii")
    (images / "folder.nii").mkdir()
    (images / "loop.nii").symlink_to("loop.nii")
    out = images.parent / "out"
    with pytest.raises(RunError, match=r"^4 of 7 cases failed, 3 were written"):
        medseg3d.predict(images, model=tiny_model, out=out)
    told = {row["case"]: row["error"] for row in failures(out)}
    assert told.keys() == {"case0", "folder", "loop", "pipe"}
    assert "is a link that leads back to itself" in told["loop"]
    assert "is a link to nowhere.nii, which does not exist" in told["case0"]
    assert "is a folder, expected an image file" in told["folder"]
    assert "is not a regular file" in told["pipe"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DataError("broken"), "broken"),
        (RunError("case case2: odd"), "odd"),
        (ZeroDivisionError("division by zero"), "unexpected ZeroDivisionError: division by zero;"),
        (MemoryError(), "the memory ran out; predicting it takes about 5"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB"),
            "the memory ran out",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "x.nii"), "x.nii: Permission denied"),
        (RecursionError("too deep\nby far"), "unexpected RecursionError: too deep by far;"),
    ],
)
def test_a_bad_case_never_stops_the_others(
    images: Path, tiny_model: Path, fails_on_case2: list[Exception], error: Exception, told: str
) -> None:
    out = images.parent / "out"
    fails_on_case2.append(error)
    with pytest.raises(RunError) as caught:
        medseg3d.predict(images, model=tiny_model, out=out)
    assert str(caught.value).startswith(f"1 of 4 cases failed, 3 were written: case case2: {told}")
    assert str(caught.value).endswith(f"all failures are in {out / 'failed.csv'}")
    assert in_folder(out) == ["case0.nii.gz", "case1.nii.gz", "case3.nii.gz", "failed.csv"]
    [failure] = failures(out)
    assert (failure["case"], failure["file"]) == ("case2", str(images / "case2.nii"))
    assert failure["error"].startswith(told)
    fails_on_case2.clear()
    [last] = medseg3d.predict(images, model=tiny_model, out=out, skip_existing=True)
    assert last.case_id == "case2"
    assert "failed.csv" not in in_folder(out), "a table of an earlier batch does not stay"


def test_every_bad_case_is_in_the_table_and_three_in_the_sentence(
    images: Path, tiny_model: Path
) -> None:
    for number in range(4):
        (images / f"case{number}.nii").write_bytes(b"junk")
    write_image(images / "good.nii")
    out = images.parent / "out"
    with pytest.raises(RunError, match=r"^4 of 5 cases failed.*case2: .*; and 1 more; all"):
        medseg3d.predict(images, model=tiny_model, out=out)
    assert [row["case"] for row in failures(out)] == [f"case{number}" for number in range(4)]
    assert in_folder(out) == ["failed.csv", "good.nii.gz"]


def test_a_single_bad_case_is_one_sentence_and_no_table(images: Path, tiny_model: Path) -> None:
    (images / "case0.nii").write_bytes(b"")
    with pytest.raises(RunError, match=r"^case case0: .*case0\.nii is an empty file"):
        medseg3d.predict(images / "case0.nii", model=tiny_model, out=images.parent / "out")
    assert not (images.parent / "out").exists()


def test_a_table_of_yesterday_goes_though_there_is_one_case_today(
    images: Path, tiny_model: Path
) -> None:
    out = images.parent / "out"
    (images / "case0.nii").write_bytes(b"junk")
    with pytest.raises(RunError, match=r"^1 of 4 cases failed"):
        medseg3d.predict(images, model=tiny_model, out=out)
    for number in range(3):
        (images / f"case{number}.nii").unlink()
    medseg3d.predict(images, model=tiny_model, out=out, overwrite=True)
    assert "failed.csv" not in in_folder(out)


def test_somebody_elses_table_of_that_name_is_kept(images: Path, tiny_model: Path) -> None:
    out = images.parent / "out"
    out.mkdir()
    (out / "failed.csv").write_text("patient,reason\n7,moved\n")
    medseg3d.predict(images, model=tiny_model, out=out)
    assert (out / "failed.csv").read_text() == "patient,reason\n7,moved\n"


def test_another_number_of_channels_names_the_model(tmp_path: Path, tiny_model: Path) -> None:
    for channel in range(2):
        write_image(tmp_path / "in" / f"a_000{channel}.nii")
    with pytest.raises(RunError) as caught:
        medseg3d.predict(tmp_path / "in", model=tiny_model, out=tmp_path / "out")
    assert str(caught.value) == (
        "case a: 2 channels found where the plan has 1 (CT): "
        f"{tmp_path / 'in' / 'a_0000.nii'} does not fit the model {tiny_model}"
    )


def test_too_large_a_case_is_refused_before_it_is_read(
    images: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.eye(4)).to_bytes()
    header = nib.Nifti1Header(huge[:348])
    header.set_data_shape((1500, 1500, 1000))
    with (images / "huge.nii").open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 2 * 1500 * 1500 * 1000)  # a sparse file, as large as it says
    read: list[Path] = []
    real = worker.read_image

    def reading(paths: tuple[Path, ...], **options: Any) -> Any:
        read.extend(paths)
        return real(paths, **options)

    monkeypatch.setattr(worker, "read_image", reading)
    monkeypatch.setattr("medseg3d.api.predicting.needs.memory_in_reach", lambda: 2 << 30)
    with pytest.raises(
        RunError, match=r"case huge: .* takes about 1\d\.\d GiB .* may use at present 2\.0 G"
    ):
        medseg3d.predict(images, model=tiny_model, out=images.parent / "out")
    assert [path.stem for path in read] == ["case0", "case1", "case2", "case3"]


def test_empty_borders_do_not_count_for_the_memory(tmp_path: Path, tiny_model: Path) -> None:
    array = np.zeros((60, 60, 60), np.int16)
    for name, size in (("small", 20), ("large", 60)):
        array[:size, :size, :size] = 1 + np.arange(size)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    needs = needs_of_file(tmp_path / "large.nii", tiny_model)
    assert needs.reading < needs.least
    options = {"model": tiny_model, "out": tmp_path / "out", "max_memory": str(needs.least - 1)}
    medseg3d.predict(tmp_path / "small.nii", **options)
    with pytest.raises(
        RunError, match=r"case large: predicting it takes about 50\d\.\d MiB .* allows 50\d\.\d MiB"
    ):
        medseg3d.predict(tmp_path / "large.nii", **options)


def needs_of_file(path: Path, model: Path, footprint: Footprint | None = None) -> Needs:
    plan = read_bundle(find_bundle(model)).plan
    [case] = find_inputs([path])
    config = validated(PredictConfig, {"inputs": [path], "model": model})
    footprint = footprint or worker.footprint_of(config)
    return needs_of(case, plan, config, model=model, footprint=footprint)


def test_less_memory_gives_the_same_labels(tmp_path: Path, tiny_model: Path) -> None:
    rng = np.random.default_rng(1)
    array = rng.normal(100, 40, (90, 80, 70)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    [usual] = medseg3d.predict(tmp_path / "a.nii", model=tiny_model, out=tmp_path / "1.nii")
    needs = needs_of_file(tmp_path / "a.nii", tiny_model)
    least = needs.computing + needs.least_slab
    assert least < needs.memory
    [tight] = medseg3d.predict(
        tmp_path / "a.nii", model=tiny_model, out=tmp_path / "2.nii", max_memory=str(least + 1000)
    )
    assert tight.path.read_bytes() == usual.path.read_bytes()


def test_a_full_gpu_hands_the_case_to_the_cpu(
    images: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    real = worker.open_predictor
    devices: list[str] = []

    def on_gpu(config: Any) -> Any:
        devices.append(config.device)
        predictor = real(config)
        if config.device != "cpu":
            predictor.device = torch.device("cuda")

            def full(*_: Any, **__: Any) -> Any:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

            predictor.label = full  # type: ignore[method-assign]
        return predictor

    usual = medseg3d.predict(images, model=tiny_model, out=images.parent / "a", precision="fp32")
    for module in (prediction_batch, worker):
        monkeypatch.setattr(module, "open_predictor", on_gpu)
    with caplog.at_level(logging.WARNING, "medseg3d"):
        others = medseg3d.predict(
            images, model=tiny_model, out=images.parent / "b", precision="fp32"
        )
    for number in range(4):
        assert f"case case{number}: the memory of cuda is too small for it" in caplog.text
    assert devices == ["auto", "cpu"]  # the model is opened once for all of them
    for expected, found in zip(usual, others, strict=True):
        assert found.path.read_bytes() == expected.path.read_bytes()


def test_a_gpu_that_is_full_from_the_start_hands_all_cases_to_the_cpu(
    images: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    real = worker.open_predictor
    options = {"model": tiny_model, "precision": "fp32"}
    usual = medseg3d.predict(images, out=images.parent / "a", **options)

    def full(config: Any) -> Any:
        if config.device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(config)

    monkeypatch.setattr(prediction_batch, "open_predictor", full)
    monkeypatch.setattr(prediction_batch, "find_device", lambda _: torch.device("cuda"))
    with caplog.at_level(logging.WARNING, "medseg3d"):
        others = medseg3d.predict(images, out=images.parent / "b", **options)
    told = [text for text in caplog.messages if "GPU" in text]
    assert told == [
        "the memory of the GPU is too small for the model at present; all cases are predicted on "
        "the CPU"
    ]
    for expected, found in zip(usual, others, strict=True):
        assert found.path.read_bytes() == expected.path.read_bytes()


def test_a_case_handed_to_the_cpu_keeps_to_the_memory_that_is_allowed(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(1).normal(100, 40, (90, 80, 70)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    on_gpu, on_cpu = Footprint(per_channel=0), Footprint(per_channel=10_000)
    more = needs_of_file(tmp_path / "a.nii", tiny_model, on_gpu)
    needs = needs_of_file(tmp_path / "a.nii", tiny_model, on_cpu)
    spare = 1000
    allowed = needs.computing + needs.least_slab + spare
    assert more.memory < allowed < needs.memory
    real_open = worker.open_predictor
    slabs: dict[str, int] = {}

    def opened(config: Any) -> Any:
        predictor = real_open(config)
        real_label = predictor.label

        def label(*given: Any, max_slab_bytes: int, **others: Any) -> Any:
            slabs[config.device] = max_slab_bytes
            if config.device != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return real_label(*given, max_slab_bytes=max_slab_bytes, **others)

        predictor.label = label  # type: ignore[method-assign]
        if config.device != "cpu":
            predictor.device = torch.device("cuda")
        return predictor

    def footprint(config: Any) -> Footprint:
        return on_cpu if config.device == "cpu" else on_gpu

    for module in (prediction_batch, worker):
        monkeypatch.setattr(module, "open_predictor", opened)
        monkeypatch.setattr(module, "footprint_of", footprint)
    medseg3d.predict(
        tmp_path / "a.nii", model=tiny_model, out=tmp_path / "b.nii", max_memory=str(allowed)
    )
    assert slabs == {"auto": needs.slab, "cpu": needs.least_slab + spare}


def test_doubts_about_a_case_are_logged(
    images: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(worker, "case_warnings", lambda *_: ["the spacing is odd"])
    with caplog.at_level(logging.WARNING, "medseg3d"):
        medseg3d.predict(images / "case1.nii", model=tiny_model, out=images.parent / "out")
    assert "case case1: the spacing is odd" in caplog.text


@pytest.mark.parametrize("format_name", ["nii.gz", "nii", "nrrd", "seg.nrrd", "mha", "mgz"])
def test_every_format_holds_the_same_labels_in_the_same_place(
    images: Path, tiny_model: Path, format_name: str
) -> None:
    image = images / "case0.nii"
    [usual] = medseg3d.predict(image, model=tiny_model, out=images.parent / "usual")
    [other] = medseg3d.predict(
        image, model=tiny_model, out=images.parent / "other", format=format_name
    )
    assert other.path.name == f"case0.{format_name}"
    expected, found = read_labels(usual.path), read_labels(other.path)
    assert expected.labels.any()
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.grid.same_as(expected.grid)


def test_finished_cases_are_left_out_and_the_rest_is_made(images: Path, tiny_model: Path) -> None:
    options = {"model": tiny_model, "out": images.parent / "out", "probabilities": True}
    medseg3d.predict(images, **options)
    out = images.parent / "out"
    assert medseg3d.predict(images, **options) == []
    whole = outputs(out)
    (out / "case1.nii.gz").unlink()
    (out / "case3_probabilities.nii.gz").unlink()
    redone = medseg3d.predict(images, **options, skip_existing=True)
    assert [prediction.case_id for prediction in redone] == ["case1", "case3"]
    assert outputs(out) == whole
    (out / "case1.nii.gz").unlink()
    redone = medseg3d.predict(images, **options)
    assert [prediction.case_id for prediction in redone] == ["case1"]
    assert outputs(out) == whole
    report = json.loads((out / REPORT).read_text())
    assert [record["case"] for record in report["cases"].values()] == [
        *("case0", "case2", "case3", "case1")
    ]


def test_finished_cases_are_known_from_relative_paths_too(
    images: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    options = {"model": tiny_model, "out": "out"}
    assert len(medseg3d.predict("images", **options)) == 4
    assert medseg3d.predict("images", **options) == []
    assert medseg3d.predict(images, model=tiny_model, out=images.parent / "out") == []
    Path("out/case1.nii.gz").unlink()
    assert [found.case_id for found in medseg3d.predict("images", **options)] == ["case1"]
    assert len(medseg3d.predict("images", model=tiny_model)) == 4
    assert medseg3d.predict("images", model=tiny_model) == []


def test_labels_do_not_depend_on_the_turn_of_a_case(
    images: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fresh = tmp_path_factory.mktemp("fresh") / "tiny.medseg3d"
    fresh.write_bytes(tiny_model.read_bytes())
    medseg3d.predict(images, model=fresh, out=images.parent / "together")
    for number in (3, 0):
        name = f"case{number}.nii"
        medseg3d.predict(images / name, model=fresh, out=images.parent / f"{name}.gz")
        alone = (images.parent / f"{name}.gz").read_bytes()
        assert alone == (images.parent / "together" / f"{name}.gz").read_bytes()
    assert fresh.with_name("tiny.medseg3d.cache").is_dir()


def test_what_another_model_or_person_made_is_kept(images: Path, tiny_model: Path) -> None:
    out = images.parent / "out"
    medseg3d.predict(images, model=tiny_model, out=out)
    (out / "case2.nii.gz").write_bytes(b"corrected by hand")
    with pytest.raises(RunError, match=r"^1 of 4 cases failed.*case2\.nii\.gz exists already"):
        medseg3d.predict(images, model=tiny_model, out=out)
    with pytest.raises(RunError, match="4 outputs exist already"):
        medseg3d.predict(images, model=tiny_model, out=out, overlap=0.1)
    assert (out / "case2.nii.gz").read_bytes() == b"corrected by hand"


def test_an_image_that_changed_is_predicted_again_when_its_output_is_gone(
    images: Path, tiny_model: Path
) -> None:
    out = images.parent / "out"
    medseg3d.predict(images, model=tiny_model, out=out)
    write_image(images / "case1.nii", seed=77)
    with pytest.raises(RunError, match=r"^1 of 4 cases failed.*case1\.nii\.gz exists already"):
        medseg3d.predict(images, model=tiny_model, out=out)
    (out / "case1.nii.gz").unlink()
    [redone] = medseg3d.predict(images, model=tiny_model, out=out)
    assert redone.case_id == "case1"


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in in_folder(folder)}


class Disk:
    """Stands in for a disk: the ``fails_at``-th write to a file in the making fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails_at: int | None = None
        self.writes = 0
        real_open, real_fsync = Path.open, os.fsync

        disk = self

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                disk.touch()
                return super().write(content)

        def opening(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if "-part" not in path.name or "w" not in mode:
                return real_open(path, mode, *args, **options)
            raw = io.BufferedWriter(Raw(str(path), "w"), 512)
            return raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8")

        def flush(descriptor: int) -> None:
            disk.touch()
            real_fsync(descriptor)

        monkeypatch.setattr(Path, "open", opening)
        monkeypatch.setattr(os, "fsync", flush)

    def touch(self) -> None:
        self.writes += 1
        if self.fails_at is not None and self.writes >= self.fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_at_any_write_leaves_whole_files_only(
    images: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (2, 3):
        (images / f"case{number}.nii").unlink()
    predictor = prediction_batch.open_predictor(
        validated(PredictConfig, {"inputs": [images], "model": tiny_model})
    )
    monkeypatch.setattr(prediction_batch, "open_predictor", lambda _: predictor)
    options = {"model": tiny_model, "probabilities": True, "format": "nii"}
    medseg3d.predict(images, **options, out=images.parent / "whole")
    whole = outputs(images.parent / "whole")
    disk = Disk(monkeypatch)
    medseg3d.predict(images, **options, out=images.parent / "all")
    num_writes = disk.writes
    assert num_writes > 20
    kept = set()
    for number in range(1, num_writes + 1):
        out = images.parent / f"out{number}"
        disk.fails_at, disk.writes = number, 0
        try:
            medseg3d.predict(images, **options, out=out)
        except RunError as error:
            assert "the disk is full" in str(error)  # noqa: PT017
        there = outputs(out) if out.exists() else {}
        assert there.items() <= whole.items()
        kept.add(len(there))
        disk.fails_at = None
        medseg3d.predict(images, **options, out=out)
        assert outputs(out) == whole
    assert kept == {0, 1, 2, 3, 4}


def test_a_full_disk_stops_the_batch_and_says_how_to_go_on(
    images: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []
    real = worker.write_labels

    def writing(path: Path, *args: Any, **options: Any) -> None:
        tried.append(path)
        if len(tried) == 2:
            error = OSError(errno.ENOSPC, "No space left on device")
            raise RunError(f"{path} cannot be written: the disk is full") from error
        real(path, *args, **options)

    monkeypatch.setattr(worker, "write_labels", writing)
    with pytest.raises(
        RunError, match=r"case1\.nii\.gz cannot be written: .* 1 of 4 cases .*repeat the command"
    ):
        medseg3d.predict(images, model=tiny_model, out=images.parent / "out")
    assert len(tried) == 2
    assert in_folder(images.parent / "out") == ["case0.nii.gz"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs an administrator")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_outputs_that_do_not_fit_are_told_before_the_work(
    images: Path, tiny_model: Path, small_disk: Path
) -> None:
    with pytest.raises(RunError, match=r"has 256.0 KiB free and the outputs need about"):
        medseg3d.predict(images, model=tiny_model, out=small_disk / "out", format="nii")
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("format_name", ["nii", "nii.gz", "mha", "nrrd", "seg.nrrd", "mgz"])
def test_a_disk_that_is_full_after_all_holds_whole_files_only(
    tmp_path: Path,
    tiny_model: Path,
    small_disk: Path,
    format_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction_batch, "expect_disk", list)
    rng = np.random.default_rng(3)
    for number in range(4):
        array = rng.normal(100, 30, (40, 36, 32)).astype(np.int16)
        (tmp_path / "in").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "in" / f"c{number}.nii")
    options = {"model": tiny_model, "format": format_name}
    whole = {
        prediction.path.name: prediction.path.read_bytes()
        for prediction in medseg3d.predict(tmp_path / "in", out=tmp_path / "whole", **options)
    }
    room = 5 * len(whole[f"c0.{format_name}"]) // 2
    (small_disk / "filler").write_bytes(bytes((256 << 10) - room))
    with pytest.raises(RunError, match="the disk is full"):
        medseg3d.predict(tmp_path / "in", out=small_disk / "out", **options)
    (small_disk / "filler").unlink()
    there = outputs(small_disk / "out")
    assert there.items() <= whole.items()


def test_leftovers_of_killed_processes_are_swept_and_never_inputs(
    images: Path, tiny_model: Path
) -> None:
    out = images.parent / "out"
    out.mkdir()
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys; from medseg3d.io import atomic\n"
            "with atomic(sys.argv[1]) as beside: beside.write_bytes(b'half'); os._exit(0)",
            str(out / "case0.nii.gz"),
        ],
        check=False,
    )
    assert ended.returncode == 0
    [left] = out.iterdir()
    assert left.name.startswith(".medseg3d-")
    (images / left.name).write_bytes(b"half")
    medseg3d.predict(images, model=tiny_model, out=out)
    assert in_folder(out) == [f"case{number}.nii.gz" for number in range(4)]


def command(*arguments: str | Path, cwd: Path, code: str = "", **options: Any) -> Any:
    """Start the command line in a process of its own, after running ``code``."""
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"{code}\nfrom medseg3d.__main__ import main\nmain()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("env", {}),
        **options,
    )


def test_odd_names_go_through_predict_and_score(tmp_path: Path, tiny_model: Path) -> None:
    for seed, name in enumerate(ODD_NAMES):
        write_image(tmp_path / "in" / f"{name}.nii", seed=seed)
    found = medseg3d.predict(tmp_path / "in", model=tiny_model, out=tmp_path / "out")
    assert {prediction.path.name for prediction in found} == {f"{n}.nii.gz" for n in ODD_NAMES}
    result = medseg3d.score(tmp_path / "out", tmp_path / "out", out=tmp_path / "scores.csv")
    assert {row.case for row in result.rows} == set(ODD_NAMES)
    assert {row.scores["dice"] for row in result.rows if row.status == "ok"} == {1.0}


def test_a_name_with_a_leading_dash_and_bytes_outside_utf8_on_the_command_line(
    tmp_path: Path, tiny_model: Path
) -> None:
    write_image(tmp_path / "-x.nii")
    strange = os.fsdecode(b"caf\xe9.nii")
    write_image(tmp_path / strange)
    process = command(
        *("predict", "-m", tiny_model, "--", "-x.nii", strange),
        cwd=tmp_path,
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "HOME": "/nonexistent"},
    )
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert [line.partition("\t")[0] for line in output.splitlines()] == [
        "-x_seg.nii.gz",
        "caf?_seg.nii.gz",
    ]
    assert (tmp_path / os.fsdecode(b"caf\xe9_seg.nii.gz")).is_file()


SLOW = """
import time
from medseg3d.inference.predictor import Predictor
real = Predictor.label
def label(self, working, **options):
    print("at work", flush=True)
    time.sleep(0.4)
    return real(self, working, **options)
Predictor.label = label
"""


@pytest.mark.parametrize(
    ("name", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_a_signal_ends_the_batch_at_once_and_keeps_what_is_finished(
    images: Path, tiny_model: Path, name: str, code: int, word: str
) -> None:
    process = command(
        "predict", images, "-m", tiny_model, "-o", "out", cwd=images.parent, code=SLOW
    )
    for _ in range(2):
        assert process.stdout.readline() == "at work\n"
    begun = time.monotonic()
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begun < 25
    assert process.returncode == code
    assert errors.splitlines()[-1] == f"medseg3d predict: {word}"
    assert "Traceback" not in errors
    assert in_folder(images.parent / "out") == ["case0.nii.gz"]


def test_nothing_is_wrong_after_three_kills(tmp_path: Path, tiny_model: Path) -> None:
    place = Path(__file__).parents[1] / "benchmarks" / "test_kill_predict.py"
    kill_and_go_on = runpy.run_path(str(place))["kill_and_go_on"]
    told = list(kill_and_go_on(tmp_path, tiny_model, 3, seed=0))
    assert len(told) == 3


def test_score_goes_on_after_a_bad_pair(images: Path, tiny_model: Path) -> None:
    out = images.parent / "out"
    medseg3d.predict(images, model=tiny_model, out=out)
    good = (out / "case2.nii.gz").read_bytes()
    (out / "case2.nii.gz").write_bytes(good[:-40])
    table = images.parent / "tables" / "scores.csv"
    with pytest.raises(RunError, match=r"^1 of 4 cases could not be scored.*scores_failed\.csv$"):
        medseg3d.score(out, out, out=table)
    assert in_folder(table.parent) == ["scores.csv", "scores.json", "scores_failed.csv"]
    assert [row["case"] for row in failures(table.parent, "scores_failed.csv")] == ["case2"]
    assert json.loads(table.with_suffix(".json").read_text())["convention"]
    (out / "case2.nii.gz").write_bytes(good)
    with pytest.raises(RunError, match="exist already; give --overwrite"):
        medseg3d.score(out, out, out=table)
    medseg3d.score(out, out, out=table, overwrite=True)
    assert in_folder(table.parent) == ["scores.csv", "scores.json"]


def test_a_reference_stored_in_another_order_is_turned(images: Path, tiny_model: Path) -> None:
    [found] = medseg3d.predict(
        images / "case0.nii", model=tiny_model, out=images.parent / "p" / "a.nii"
    )
    stored = nib.load(found.path)
    turned = stored.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    (images.parent / "r").mkdir()
    nib.save(turned, images.parent / "r" / "a.nii")
    assert turned.shape != stored.shape
    result = medseg3d.score(found.path, images.parent / "r" / "a.nii", out=images.parent / "s.csv")
    assert {row.scores["dice"] for row in result.rows} == {1.0}


def test_labels_that_a_case_lacks_still_get_their_row(tmp_path: Path) -> None:
    for name, value in (("a", 2), ("b", 5)):
        array = np.zeros((4, 4, 4), np.uint8)
        array[1:3, 1:3, 1:3] = value
        for folder in ("p", "r"):
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / f"{name}.nii")
    result = medseg3d.score(tmp_path / "p", tmp_path / "r", out=tmp_path / "scores.csv")
    assert [(row.case, row.label, row.status) for row in result.rows] == [
        ("a", 2, "ok"),
        ("a", 5, "both_empty"),
        ("b", 2, "both_empty"),
        ("b", 5, "ok"),
    ]
    empty = [row for row in result.rows if row.status == "both_empty"]
    undefined = ("dice", "hausdorff_95_mm", "surface_dice_1mm")
    assert np.isnan([[row.scores[name] for name in undefined] for row in empty]).all()
    assert {row.prediction_ml for row in empty} == {0.0}


def test_an_image_in_the_place_of_a_label_map_is_refused(tmp_path: Path) -> None:
    array = np.arange(12 * 12 * 12, dtype=np.int16).reshape(12, 12, 12)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(RunError, match=r"case a: 1727 different labels found \(1, 2, .*image"):
        medseg3d.score(tmp_path / "a.nii", tmp_path / "a.nii", out=tmp_path / "scores.csv")
    assert in_folder(tmp_path) == ["a.nii"]


def test_a_series_that_no_segmentation_can_refer_to_is_refused_before_the_work(
    tmp_path: Path, tiny_model: Path, dicom_series: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom_series(tmp_path / "nameless", FrameOfReferenceUID=None)
    monkeypatch.setattr(prediction_batch, "open_predictor", lambda _: pytest.fail("too late"))
    with pytest.raises(RunError, match=r"must refer to its series, but .* no FrameOfReferenceUID"):
        medseg3d.predict(
            tmp_path / "nameless", model=tiny_model, out=tmp_path / "out", format="dicom-seg"
        )
    assert not (tmp_path / "out").exists()


def test_voxels_that_are_no_numbers_are_replaced_on_demand(
    images: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.full((13, 12, 11), 100, np.float32)
    array[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(array, np.eye(4)), images / "nan.nii")
    options = {"model": tiny_model, "out": images.parent / "out.nii.gz"}
    with pytest.raises(RunError, match=r"1 voxel.*--replace-nonfinite"):
        medseg3d.predict(images / "nan.nii", **options)
    medseg3d.predict(images / "nan.nii", replace_nonfinite=0, **options)
    assert any("nan.nii" in message for message in caplog.messages)


def test_values_that_never_meet_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    for name, array in (("ours", labels * np.uint8(255)), ("theirs", labels)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    medseg3d.score(tmp_path / "ours.nii", tmp_path / "theirs.nii", out=tmp_path / "a.csv")
    told = "only the predictions hold 255 and only the references hold 1; if these mean the same"
    assert any(message.startswith(told) for message in caplog.messages)
    caplog.clear()
    medseg3d.score(tmp_path / "ours.nii", tmp_path / "ours.nii", out=tmp_path / "b.csv")
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)


def test_ids_and_paths_that_cannot_be_used_leave_the_others_alone(
    images: Path, tiny_model: Path
) -> None:
    (images / "case1.nii.gz").write_bytes(gzip.compress((images / "case1.nii").read_bytes()))
    write_image(images / "CASE2.nii")
    out = images.parent / "out"
    with pytest.raises(RunError, match=r"^3 of 5 cases failed, 2 were written"):
        medseg3d.predict([images, images.parent / "gone.nii"], model=tiny_model, out=out)
    assert in_folder(out) == ["case0.nii.gz", "case3.nii.gz", "failed.csv"]
    told = {row["case"]: row["error"] for row in failures(out)}
    assert told.keys() == {"case1", "CASE2, case2", "gone.nii"}
    assert "is there twice" in told["case1"]
    assert "differ by letter case" in told["CASE2, case2"]
    assert "does not exist" in told["gone.nii"]


def test_a_hole_in_the_channels_of_one_case_leaves_the_others_alone(
    tmp_path: Path, tiny_model: Path
) -> None:
    for name in ("a_0000", "b_0000", "b_0002", "c_0000"):
        write_image(tmp_path / "in" / f"{name}.nii")
    with pytest.raises(RunError, match=r"1 of 3 cases failed.* case b: .* b lacks b_0001"):
        medseg3d.predict(tmp_path / "in", model=tiny_model, out=tmp_path / "out")
    assert in_folder(tmp_path / "out") == ["a.nii.gz", "c.nii.gz", "failed.csv"]
