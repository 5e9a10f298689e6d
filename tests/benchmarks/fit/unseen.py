"""Scores of a model of the small set on every hippocampus case that it has not learned from.

The 8 held-out cases of the small set leave differences of 0.003 Dice to chance; these are 176,
the 8 that the weights were chosen by among them.
"""

import csv
import math
from pathlib import Path
from statistics import fmean

import nibabel as nib
import numpy as np

from medseg3d.bundle import FILE_NAME
from medseg3d.metrics.surface import hausdorff_95
from tests.benchmarks.few_cases import HIPPOCAMPUS, learned_cases
from tests.benchmarks.fit.budgets import dice
from tests.benchmarks.predict.compare import MEDSEG3D
from tests.benchmarks.predict.measure import Measurement, run
from tests.benchmarks.predict.results import Record

NUM_LABELS = 2


def outcome(found: Measurement, place: Path, small: Path) -> Record:
    """What a ``fit`` on the small set came to: its ``error``, or scores, steps, time and losses.

    Args:
        found: The command.
        place: Run folder.
        small: Folder of :func:`tests.benchmarks.few_cases.link_cases`.
    """
    if found.code < 0:
        raise SystemExit(f"{place}: ended by signal {-found.code}; repeat the command")
    if found.code:
        return {"error": (found.error.splitlines() or [f"exit code {found.code}"])[-1]}
    with (place / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        **scores_on_unseen(place / FILE_NAME, small),
        "steps": int(rows[-1]["step"]),
        "took": float(rows[-1]["minutes"]),
        "first": float(rows[0]["loss"]),
        "last": float(rows[-1]["loss"]),
        "error": "",
    }


def scores_on_unseen(model: Path, small: Path, *, mirror: bool = False) -> dict[str, float]:
    """Mean ``dice`` and ``hd95`` (mm) over the cases and labels, without post-processing.

    Args:
        model: A ``model.medseg3d``; the label maps are written beside it.
        small: Folder of :func:`tests.benchmarks.few_cases.link_cases`.
        mirror: Average over mirrored copies, along the axes of the training.
    """
    learned = set(learned_cases(small))
    images = model.parent / "unseen_images"
    labels = model.parent / ("unseen_mirrored" if mirror else "unseen")
    images.mkdir(exist_ok=True)
    names = []
    for image in sorted((HIPPOCAMPUS / "imagesTr").glob("*.nii.gz")):
        name = image.name.removesuffix(".nii.gz")
        if name not in learned:
            names.append(name)
            if not (images / image.name).is_symlink():
                (images / image.name).symlink_to(image.resolve())
    words: list[str | Path] = [MEDSEG3D, "predict", images, "-m", model, "-o", labels]
    words += ["--device", "cpu", "--postprocess", "none", "--skip-existing"]
    words += ["--set", f"mirror={str(mirror).lower()}"]
    found = run(words, log=model.with_name("unseen.log"))
    if found.code:
        raise SystemExit(f"predict failed:\n{found.error}")
    return {"dice": dice(labels, names), "hd95": far(labels, names)}


def far(folder: Path, names: list[str]) -> float:
    """Mean HD95 in mm over cases and labels; infinite if a label was missed."""
    values = []
    for name in names:
        found, truth = (
            np.asarray(nib.load(place / f"{name}.nii.gz").dataobj).round()
            for place in (folder, HIPPOCAMPUS / "labelsTr")
        )
        for label in range(1, NUM_LABELS + 1):
            value = hausdorff_95(found == label, truth == label, spacing=(1.0, 1.0, 1.0))
            values.append(math.inf if math.isnan(value) else value)
    return fmean(values)
