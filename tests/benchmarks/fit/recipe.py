"""What each part of the default recipe is worth: the same minutes with one thing changed at a time.

The small set of :mod:`.losses`: 32 hippocampus cases to learn from, 176 to score. Most candidates
are options of ``fit``; optimizers, schedules and memory formats that it does not offer are put in
its place for the run. What is measured already is kept. Several may run at once, each held to one
processor, if all rows are measured so.

::

    python -m tests.benchmarks.fit.recipe --minutes 5
    taskset -c 0 python -m tests.benchmarks.fit.recipe --candidates default sgd
    python -m tests.benchmarks.fit.recipe --report
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import torch
from torch import nn

import medseg3d
from medseg3d.bundle import FILE_NAME
from medseg3d.machine import num_processors
from medseg3d.training import callbacks, module
from medseg3d.training.module import SegmentationModule
from tests.benchmarks.fit.budgets import FOLDER
from tests.benchmarks.fit.losses import small
from tests.benchmarks.fit.unseen import outcome, scores_on_unseen
from tests.benchmarks.predict.measure import run
from tests.benchmarks.predict.results import Record, Results, say, table

PART = "recipe_narrow"  # with the width that so few minutes give; earlier ones had 32 channels

Candidate = dict[str, Any]

CANDIDATES: dict[str, Candidate] = {
    "default": {},
    "sgd": {"optimizer": "sgd", "learning_rate": 1e-2},
    "sgd, poly 0.9": {"optimizer": "sgd", "learning_rate": 1e-2, "decay_power": 0.9},
    "rate 1e-3": {"learning_rate": 1e-3},
    "rate 4e-3": {"learning_rate": 4e-3},
    "cosine": {"schedule": "cosine"},
    "one-cycle": {"warmup": 0.3, "schedule": "cosine"},
    "no warm-up": {"warmup": 0.0},
    "no averaged weights": {"ema": 0.0},
    "fp32": {"precision": "fp32"},
    "channels last": {"channels_last": True},
    "batch 1": {"batch_size": 1},
    "batch 4": {"batch_size": 4},
    "width 32": {"width": 32},
    "width 48": {"width": 48},
    "foreground 0": {"foreground": 0.0},
    "foreground 2/3": {"foreground": 2 / 3},
    "no augmentation": {
        "augmentation": {
            "affine_probability": 0.0,
            "elastic_probability": 0.0,
            "intensity_probability": 0.0,
        }
    },
    "no elastic": {"augmentation": {"elastic_probability": 0.0}},
    "intensities twice as often": {"augmentation": {"intensity_probability": 0.3}},
    "augmentation stays": {"augmentation": {"stronger_after": 0}},
    "flips along all axes": {"augmentation": {"mirror_axes": [0, 1, 2]}},
    "flips left and right": {"augmentation": {"mirror_axes": [0]}},
    "no deep supervision": {
        "network": {"name": "unet3d", "options": {"deep_supervision": 0}},
    },
    "coarser levels weigh 1/4": {"level_decay": 0.25},
    "coarser levels weigh 1": {"level_decay": 1.0},
}

AVERAGED = "mirrored copies averaged"
"""What is scored too of a candidate that flips: its model, predicting so."""


def sgd(self: SegmentationModule) -> torch.optim.Optimizer:
    """SGD as in nnU-Net: Nesterov momentum 0.99, weight decay 3e-5."""
    return torch.optim.SGD(
        self.network.parameters(),
        lr=self.settings.learning_rate,
        momentum=0.99,
        nesterov=True,
        weight_decay=3e-5,
    )


def cosine(used: float, *, peak: float, warmup: float, power: float) -> float:
    """Linear rise, then half a cosine down to 0."""
    if used < warmup:
        return peak * max(used / warmup, 0.01)
    return peak * 0.5 * (1 + math.cos(math.pi * (used - warmup) / (1 - warmup)))


def train_here(candidate: Candidate, options: dict[str, Any]) -> None:
    """Fit in this process with what the candidate puts in place."""
    given = dict(candidate)
    replaced: list[Any] = []
    if given.pop("optimizer", None):
        replaced.append(mock.patch.object(SegmentationModule, "configure_optimizers", sgd))
    if given.pop("schedule", None):
        replaced.append(mock.patch.object(callbacks, "learning_rate", cosine))
    if given.pop("channels_last", None):
        replaced.append(mock.patch.object(module.SegmentationModule, "__init__", in_channels_last))
    for each in replaced:
        each.start()
    medseg3d.fit(**options | given)


BUILD: Callable[..., None] = SegmentationModule.__init__


def in_channels_last(
    self: SegmentationModule, network: nn.Module, *others: Any, **more: Any
) -> None:
    """Build the module with a network whose weights lie channels last, as its features then do."""
    BUILD(self, network.to(memory_format=torch.channels_last_3d), *others, **more)


def measure(name: str, minutes: float, seed: int, folder: Path) -> Record:
    """Train once in a process of its own and score."""
    data, splits = small(folder)
    stem = f"{PART}_{''.join(c if c.isalnum() else '_' for c in name)}_{minutes:g}_{seed}"
    place, log = folder / "runs" / stem, folder / "logs" / f"{stem}.log"
    shutil.rmtree(place, ignore_errors=True)
    options = {
        "data": str(data),
        "out": str(place),
        "cache": str(folder / "cache"),
        "splits": str(splits),
        "fold": 0,
        "max_minutes": minutes,
        "seed": seed,
        "device": "cpu",
        "postprocess": "none",
    }
    words = [sys.executable, "-m", __spec__.name, "--train", json.dumps([name, options])]
    found = run(words, log=log)
    facts = {"name": name, "minutes": minutes, "seed": seed, "cores": num_processors()}
    facts |= outcome(found, place, folder / "small")
    if not facts["error"] and "mirror_axes" in CANDIDATES[name].get("augmentation", {}):
        facts[AVERAGED] = scores_on_unseen(place / FILE_NAME, folder / "small", mirror=True)
    return facts


def report(results: Results) -> str:
    """Markdown: one row per candidate, best mean Dice first, for each time and number of cores."""
    groups: dict[tuple[float, int], dict[str, list[Record]]] = {}
    for each in results.of(PART):
        if not each["error"]:
            group = groups.setdefault((each["minutes"], each["cores"]), {})
            group.setdefault(each["name"], []).append(each)
            if AVERAGED in each:
                name = f"{each['name']}, {AVERAGED}"
                group.setdefault(name, []).append(each | each[AVERAGED])
    rows = []
    for (minutes, cores), group in sorted(groups.items()):
        means = {name: fmean(each["dice"] for each in same) for name, same in group.items()}
        for name in sorted(means, key=lambda name: -means[name]):
            same = group[name]
            rows.append(
                [
                    f"{minutes:g}",
                    cores,
                    name,
                    f"{means[name]:.4f}",
                    f"{means[name] - means.get('default', math.nan):+.4f}",
                    f"{fmean(each['hd95'] for each in same):.2f}",
                    f"{fmean(each['steps'] for each in same):.0f}",
                    len(same),
                ]
            )
    columns = ["minutes", "cores", "changed", "Dice", "difference", "HD95 mm", "steps", "runs"]
    return table(columns, rows)


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument(
        "--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES)
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", action="store_true", help="Only print what there is.")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        name, options = json.loads(given.train)
        train_here(CANDIDATES[name], options)
        return
    results = Results(given.folder / "results.json")
    for seed in () if given.report else given.seeds:
        for name in given.candidates:
            facts = {"name": name, "minutes": given.minutes, "seed": seed}
            if not results.of(PART, **facts, cores=num_processors()):
                say(f"{name}, {given.minutes:g} minutes, seed {seed}")
                results.add(PART, **measure(name, given.minutes, seed, given.folder))
    say(report(results))


if __name__ == "__main__":
    main()
