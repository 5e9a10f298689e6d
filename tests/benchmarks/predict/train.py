"""Train the networks of the comparison on generated CT, and keep their bundles.

The default U-Net learns 20 labels from patches of 48^3, then of 64^3; the network for 3 labels
begins with its weights. Both bundles say window 96^3 and spacing 1.5 mm. For the memory table
there are also narrow networks (8 channels instead of 32) with random weights for 2, 20 and 100
labels: memory beside the model depends on the number of labels and not on what was learned.

::

    python -m tests.benchmarks.predict.train                     # ct20, ct3, and the random ones
    python -m tests.benchmarks.predict.train --minutes 10 --more ct20

What is there already is kept.
"""

import argparse
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg3d.bundle import Bundle, load_bundle, save_bundle
from medseg3d.data.canonical import canonical
from medseg3d.data.plan import Normalization, Plan
from medseg3d.data.preprocess import preprocess
from medseg3d.data.stages import topology as stages
from medseg3d.device import Precision, autocast, automatic_precision
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume
from medseg3d.losses import LOSSES
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.networks import build_network, planned_options
from medseg3d.networks.topology import Topology
from tests.benchmarks.predict.ct import SPACING, generate
from tests.benchmarks.predict.results import FOLDER, say

WINDOW, EDGE = 96, 1.5
SMALL_PATCH, LARGE_PATCH, SHARE_OF_SMALL = 48, 64, 0.6
NUM_TRAINING, NUM_VALIDATION = 8, 2
VALIDATION_PATCHES = 12
MINUTES = {"ct20": 20.0, "ct3": 5.0}
TRAINED = {"ct20": 20, "ct3": 3}
RANDOM = {"random2": 2, "random20": 20, "random100": 100}
FOREGROUND_SHARE = 0.8
LEARNING_RATE, WARMUP, AVERAGING = 1.5e-3, 0.05, 0.99
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Scan:
    """A generated CT on the working grid.

    Attributes:
        image: ``(1, i, j, k)`` float16, normalized.
        labels: ``(i, j, k)`` uint8.
        places: One array of voxel indices ``(n, 3)`` per label beside the background.
    """

    image: npt.NDArray[np.float16]
    labels: npt.NDArray[np.uint8]
    places: tuple[npt.NDArray[np.int64], ...]

    def patch(self, generator: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Image ``(1, 1, n, n, n)`` and labels of the same shape, mostly around an organ."""
        room = np.subtract(self.labels.shape, size)
        corner = generator.integers(0, room + 1)
        if generator.random() < FOREGROUND_SHARE:
            places = self.places[generator.integers(len(self.places))]
            near = places[generator.integers(len(places))] - generator.integers(0, size, 3)
            corner = near.clip(0, room)
        part = tuple(slice(begin, begin + size) for begin in corner)
        image = torch.from_numpy(self.image[(slice(None), *part)].astype(np.float32))
        labels = torch.from_numpy(self.labels[part].astype(np.int64))
        return image[None], labels[None, None]


def make_plan(num_labels: int, *, width: int = 32) -> Plan:
    """The plan of all bundles here; only labels and width differ."""
    strides, kernels = stages((WINDOW,) * 3, (EDGE,) * 3)
    names = {label: f"organ {label}" for label in range(1, num_labels)}
    return Plan(
        num_cases=NUM_TRAINING,
        labels={0: "background"} | names,
        channels=(Normalization(name="CT", scheme="ct", lower=-200, upper=1400, mean=350, sd=330),),
        spacing=(EDGE, EDGE, EDGE),
        coarse_axis=None,
        median_shape=(273, 273, 500),
        patch_size=(WINDOW, WINDOW, WINDOW),
        batch_size=1,
        strides=strides,
        kernels=kernels,
        width=width,
        max_width=10 * width,
    )


def make_network(plan: Plan) -> tuple[nn.Module, dict[str, Any]]:
    """The U-Net that ``fit`` would build for the plan, and its options."""
    shape = Topology(
        patch_size=plan.patch_size,
        strides=plan.strides,
        kernels=plan.kernels,
        width=plan.width,
        max_width=plan.max_width,
    )
    options = planned_options("unet3d", shape)
    return build_network("unet3d", 1, plan.num_labels, options=options), options


def make_scans(plan: Plan, seeds: Sequence[int]) -> list[Scan]:
    """Generated CT of 250 mm, preprocessed as ``predict`` does."""
    scans = []
    for seed in seeds:
        image, labels = generate(plan.num_labels, seed=seed, shape=(512, 512, 100))
        grid = Grid((512, 512, 100), np.diag([*SPACING, 1.0]))
        working = preprocess(canonical(Volume.from_array(image[None], grid), labels), plan)
        assert working.labels is not None
        found = [np.argwhere(working.labels == label) for label in range(1, plan.num_labels)]
        places = tuple(place[::7] for place in found if len(place))
        scans.append(Scan(working.image.astype(np.float16), working.labels, places))
    return scans


def train(network: nn.Module, scans: Sequence[Scan], *, minutes: float) -> int:
    """Train for so long, leave the averaged weights in the network; the number of steps."""
    generator = np.random.default_rng(0)
    loss = DeepSupervision(LOSSES.build("dice_ce"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGING)
    )
    precision = automatic_precision(CPU)
    network.train()
    begun, step, shown = time.perf_counter(), 0, 0.0
    while (spent := (time.perf_counter() - begun) / (60 * minutes)) < 1:
        rate = min(1.0, spent / WARMUP) * (1 + math.cos(math.pi * spent)) / 2
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * max(rate, 0.02)
        size = SMALL_PATCH if spent < SHARE_OF_SMALL else LARGE_PATCH
        image, labels = scans[step % len(scans)].patch(generator, size)
        image = image * generator.uniform(0.95, 1.05) + generator.uniform(-0.05, 0.05)
        with autocast(CPU, precision):
            logits = network(image)
        value = loss([level.float() for level in logits], labels)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        average.update_parameters(network)
        step += 1
        shown = 0.95 * shown + 0.05 * value.item() if step > 1 else value.item()
        if step % 20 == 0:
            say(f"  {spent:4.0%}  step {step}  loss {shown:.3f}")
    network.load_state_dict(average.module.state_dict())
    return step


def mean_dice(network: nn.Module, scans: Sequence[Scan], precision: Precision) -> dict[int, float]:
    """Dice per label, pooled over patches of the size of the window."""
    generator = np.random.default_rng(1)
    counts = np.zeros((256, 256), dtype=np.int64)
    network.eval()
    for number in range(VALIDATION_PATCHES):
        image, labels = scans[number % len(scans)].patch(generator, WINDOW)
        with torch.inference_mode(), autocast(CPU, precision):
            found = network(image).argmax(dim=1)
        pairs = labels.numpy().ravel() * 256 + found.numpy().ravel()
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    return {
        label: float(2 * counts[label, label] / sizes[label])
        for label in range(1, 256)
        if sizes[label]
    }


def make_trained(path: Path, num_labels: int, *, minutes: float, begin: Path | None = None) -> None:
    """Train one network and write its bundle with Dice and the change that bf16 makes.

    Args:
        path: Bundle to write.
        num_labels: Labels with the background.
        minutes: How long to train.
        begin: Bundle of the weights to begin with, but for heads of another number of labels.
    """
    plan = make_plan(num_labels)
    network, options = make_network(plan)
    if begin is not None:
        weights = load_bundle(begin)[1]
        fresh = network.state_dict()
        known = {name: value for name, value in weights.items() if value.shape == fresh[name].shape}
        network.load_state_dict(known, strict=False)
    say(f"{path.name}: generating {NUM_TRAINING + NUM_VALIDATION} scans")
    scans = make_scans(plan, range(1000, 1000 + NUM_TRAINING + NUM_VALIDATION))
    steps = train(network, scans[:NUM_TRAINING], minutes=minutes)
    dice = mean_dice(network, scans[NUM_TRAINING:], "fp32")
    mean = float(np.mean(list(dice.values())))
    changes: dict[Any, float] = {}
    precision = automatic_precision(CPU)
    if precision != "fp32":
        found = mean_dice(network, scans[NUM_TRAINING:], precision)
        changes = {precision: round(float(np.mean(list(found.values()))) - mean, 6)}
    say(f"{path.name}: {steps} steps, Dice {mean:.4f} {dice}, changes {changes}")
    scores = {plan.labels[label]: round(value, 6) for label, value in dice.items()}
    bundle = Bundle(
        network="unet3d",
        options=options,
        plan=plan,
        channels=1,
        precision=precision,
        scores=scores | {"mean": round(mean, 6)},
        dice_changes=changes,
        training={"data": "generated CT", "steps": steps, "minutes": minutes},
    )
    save_bundle(path, bundle, network)


def make_random(path: Path, num_labels: int, *, width: int) -> None:
    """A bundle with random weights, accepted for bf16 so that no comparison is run."""
    torch.manual_seed(0)
    plan = make_plan(num_labels, width=width)
    network, options = make_network(plan)
    precision = automatic_precision(CPU)
    changes: dict[Any, float] = {} if precision == "fp32" else {precision: 0.0}
    bundle = Bundle(
        network="unet3d",
        options=options,
        plan=plan,
        channels=1,
        precision=precision,
        dice_changes=changes,
    )
    save_bundle(path, bundle, network)


def models(
    folder: Path = FOLDER,
    *,
    minutes: Mapping[str, float] = MINUTES,
    more: Collection[str] = (),
) -> dict[str, Path]:
    """All bundles by name; makes what is missing, and trains those of ``more`` longer."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.medseg3d" for name in (*TRAINED, *RANDOM)}
    for name, num_labels in TRAINED.items():
        path = paths[name]
        if name in more or not path.is_file():
            known = [begin for begin in (path, paths["ct20"]) if begin.is_file()]
            make_trained(path, num_labels, minutes=minutes[name], begin=next(iter(known), None))
    for name, num_labels in RANDOM.items():
        if not paths[name].is_file():
            make_random(paths[name], num_labels, width=8)
    return paths


def main() -> None:
    """Make the bundles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--minutes", type=float, help="Of training, for each network.")
    parser.add_argument("--more", nargs="+", choices=TRAINED, default=(), help="Go on with these.")
    given = parser.parse_args()
    torch.manual_seed(0)
    minutes = dict.fromkeys(TRAINED, given.minutes) if given.minutes else MINUTES
    for path in models(given.folder, minutes=minutes, more=given.more).values():
        say(str(path))


if __name__ == "__main__":
    main()
