"""How much memory and disk a case takes."""

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.api.predicting.needs import RESERVE, Footprint, Needs, disk_of, estimate, needs_of
from medseg3d.api.predicting.targets import Target
from medseg3d.api.predicting.worker import Worker, footprint_of
from medseg3d.bundle import inspect_bundle, read_bundle, save_bundle
from medseg3d.config import PredictConfig, validated
from medseg3d.data.cases import find_inputs
from medseg3d.data.plan import Plan
from medseg3d.device import resolve_device
from medseg3d.errors import ConfigError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.inference.planes import Entropy, PlaneFile, Probabilities
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.restoration import Restoration
from medseg3d.inference.stream import stream
from medseg3d.networks import build_network
from tests.inference.reference import Network
from tests.inference.test_planes import placement_of

BLOCK = 4096
NONE = Needs(0, 0, 0, 0, labels=0, probabilities=0, uncertainty=0)


def _config(**options: object) -> PredictConfig:
    return validated(PredictConfig, {"inputs": ["a"]} | options)


def _target(folder: Path, name: str, *, suffix: str = ".nii.gz") -> Target:
    beside = (folder / f"{name}{kind}.nii.gz" for kind in ("_probabilities", "_uncertainty"))
    return Target(folder / f"{name}{suffix}", *beside)


def _image(path: Path, shape: tuple[int, int, int]) -> Path:
    array = np.random.default_rng(0).normal(100, 30, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1.2, 1.5, 1])), path)
    return path


def _needs(image: Path, model: Path, **options: object) -> Needs:
    [case] = find_inputs([image])
    plan, config = read_bundle(model).plan, _config(model=(model,), **options)
    return needs_of(case, plan, config, model=model, footprint=footprint_of(config))


@pytest.mark.parametrize(
    ("suffix", "labels"),
    [(".nii", 1000), (".nii.gz", 5), (".mgz", 5), (".nrrd", 5), (".seg.nrrd", 5), (".dcm", 0)],
)
def test_each_output_counts_for_itself(suffix: str, labels: int) -> None:
    needs = replace(NONE, labels=1000, probabilities=20_000, uncertainty=4_000)
    place = Path("out")
    found = list(needs.disk(_target(place, "a", suffix=suffix)))
    assert found == [(place, labels), (place, 1000), (place, 200)]
    assert list(needs.disk(Target(place / f"a{suffix}"))) == [(place, labels)]


def test_samples_count_as_label_maps(tmp_path: Path, tiny_model: Path) -> None:
    place = Path("out")
    target = Target(place / "a.nii", samples=(place / "s1.nii.gz", place / "s2.nii.gz"))
    assert list(replace(NONE, labels=1000).disk(target)) == [(place, 1000), (place, 5), (place, 5)]
    image = _image(tmp_path / "a.nii", (200, 180, 150))
    none, ten, twenty = (
        _needs(image, tiny_model, samples=number).computing for number in (0, 10, 20)
    )
    assert twenty - ten == 10 * 200 * 180 * 150
    assert none < ten


def test_what_is_collected_is_never_there_for_more_than_two_cases() -> None:
    sizes = (10, 30, 70, 20, 90)
    jobs = [(replace(NONE, probabilities=1000 * n), _target(Path("out"), f"c{n}")) for n in sizes]
    total = sum(size for _, size in disk_of(jobs))
    assert total == 50 * sum(sizes) + 1000 * max(map(sum, pairwise(sizes)))
    assert sum(size for _, size in disk_of(jobs[:1])) == 50 * 10 + 1000 * 10
    assert list(disk_of([])) == []


@pytest.mark.parametrize("roi", [None, "5:20,:,10:30"])
def test_the_disk_for_planes_is_what_they_take(
    tmp_path: Path, tiny_model: Path, roi: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _image(tmp_path / "a.nii", (90, 40, 60))
    taken: dict[str, int] = {}
    write = PlaneFile.write

    def writing(self: PlaneFile, like: Any) -> None:
        os.fsync(self._file.fileno())
        taken[type(self).__name__] = 512 * os.fstat(self._file.fileno()).st_blocks
        write(self, like)

    monkeypatch.setattr(PlaneFile, "write", writing)
    options = {"probabilities": True, "uncertainty": True, "roi": roi}
    medseg3d.predict(image, model=tiny_model, out=tmp_path / "o.nii", **options)
    needs = _needs(image, tiny_model, **options)
    expected = {"Probabilities": needs.probabilities, "Entropy": needs.uncertainty}
    assert taken.keys() == expected.keys()
    whole = {"Probabilities": 3 * 2 * 90 * 40 * 60, "Entropy": 2 * 90 * 40 * 60}
    for name, size in taken.items():
        assert expected[name] <= size + BLOCK
        assert (size > whole[name] - BLOCK) == (expected[name] == whole[name]) == (roi is None)
    assert needs.collected == sum(expected.values())
    alone = _needs(image, tiny_model, uncertainty=True, roi=roi)
    assert (alone.probabilities, alone.uncertainty) == (0, needs.uncertainty)
    assert _needs(image, tiny_model).collected == 0


def test_of_a_mask_only_what_is_sure_counts(tmp_path: Path, tiny_model: Path) -> None:
    image = _image(tmp_path / "a.nii", (30, 20, 10))
    options = {"probabilities": True, "uncertainty": True, "roi_mask": "m.nii"}
    needs = _needs(image, tiny_model, **options)
    assert (needs.probabilities, needs.uncertainty) == (2 * 30 * 20 * 10, 0)


def test_a_part_takes_less_memory_than_the_whole(tmp_path: Path, tiny_model: Path) -> None:
    image = _image(tmp_path / "a.nii", (200, 60, 50))
    whole, part = _needs(image, tiny_model), _needs(image, tiny_model, roi="10:20,:,:")
    assert part.least < whole.least
    assert part.reading == whole.reading
    with pytest.raises(ConfigError, match="does not fit an image of 200 x 60 x 50"):
        _needs(image, tiny_model, roi="10:201,:,:")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_is_no_more_than_what_is_told(
    tmp_path: Path, tiny_model: Path, precision: str
) -> None:
    """In a process of its own, since the peak is that of the process."""
    old = read_bundle(tiny_model)
    options = {"width": 16, "max_width": 32, "strides": ((2, 2, 2),), "kernels": old.plan.kernels}
    sizes = {"patch_size": (96, 96, 96), "width": 16, "max_width": 32, "spacing": (1.0, 1.0, 1.0)}
    changes = {"options": options, "plan": old.plan.model_copy(update=sizes)}
    bundle = old.model_copy(update=changes)
    model = tmp_path / "wide.medseg3d"
    save_bundle(model, bundle, build_network("unet3d", 1, 3, options=options))
    image = _image(tmp_path / "a.nii", (96, 96, 96))
    given = {"backend": "eager", "precision": precision, "device": "cpu", "threads": 1}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "medseg3d", "predict", str(image), "-m", str(model), *words]
    subprocess.run([*command, "-o", str(tmp_path / "out")], check=True, capture_output=True)
    [record] = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"].values()
    told = _needs(image, model, **given).memory
    assert told / 3 < record["peak_memory_bytes"] < told


