"""``make bench-score``: two large label maps scored by medseg3d and by monai.metrics.

All default columns of ``medseg3d score``, on two cores, without reading files. Each run is a
process of its own; those of several tools alternate and the least of each counts. Takes about
ten minutes; MONAI with 20 labels needs 24 GiB of memory and is left out where there is less.

::

    python -m tests.benchmarks.score                          # 1 and 20 labels
    python -m tests.benchmarks.score --labels 1 --shape 256 256 100
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from tests.benchmarks.predict.results import gib, say, table, verdict
from tests.benchmarks.score.organs import SHAPE, generate

FOLDER = Path("build/bench-score")
SPEEDUP = {1: 20.0, 20: 100.0}
MEMORY = 1 / 20
EQUAL = 1e-5

NAMES = ("prediction", "reference")

CALLS = {"medseg3d": 3, "monai": 1, "monai by label": 1, "exact": 1}
"""How often a process scores: the first call of ours loads or makes its machine code."""


COLUMNS = (
    "tool",
    "s",
    "s, first call",
    "times as long",
    "peak GiB",
    "above its start",
    "times as much",
    "largest difference",
)


@dataclass
class Runs:
    """What the processes of one tool printed, or why there are none."""

    first: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    above: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""


def maps(folder: Path, labels: int, shape: tuple[int, int, int]) -> Path:
    """Folder with both label maps, generated if they are not there."""
    there = folder / f"{labels}_labels_{'x'.join(map(str, shape))}"
    if not (there / "reference.npy").is_file():
        there.mkdir(parents=True, exist_ok=True)
        for name, array in zip(NAMES, generate(labels, shape=shape), strict=True):
            np.save(there / f"{name}.npy", array)
    return there


def run(tool: str, there: Path, labels: int, threads: int, runs: Runs) -> None:
    """One process; should the memory run out, the kernel ends it before anything else."""
    command = [sys.executable, "-m", "tests.benchmarks.score.measured", tool, str(there)]
    command += ["--labels", str(labels), "--threads", str(threads), "--calls", str(CALLS[tool])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with suppress(OSError):
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000", encoding="ascii")
    output, errors = process.communicate()
    if process.returncode:
        last = (errors.splitlines() or ["no message"])[-1]
        runs.note = "out of memory" if process.returncode == -9 else f"failed: {last}"
        return
    found = json.loads(output.splitlines()[-1])
    runs.first.append(found["seconds"][0])
    runs.seconds.append(min(found["seconds"]))
    runs.peak.append(found["peak"])
    runs.above.append(found["above"])
    runs.values = found["values"]


def measure(
    there: Path, labels: int, shape: tuple[int, int, int], rounds: int, threads: int
) -> dict[str, Runs]:
    """All tools in turn, and what is exact."""
    tools = ["medseg3d", "monai"] + ["monai by label"] * (labels > 1)
    found: dict[str, Runs] = defaultdict(Runs)
    need = 3.35 * (labels + 1) * prod(shape) * np.dtype(np.float32).itemsize
    if need > _available():
        found["monai"].note = f"left out: needs {gib(need)} GiB, {gib(_available())} are free"
    for number in range(rounds):
        for tool in tools:
            is_slow = tool != "medseg3d" and labels > 1
            if found[tool].note or (is_slow and number > 0):
                continue
            run(tool, there, labels, threads, found[tool])
            latest = found[tool].seconds[-1:] or [found[tool].note]
            say(f"{labels} labels, {tool}: {latest[0]}")
    run("exact", there, labels, threads, found["exact"])
    return found


def report(labels: int, found: dict[str, Runs]) -> str:
    """Markdown of one number of labels.

    Values are compared with those of the peer where it counts exactly: more than 16.7 million
    voxels are too many for its float32 sums.
    """
    ours, exact = found["medseg3d"], found.pop("exact").values
    if not ours.seconds:
        return f"### {labels} labels\n\n{ours.note}"
    rows, reached = [], []
    for tool, runs in found.items():
        if not runs.seconds:
            rows.append([tool, runs.note, *[""] * (len(COLUMNS) - 2)])
            continue
        faster = min(runs.seconds) / min(ours.seconds)
        less = min(runs.peak) / max(ours.peak)
        inexact = [
            name
            for name, values in exact.items()
            if largest_difference({name: values}, runs.values)[0] > EQUAL
        ]
        compared = {name: values for name, values in ours.values.items() if name not in inexact}
        difference, column = largest_difference(compared, runs.values)
        rows.append(
            [
                tool,
                f"{min(runs.seconds):.3f}",
                f"{min(runs.first):.3f}",
                f"{faster:.1f}",
                gib(max(runs.peak) if tool == "medseg3d" else min(runs.peak)),
                gib(min(runs.above)),
                f"{less:.1f}",
                f"{difference:.1e} {column}" if difference else "0",
            ]
        )
        if tool == "medseg3d":
            continue
        reached.append(f"times faster than {tool}: {verdict(faster >= SPEEDUP.get(labels, 1.0))}")
        reached.append(f"values equal: {verdict(difference <= EQUAL)}")
        if inexact:
            reached.append(f"not compared, since {tool} rounds them: {', '.join(inexact)}")
        if tool == "monai" and labels > 1:
            reached.append(f"peak memory under 1/20: {verdict(1 / less < MEMORY)}")
    apart, column = largest_difference(exact, ours.values)
    reached.append(f"from exact counts medseg3d differs by {apart:.0e} ({column})")
    return f"### {labels} labels\n\n{table(COLUMNS, rows)}\n\n{'; '.join(reached)}"


def largest_difference(
    ours: dict[str, list[float]], theirs: dict[str, list[float]]
) -> tuple[float, str]:
    """Of any label, relative above 1, and its column; infinite if one is undefined."""
    pairs = np.array([[ours[column], theirs[column]] for column in ours])
    apart = np.abs(pairs[:, 0] - pairs[:, 1]) / np.maximum(1.0, np.abs(pairs[:, 1]))
    worst = np.nan_to_num(apart, nan=np.inf).max(axis=1)
    return float(worst.max()), list(ours)[int(worst.argmax())]


def _available() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    i, j, k = given.shape
    parts = []
    for labels in given.labels:
        there = maps(given.folder, labels, (i, j, k))
        found = measure(there, labels, (i, j, k), given.rounds, given.threads)
        parts.append(report(labels, found))
    text = f"# make bench-score, {i} x {j} x {k} voxels, {given.threads} threads\n\n"
    text += "\n\n".join(parts)
    (given.folder / "report.md").write_text(f"{text}\n", encoding="utf-8")
    say(f"\n{text}")


if __name__ == "__main__":
    main()
