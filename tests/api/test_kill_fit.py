"""Fit that is killed at random moments: whatever is readable is right, and resuming is exact.

Three moments here, thirty in ``tests/benchmarks/test_kill_fit.py``.
"""

import csv
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.bundle import load_bundle
from medseg3d.config import FitConfig, read_yaml, validated
from medseg3d.data.cache import CachedCase
from medseg3d.data.plan import Plan
from medseg3d.runs import LOCK
from medseg3d.training.checkpoint import _read

SMALL: dict[str, Any] = {
    "epochs": 5,
    "steps_per_epoch": 4,
    "folds": 2,
    "batch_size": 1,
    "patch_size": (8, 8, 8),
    "width": 4,
    "precision": "fp32",
    "device": "cpu",
    "checkpoint_minutes": 0,
    "validate_every": 1,
}
SHAPE = (20, 18, 16)


class Process(Protocol):
    """A run of its own; ``subprocess`` and ``multiprocessing`` have it so."""

    pid: int | None

    def kill(self) -> None:
        """Send SIGKILL."""


Launch = Callable[[Path, dict[str, Any]], Process]


def write_cases(folder: Path) -> None:
    for number in range(4):
        rng = np.random.default_rng(number)
        image, labels = rng.normal(100, 5, SHAPE), np.zeros(SHAPE, dtype=np.uint8)
        i, j, k = rng.integers(1, 4, 3)
        labels[i : i + 8, j : j + 7, k : k + 5] = 1
        image += 100 * labels
        for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / name / f"box_{number}.nii.gz")


def check_readable(run: Path, cache: Path) -> None:
    """Read everything to its end; what is not whole must not be there under its name."""
    for path in run.rglob("*"):
        if path.is_dir() or path.name.startswith(".medseg3d-"):
            continue
        if any(parent.suffix == ".cache" for parent in path.parents):
            continue  # what cannot be read there is made anew
        match path.suffix:
            case ".medseg3d":
                load_bundle(path)
            case ".safetensors":
                _read(path)
            case ".gz":
                assert np.asarray(nib.load(path).dataobj).shape == SHAPE
            case ".json":
                json.loads(path.read_text())
            case ".csv":
                with path.open() as file:
                    assert all(None not in row.values() for row in csv.DictReader(file))
            case ".png":
                assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
            case ".html":
                assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
            case ".yaml" if path.name == "plan.yaml":
                Plan.load(path)
            case ".yaml":
                validated(FitConfig, read_yaml(path))
            case other:
                raise AssertionError(f"{path}: unknown suffix {other}")
    for entry in cache.iterdir() if cache.is_dir() else ():
        if not entry.name.startswith(".medseg3d-"):
            case = CachedCase.open(entry)
            assert case.image().shape == (1, *case.shape)
            assert case.labels().shape == case.shape


def begin(launch: Launch, cases: Path, run: Path, options: dict[str, Any]) -> Process:
    """Start or resume, and wait until it is at work."""
    resume = (run / "config.yaml").is_file()
    process = launch(cases, {"resume": True} | options if resume else SMALL | options)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if f"process {process.pid} " in (run / LOCK).read_text():
                return process
        except OSError:
            pass
        time.sleep(0.005)
    raise AssertionError("it did not begin")


def phase(run: Path) -> str:
    """How far a run that was killed had come."""
    for name, place in (
        ("finished", "model.medseg3d"),
        ("scoring", "validation"),
        ("training", "checkpoints/last.safetensors"),
        ("preprocessing", "provenance.json"),
        ("hashing", "split.json"),
        ("checking", "config.yaml"),
    ):
        if (run / place).exists():
            return name
    return "starting"


def kill_at_random(
    cases: Path,
    folder: Path,
    whole: medseg3d.Run,
    launch: Launch,
    wait: Callable[[Process], int],
    *,
    moments: int,
    seed: int = 0,
) -> Counter[str]:
    """Kill so many times, and compare every run that got to its end with the whole one.

    Returns:
        How many kills met which phase.
    """
    expected = load_bundle(whole.bundle)[1]
    rng = random.Random(seed)
    met: Counter[str] = Counter()
    number, seconds = 0, None
    while True:
        run, cache = folder / f"run_{number}", folder / f"cache_{number}"
        process = begin(launch, cases, run, {"out": run, "cache": cache})
        begun = time.monotonic()
        is_last = met.total() == moments
        if seconds is not None and not is_last:
            time.sleep(rng.uniform(0, seconds))
            process.kill()
        while seconds is None and not (run / "model.medseg3d").exists():
            time.sleep(0.005)
        to_model = time.monotonic() - begun
        code = wait(process)
        check_readable(run, cache)
        if code == 0:
            found = load_bundle(run / "model.medseg3d")[1]
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
            assert not list(run.rglob(".medseg3d-*"))
            number, seconds = number + 1, seconds or to_model
            if is_last:
                return met
        else:
            assert code == -9, code
            met[phase(run)] += 1
            if phase(run) == "finished":
                number += 1


def launch(cases: Path, options: dict[str, Any]) -> Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medseg3d.api.fitting.run", "medseg3d.cli"])  # as processes.py
    process = context.Process(target=medseg3d.fit, args=(cases,), kwargs=options)
    process.start()
    return process


def wait(process: Any) -> int:
    process.join(60)
    assert isinstance(process.exitcode, int)
    return process.exitcode


@pytest.mark.parametrize("seed", [1])
def test_three_kills(tmp_path: Path, seed: int) -> None:
    cases = tmp_path / "cases"
    write_cases(cases)
    whole = medseg3d.fit(cases, out=tmp_path / "whole", cache=tmp_path / "cache", **SMALL)
    met = kill_at_random(cases, tmp_path, whole, launch, wait, moments=3, seed=seed)
    assert met.total() == 3
