"""SIGKILL at random moments of ``predict``: nothing that is there is wrong, and one can go on.

Run with ``pytest tests/benchmarks/test_kill_predict.py -s``: about a minute and a half.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg3d

NUM_CASES = 6
NUM_KILLS = 30
SECONDS = 0.9
"""How long the slowed work takes after the imports."""

# every moment of the work lasts long enough to be hit: a pause before each window and each write
SLOWED = """
import pathlib, time
from medseg3d import cli
real_open, real_replace = pathlib.Path.open, pathlib.Path.replace
def opening(path, mode="r", *rest, **options):
    file = real_open(path, mode, *rest, **options)
    if "-part" in path.name and "w" in mode:
        time.sleep(0.01)
    return file
def replacing(path, target):
    time.sleep(0.01)
    found = real_replace(path, target)
    time.sleep(0.01)
    return found
pathlib.Path.open, pathlib.Path.replace = opening, replacing
cli.main()
"""


def write_images(folder: Path) -> None:
    """Cases of a few windows each."""
    folder.mkdir()
    for number in range(NUM_CASES):
        rng = np.random.default_rng(number)
        array = rng.normal(100, 30, (40, 36, 24)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1.2, 1.5, 1.0])), folder / f"c{number}.nii")


def predict(images: Path, model: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    """Start a prediction."""
    arguments = ["predict", str(images), "-m", str(model), "-o", str(out), "--probabilities"]
    return subprocess.Popen(
        [sys.executable, "-c", SLOWED, *arguments, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The outputs that one sees in a folder."""
    files = folder.glob("[!.]*.nii.gz") if folder.is_dir() else ()
    return {file.name: file.read_bytes() for file in files}


def kill_and_go_on(folder: Path, model: Path, num_kills: int, seed: int) -> Iterator[str]:
    """Kill ``num_kills`` predictions, each at another moment; say what each left.

    After a kill the command is repeated into the same folder, twice at the most; then it is let
    run to its end, and another folder is begun.
    """
    images = folder / "images"
    write_images(images)
    medseg3d.predict(images, model=model, out=folder / "whole", probabilities=True)
    whole = contents(folder / "whole")
    assert len(whole) == 2 * NUM_CASES
    moments = random.Random(seed)
    kills = rounds = 0
    while kills < num_kills:
        rounds += 1
        out = folder / f"out{rounds}"
        for _ in range(min(3, num_kills - kills)):
            with predict(images, model, out) as process:
                assert process.stderr is not None
                for line in process.stderr:
                    if line.startswith("model "):  # everything is imported, the work begins
                        break
                time.sleep(moments.uniform(0, SECONDS))
                process.kill()
            there = contents(out)
            assert there.items() <= whole.items(), "whatever is there is whole"
            if process.returncode == -signal.SIGKILL:
                kills += 1
                hidden = len(list(out.glob(".*"))) if out.is_dir() else 0
                yield f"kill {kills}: {len(there)} of {len(whole)} files, {hidden} half made"
        medseg3d.predict(images, model=model, out=out, probabilities=True)
        assert contents(out) == whole, "the repeated command makes what was lacking"
        assert not list(out.glob(".*")), "what was half made is swept"


def test_nothing_is_wrong_after_thirty_kills(tmp_path: Path, tiny_model: Path) -> None:
    for line in kill_and_go_on(tmp_path, tiny_model, NUM_KILLS, seed=1):
        print(line)  # noqa: T201


if __name__ == "__main__":
    pytest.main([__file__, "-s"])
