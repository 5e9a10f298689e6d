"""Score two label maps with one tool, in a process of its own, and print what it took.

::

    python -m tests.benchmarks.score.measured TOOL MAPS --labels 20 --threads 2 --calls 1

The last line is JSON: the seconds of each call, the values of each label, and the peak of the
resident memory: of the whole process, and above what it held before the calls.
"""

import argparse
import importlib
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.benchmarks.predict.results import say
from tests.benchmarks.score.organs import SPACING

Labels = npt.NDArray[np.uint8]
Values = dict[str, list[float]]
"""One per label, by column."""

STATUS = Path("/proc/self/status")
FORGET_PEAK = Path("/proc/self/clear_refs")


def with_medseg3d(prediction: Labels, reference: Labels, labels: int, threads: int) -> Values:
    """All default columns."""
    from medseg3d.geometry.grid import Grid
    from medseg3d.scoring.case import score_case

    shape = (prediction.shape[0], prediction.shape[1], prediction.shape[2])
    grid = Grid(shape, np.diag([*SPACING, 1.0]))
    names = {label: str(label) for label in range(1, labels + 1)}
    rows = score_case("case", prediction, reference, grid, labels=names, threads=threads)
    return {column: [row.scores[column] for row in rows] for column in rows[0].scores}


def with_monai(prediction: Labels, reference: Labels, labels: int, threads: int) -> Values:
    """The same by monai.metrics, from the one-hot arrays that its transforms make."""
    import torch
    from monai.transforms import AsDiscrete

    torch.set_num_threads(threads)
    one_hot = AsDiscrete(to_onehot=labels + 1)
    pair = [one_hot(torch.from_numpy(array)[None])[None] for array in (prediction, reference)]
    return _by_monai([array[:, 1:] for array in pair])


def with_monai_by_label(prediction: Labels, reference: Labels, labels: int, threads: int) -> Values:
    """The same, a label at a time, as someone does who has not so much memory."""
    import torch

    torch.set_num_threads(threads)
    found: Values = {}
    for label in range(1, labels + 1):
        pair = [
            torch.from_numpy((array == label).astype(np.uint8))[None, None]
            for array in (prediction, reference)
        ]
        for column, values in _by_monai(pair).items():
            found.setdefault(column, []).extend(values)
    return found


def _by_monai(pair: list[Any]) -> Values:
    import torch
    from monai import metrics

    shared = {"include_background": True}  # it has been left out already
    surface = shared | {"spacing": SPACING}
    counts = metrics.get_confusion_matrix(*pair, **shared)
    ours, theirs = (one_hot.sum((0, 2, 3, 4), dtype=torch.float64) for one_hot in pair)
    directed = [
        metrics.compute_average_surface_distance(*order, **surface) for order in (pair, pair[::-1])
    ]

    def within(tolerance: float) -> Any:
        tolerances = [tolerance] * pair[0].shape[1]
        return metrics.compute_surface_dice(*pair, class_thresholds=tolerances, **surface)

    voxel_ml = float(np.prod(SPACING)) / 1000
    found = {
        "dice": _dice(pair),
        "iou": metrics.compute_iou(*pair, **shared),
        "precision": metrics.compute_confusion_matrix_metric("precision", counts),
        "recall": metrics.compute_confusion_matrix_metric("recall", counts),
        "volume_similarity": 1 - (ours - theirs).abs() / (ours + theirs),
        "hausdorff_mm": metrics.compute_hausdorff_distance(*pair, **surface),
        "hausdorff_95_mm": metrics.compute_hausdorff_distance(*pair, percentile=95, **surface),
        "assd_mm": metrics.compute_average_surface_distance(*pair, symmetric=True, **surface),
        "masd_mm": (directed[0] + directed[1]) / 2,
        "surface_dice_1mm": within(1.0),
        "surface_dice_2mm": within(2.0),
        "volume_difference_ml": (ours - theirs) * voxel_ml,
    }
    return {column: values.reshape(-1).tolist() for column, values in found.items()}


def _dice(pair: list[Any]) -> Any:
    """By channel; of a single one the function that takes many makes an argmax."""
    from monai import metrics

    return metrics.compute_dice(*pair, include_background=True, num_classes=pair[0].shape[1])


def with_whole_numbers(prediction: Labels, reference: Labels, labels: int, threads: int) -> Values:
    """What follows from counting voxels, in integers and therefore exactly."""
    del threads
    found: Values = {name: [] for name in ("dice", "iou", "precision", "recall")}
    for label in range(1, labels + 1):
        ours, theirs = prediction == label, reference == label
        both = int(np.count_nonzero(ours & theirs))
        predicted, expected = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
        found["dice"].append(2 * both / (predicted + expected))
        found["iou"].append(both / (predicted + expected - both))
        found["precision"].append(both / predicted)
        found["recall"].append(both / expected)
    return found


TOOLS: dict[str, Callable[[Labels, Labels, int, int], Values]] = {
    "medseg3d": with_medseg3d,
    "monai": with_monai,
    "monai by label": with_monai_by_label,
    "exact": with_whole_numbers,
}


def memory(name: str) -> int:
    """Bytes that the kernel counts for this process."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Measure one tool."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("maps", type=Path)
    parser.add_argument("--labels", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    prediction, reference = (np.load(given.maps / f"{n}.npy") for n in ("prediction", "reference"))
    modules = (
        ["medseg3d.scoring"] if given.tool == "medseg3d" else ["monai.metrics", "monai.transforms"]
    )
    for module in modules:  # to import them is no part of the measurement
        importlib.import_module(module)
    FORGET_PEAK.write_text("5", encoding="ascii")
    before = memory("VmRSS")
    seconds = []
    for _ in range(given.calls):
        begun = time.perf_counter()
        values = TOOLS[given.tool](prediction, reference, given.labels, given.threads)
        seconds.append(time.perf_counter() - begun)
    peak = memory("VmHWM")
    say(json.dumps({"seconds": seconds, "peak": peak, "above": peak - before, "values": values}))


if __name__ == "__main__":
    main()
