"""Seconds and memory of what surrounds the network, on a CT of 512 x 512 x 300 voxels.

Run with ``pytest -s``; the least of some repetitions counts, and limits leave room for a
processor that has other work too.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from medseg3d.data.body import body_box
from medseg3d.data.canonical import CanonicalCase, canonical, nonzero_box
from medseg3d.data.plan import Normalization, Plan
from medseg3d.data.preprocess import preprocess
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, read_image, write_image, write_labels

SHAPE = (512, 512, 300)
REPETITIONS = 4


def plan(scheme: str = "ct") -> Plan:
    rule = Normalization(name="CT", scheme=scheme, lower=-200, upper=300, mean=40, sd=90)
    return Plan(
        num_cases=1,
        labels={0: "background", 1: "organ"},
        channels=(rule,),
        spacing=(1.5, 1.5, 1.5),
        coarse_axis=None,
        median_shape=(8, 8, 8),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3),) * 2,
        width=8,
        max_width=320,
    )


def ct() -> Volume:
    """A body of 76 % x 56 % of the image in air, with noise."""
    rng = np.random.default_rng(0)
    i, j = np.ogrid[:512, :512]
    inside = ((i - 256) / 195) ** 2 + ((j - 256) / 143) ** 2 < 1
    image = np.empty((1, *SHAPE), np.int16, order="F")
    for k in range(SHAPE[2]):
        image[0, :, :, k] = np.where(inside, 40, -1000) + rng.normal(0, 20, inside.shape)
    return Volume.from_array(image, Grid(SHAPE, np.diag([-0.8, -0.8, 2.5, 1.0])))


@pytest.fixture(scope="module")
def volume() -> Volume:
    return ct()


@pytest.fixture(scope="module")
def case(volume: Volume) -> CanonicalCase:
    return canonical(volume)


def least(name: str, function: Callable[[], object]) -> float:
    """Seconds of the fastest repetition."""
    seconds = []
    for _ in range(REPETITIONS):
        start = perf_counter()
        function()
        seconds.append(perf_counter() - start)
    sys.stdout.write(f"\n{name}: {1000 * min(seconds):.0f} ms")
    return min(seconds)


@pytest.mark.parametrize("scheme", ["ct", "zscore"])
def test_preprocessing(case: CanonicalCase, scheme: str) -> None:
    part = body_box(case, plan())
    assert least(f"whole, {scheme}", lambda: preprocess(case, plan(scheme))) < 1.4
    assert least("body", lambda: preprocess(case, plan(scheme), part=part)) < 1.2


def test_boxes(case: CanonicalCase) -> None:
    assert least("box of what is not zero", lambda: nonzero_box(case.image)) < 0.02
    assert least("box of the body", lambda: body_box(case, plan())) < 0.15


def test_files(volume: Volume, tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8, order="F")
    labels[100:400, 120:380] = (volume.array[0, 100:400, 120:380] > 50) * np.uint8(3)
    labels[200:300] = np.arange(300) % 20
    image, map_ = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    assert least("labels written", lambda: write_labels(map_, labels, volume)) < 0.5
    least("image written", lambda: write_image(image, volume.array, volume))
    assert least("image read", lambda: read_image(image)) < 1.0


MEASURE = """
import sys
from tests.benchmarks.test_preprocess import body_box, canonical, ct, peak, plan, preprocess
case = canonical(ct())
part = body_box(case, plan())
preprocess(case, plan(sys.argv[1]), part=(slice(0, 40),) * 3)  # what is loaded once
before = peak()
made = preprocess(case, plan(sys.argv[1]), part=part).image.nbytes
print((peak() - before) >> 20, made >> 20)
"""


def peak() -> int:
    """Most bytes that this process has held; what it was forked from does not count."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("scheme", ["ct", "zscore"])
def test_memory(scheme: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, scheme], capture_output=True, check=True, text=True
    )
    held, made = map(int, found.stdout.split())
    sys.stdout.write(f"\n{scheme}: {held} MiB beside the image for a result of {made} MiB")
    assert held < made + 40