def test_many_cases_fit_where_they_do(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        _image(tmp_path / "in" / f"c{number}.nii", (40, 30, 20))
    one = 2 * 4 * 40 * 30 * 20
    options = {"model": tiny_model, "probabilities": True, "uncertainty": True}
    monkeypatch.setattr("medseg3d.machine.free_disk", lambda _: RESERVE + 2 * one)
    with pytest.raises(RunError, match="MiB free and the outputs need about"):
        medseg3d.predict(tmp_path / "in", out=tmp_path / "out", **options)
    monkeypatch.setattr("medseg3d.machine.free_disk", lambda _: RESERVE + int(2.4 * one))
    assert len(medseg3d.predict(tmp_path / "in", out=tmp_path / "out", **options)) == 6


def test_windows_grow_by_the_divisor_of_the_network(tiny_model: Path) -> None:
    shape = (41, 41, 41)
    plan: Plan = read_bundle(tiny_model).plan.model_copy(
        update={"patch_size": (40, 40, 40), "strides": ((2, 2, 2),)}
    )

    def computing(divisor: tuple[int, int, int] | None, per_label: int) -> int:
        footprint = Footprint(0, per_label, divisor=divisor)
        place = {"working": shape, "part": shape, "footprint": footprint}
        return estimate(Grid(shape, np.eye(4)), plan, _config(), **place).computing  # type: ignore[arg-type]

    def window(divisor: tuple[int, int, int] | None) -> int:
        step = 10_000
        more = computing(divisor, 3 * step) - computing(divisor, 2 * step)
        return more // step // plan.num_labels

    assert [window(None), window((2, 2, 2)), window((8, 8, 8))] == [42**3, 42**3, 48**3]
    predictor = Predictor.open(tiny_model, device=resolve_device("cpu"), overlap=0.5)
    predictor = predictor.with_network(Network(lambda batch: batch, (8, 8, 8)))
    digests = (inspect_bundle(tiny_model).sha256,)
    worker = Worker(predictor, _config(model=(tiny_model,)), digests)
    assert worker._footprint.divisor == (8, 8, 8)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["probabilities", "uncertainty", "both"])
def test_planes_of_logits_count_for_the_memory(
    tmp_path: Path, tiny_model: Path, kind: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, num_labels, window = (20, 128, 128), 80, (4, 128, 128)
    plan: Plan = read_bundle(tiny_model).plan.model_copy(
        update={"labels": {n: f"organ {n}" for n in range(num_labels)}, "patch_size": window}
    )
    grid = Grid(shape, np.eye(4))

    def computing(**options: object) -> int:
        config = _config(threads=threads, **options)
        needs = estimate(grid, plan, config, working=shape, part=shape, footprint=Footprint(16))
        return needs.computing

    chosen = ["probabilities", "uncertainty"] if kind == "both" else [kind]
    told = computing(**dict.fromkeys(chosen, True)) - computing()
    whole = tuple(slice(0, n) for n in shape)
    placement = replace(placement_of(whole, shape=shape), shape=shape, held=whole)  # type: ignore[arg-type]
    sinks: list[PlaneFile] = []
    if "probabilities" in chosen:
        sinks.append(Probabilities(tmp_path / "p.nii", placement, num_labels))
    if "uncertainty" in chosen:
        sinks.append(Entropy(tmp_path / "h.nii", placement, num_labels))
    peaks = []
    advance = Restoration.advance_to

    def measured(self: Restoration, settled: int) -> None:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        advance(self, settled)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)

    monkeypatch.setattr(Restoration, "advance_to", measured)
    network: Any = Network(lambda batch: np.repeat(batch, num_labels, axis=1))
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    out = np.zeros(shape, np.uint8)
    maps, values = placement.maps(), np.arange(num_labels)
    stream(network, image, maps, out, values, window=window)  # compiles what is not yet
    peaks.clear()
    tracemalloc.start()
    try:
        stream(network, image, maps, out, values, window=window, threads=threads, planes=sinks)
    finally:
        tracemalloc.stop()
    small = threads * (3 << 20)  # parts that fit a cache
    assert small < told
    assert max(peaks) < told + small
    if threads == 1:  # else they need not be at work at the same moment
        assert max(peaks) > told - small
