"""Dice with a fifth of the training labels spoiled: as they are, and with ``self_correction``.

The small set of :mod:`.losses`: 32 hippocampus cases to learn from, of which one in five is eroded
or dilated by 2 voxels, or shifted by 3 along each axis, by a seeded generator; scored on the true
labels of the 176 cases that were not learned from. Each row takes as many steps, so that several
runs side by side change nothing but the time; the first one learns from true labels, which is the
most that a correction could reach.

::

    python -m tests.benchmarks.fit.noisy --epochs 6 --seeds 0 1
    python -m tests.benchmarks.fit.noisy --report
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg3d.machine import num_processors
from tests.benchmarks.few_cases import learned_cases
from tests.benchmarks.fit.budgets import FOLDER
from tests.benchmarks.fit.losses import small
from tests.benchmarks.fit.unseen import outcome
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


def spoiled_copy(folder: Path) -> tuple[Path, Path]:
    """The small set with spoiled training labels, and its split; made once."""
    data, splits = small(folder)
    copy, partial = folder / "spoiled", folder / f"spoiled-{os.getpid()}"
    if copy.is_dir():
        return copy, splits
    learned = learned_cases(folder / "small")
    generator = np.random.default_rng(0)
    chosen = set(generator.choice(learned, round(SHARE * len(learned)), replace=False))
    (partial / "labelsTr").mkdir(parents=True)
    (partial / "imagesTr").symlink_to((data / "imagesTr").resolve())
    (partial / "dataset.json").symlink_to((data / "dataset.json").resolve())
    kinds = {}
    for source in sorted((data / "labelsTr").iterdir()):
        name, target = source.name.removesuffix(".nii.gz"), partial / "labelsTr" / source.name
        if name not in chosen:
            target.symlink_to(source.resolve())
            continue
        image = nib.load(source)
        kinds[name], labels = spoiled(np.asarray(image.dataobj).astype(np.uint8), generator)
        nib.save(nib.Nifti1Image(labels, image.affine), target)
    (partial / "spoiled.json").write_text(json.dumps(kinds, indent=1), encoding="utf-8")
    try:
        partial.rename(copy)
    except OSError:  # another run was faster
        shutil.rmtree(partial)
    return copy, splits


def measure(way: str, epochs: int, seed: int, folder: Path, *, cores: int | None) -> Record:
    """Train once and score against true labels."""
    labels, cycles = WAYS[way]
    data, splits = small(folder) if labels == "true" else spoiled_copy(folder)
    stem = f"{PART}_{way}_{epochs}_{seed}"
    place, log = folder / "runs" / stem, folder / "logs" / f"{stem}.log"
    shutil.rmtree(place, ignore_errors=True)
    words: list[str | Path] = [MEDSEG3D, "fit", data, "-o", place, "--device", "cpu"]
    words += ["--epochs", str(epochs), "--fold", "0", "--seed", str(seed)]
    words += ["--postprocess", "none", "--set", f"self_correction={cycles}"]
    words += ["--set", f"splits={splits}", "--set", f"cache={folder / 'cache'}"]
    found = run(words, log=log)
    facts: dict[str, Any] = {"way": way, "epochs": epochs, "seed": seed, "cores": cores}
    return facts | outcome(found, place, folder / "small")


def report(results: Results) -> str:
    """Markdown: one row per way and length, the mean over seeds."""
    records = [each for each in results.of(PART) if not each["error"]]
    rows = []
    for epochs in sorted({each["epochs"] for each in records}):
        for way in WAYS:
            same = [each for each in records if (each["way"], each["epochs"]) == (way, epochs)]
            if same:
                rows.append(
                    [
                        way,
                        f"{epochs}",
                        ", ".join(f"{each['dice']:.4f}" for each in same),
                        f"{fmean(each['dice'] for each in same):.4f}",
                        f"{fmean(each['hd95'] for each in same):.2f}",
                        f"{fmean(each['took'] for each in same):.1f}",
                    ]
                )
    return table(["labels", "epochs", "Dice by seed", "mean", "HD95 mm", "minutes"], rows)


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--epochs", type=int, default=6, help="Of 100 steps.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", action="store_true", help="Only print what there is.")
    given = parser.parse_args()
    results = Results(given.folder / "results.json")
    for seed in () if given.report else given.seeds:
        for way in given.ways:
            cores = num_processors()
            if not results.of(PART, way=way, epochs=given.epochs, seed=seed, cores=cores):
                say(f"{way}, {given.epochs} epochs, seed {seed}")
                found = measure(way, given.epochs, seed, given.folder, cores=cores)
                results.add(PART, **found)
    say(report(results))


if __name__ == "__main__":
    main()
