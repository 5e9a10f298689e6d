"""Dice with a fifth of the training labels spoiled: as they are, and with ``self_correction``.

The small set of :mod:`.losses`: 32 hippocampus cases to learn from, 8 held out, whose labels stay
true. Of one training case in five the labels are eroded or dilated by 2 voxels, or shifted by 3
along each axis, by a seeded generator. Each row of the table is trained for the same minutes; the
first one learns from true labels, which is the most that a correction could reach.

::

    python -m tests.benchmarks.fit.noisy --minutes 10 --seeds 0 1
    python -m tests.benchmarks.fit.noisy --report
"""

import argparse
import csv
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.machine import num_processors
from tests.benchmarks.fit.budgets import FOLDER, dice
from tests.benchmarks.fit.losses import far, small
from tests.benchmarks.predict.compare import MEDSEG3D
from tests.benchmarks.predict.measure import run
from tests.benchmarks.predict.results import Record, Results, say, table

PART = "noisy"
SHARE, EDGE, SHIFT = 0.2, 2, 3
CYCLES = 4
WAYS = {"true": ("true", 0), "spoiled": ("spoiled", 0), "corrected": ("spoiled", CYCLES)}
"""Labels that are learned from, and cycles of self-correction."""

Labels = npt.NDArray[np.uint8]


def spoiled(labels: Labels, generator: np.random.Generator) -> tuple[str, Labels]:
    """What was done to a label map, and the result."""
    kind = str(generator.choice(["eroded", "dilated", "shifted"]))
    if kind == "shifted":
        steps = generator.choice([-SHIFT, SHIFT], 3)
        return kind, ndimage.shift(labels, steps, order=0)
    if kind == "eroded":
        inner = ndimage.binary_erosion(labels > 0, iterations=EDGE)
        return kind, np.where(inner, labels, 0).astype(np.uint8)
    grown = ndimage.binary_dilation(labels > 0, iterations=EDGE)
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    return kind, np.where(grown, labels[tuple(nearest)], 0).astype(np.uint8)


def spoiled_copy(folder: Path) -> tuple[Path, Path, list[str]]:
    """The small set with spoiled training labels, its split, and who is held out."""
    data, splits, held_out = small(folder)
    copy = folder / "data" / "spoiled"
    learned = json.loads(splits.read_text(encoding="utf-8"))[0]["train"]
    generator = np.random.default_rng(0)
    chosen = set(generator.choice(learned, round(SHARE * len(learned)), replace=False))
    shutil.rmtree(copy, ignore_errors=True)
    (copy / "labelsTr").mkdir(parents=True)
    (copy / "imagesTr").symlink_to((data / "imagesTr").resolve())
    (copy / "dataset.json").symlink_to((data / "dataset.json").resolve())
    for name in [*learned, *held_out]:
        source, target = (place / "labelsTr" / f"{name}.nii.gz" for place in (data, copy))
        if name not in chosen:
            target.symlink_to(source.resolve())
            continue
        image = nib.load(source)
        kind, labels = spoiled(np.asarray(image.dataobj).astype(np.uint8), generator)
        say(f"{name}: {kind}")
        nib.save(nib.Nifti1Image(labels, image.affine), target)
    return copy, splits, held_out


def measure(way: str, minutes: float, seed: int, folder: Path, *, cores: int | None) -> Record:
    """Train once and score against true labels."""
    labels, cycles = WAYS[way]
    data, splits, names = small(folder) if labels == "true" else spoiled_copy(folder)
    stem = f"{PART}_{way}_{minutes:g}_{seed}"
    place, log = folder / "runs" / stem, folder / "logs" / f"{stem}.log"
    shutil.rmtree(place, ignore_errors=True)
    words: list[str | Path] = [MEDSEG3D, "fit", data, "-o", place, "--device", "cpu"]
    words += ["--max-minutes", str(minutes), "--fold", "0", "--seed", str(seed)]
    words += ["--postprocess", "none", "--set", f"self_correction={cycles}"]
    words += ["--set", f"splits={splits}", "--set", f"cache={folder / 'cache'}"]
    found = run(words, log=log)
    facts: dict[str, Any] = {"way": way, "minutes": minutes, "seed": seed, "cores": cores}
    if found.code:
        return facts | {"error": found.error.splitlines()[-1]}
    with (place / "history.csv").open(encoding="utf-8") as file:
        steps = int(list(csv.DictReader(file))[-1]["step"])
    scores = {"dice": dice(place / "validation", names), "hd95": far(place / "validation", names)}
    return facts | scores | {"steps": steps, "error": ""}


def report(results: Results) -> str:
    """Markdown: one row per way and budget, the mean over seeds."""
    records = [each for each in results.of(PART) if not each["error"]]
    rows = []
    for minutes in sorted({each["minutes"] for each in records}):
        for way in WAYS:
            same = [each for each in records if (each["way"], each["minutes"]) == (way, minutes)]
            if same:
                rows.append(
                    [
                        way,
                        f"{minutes:g}",
                        ", ".join(f"{each['dice']:.4f}" for each in same),
                        f"{fmean(each['dice'] for each in same):.4f}",
                        f"{fmean(each['hd95'] for each in same):.2f}",
                        f"{fmean(each['steps'] for each in same):.0f}",
                    ]
                )
    return table(["labels", "minutes", "Dice by seed", "mean", "HD95 mm", "steps"], rows)


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", action="store_true", help="Only print what there is.")
    given = parser.parse_args()
    results = Results(given.folder / "results.json")
    for seed in () if given.report else given.seeds:
        for way in given.ways:
            if not results.of(PART, way=way, minutes=given.minutes, seed=seed):
                say(f"{way}, {given.minutes:g} minutes, seed {seed}")
                found = measure(way, given.minutes, seed, given.folder, cores=num_processors())
                results.add(PART, **found)
    say(report(results))


if __name__ == "__main__":
    main()
