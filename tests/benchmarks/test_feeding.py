"""How much of a training step on the CPU goes into feeding, with TorchIO's own queue as the peer.

Both serve batches of 2 patches of 40 x 56 x 40 from the same volumes with the same kinds and
probabilities of changes: ours from the cache with the fused kernel, TorchIO's from ``.nii.gz``
through ``Queue``, ``LabelSampler``, ``RandomAffine`` and ``RandomElasticDeformation``.
"""

import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchio as tio
from scipy import ndimage

from medseg3d.data.augment import Augmentation
from medseg3d.data.cache import CachedCase
from medseg3d.data.patches import PatchDataset
from medseg3d.losses import LOSSES
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.networks import build_network
from medseg3d.training.feed import batches

PATCH = (40, 56, 40)
SHAPE = (48, 64, 48)
NUM_CASES = 12
STEPS = 6
SHARE_OF_LEARNING = 0.95

Volume = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def volume(number: int) -> Volume:
    """A smooth volume with two labels in its middle."""
    generator = np.random.default_rng(number)
    image = ndimage.gaussian_filter(generator.normal(size=SHAPE), 2).astype(np.float32)
    image /= image.std()
    labels = np.zeros(SHAPE, dtype=np.uint8)
    middle = np.s_[16:32, 20:44, 16:32]
    labels[middle] = 1 + (image[middle] > 0)
    return image, labels


def our_batches(folder: Path, volumes: list[Volume]) -> Iterator[Any]:
    cases = [
        CachedCase.write(
            folder / str(n), case_id=str(n), image=image[None], labels=labels, num_labels=3
        )
        for n, (image, labels) in enumerate(volumes)
    ]
    dataset = PatchDataset(cases, PATCH, seed=0, augmentation=Augmentation())
    return iter(batches(dataset, 2, first_step=0, workers=0, device=torch.device("cpu")))


def torchio_batches(folder: Path, volumes: list[Volume]) -> Iterator[Any]:
    subjects = []
    for n, (image, labels) in enumerate(volumes):
        paths = folder / f"{n}_image.nii.gz", folder / f"{n}_labels.nii.gz"
        tio.ScalarImage(tensor=image[None]).save(paths[0])
        tio.LabelMap(tensor=labels[None]).save(paths[1])
        subjects.append(tio.Subject(image=tio.ScalarImage(paths[0]), labels=tio.LabelMap(paths[1])))
    changes = tio.Compose(
        [
            tio.RandomAffine(scales=(0.8, 1.25), degrees=20, p=0.6),
            tio.RandomElasticDeformation(num_control_points=6, max_displacement=2, p=0.3),
            tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5),
            tio.RandomNoise(std=(0.02, 0.25), p=0.15),
            tio.RandomBlur(std=(0.5, 1.0), p=0.15),
            tio.RandomAnisotropy(downsampling=(1, 2), p=0.15),
            tio.RandomGamma(log_gamma=(-0.36, 0.4), p=0.15),
        ]
    )
    queue = tio.Queue(
        tio.SubjectsDataset(subjects, transform=changes),
        max_length=4 * NUM_CASES,
        samples_per_volume=1,
        sampler=tio.LabelSampler(PATCH, label_name="labels"),
        num_workers=0,
        start_background=False,
    )
    loader = tio.SubjectsLoader(queue, batch_size=2)
    return (batch for _ in cycle([0]) for batch in loader)


@pytest.mark.filterwarnings("default")  # of the peer
def test_training_spends_its_time_learning(tmp_path: Path) -> None:
    volumes = [volume(number) for number in range(NUM_CASES)]
    ours, theirs = our_batches(tmp_path, volumes), torchio_batches(tmp_path, volumes)
    torch.manual_seed(0)
    network = build_network("unet3d", 1, 3, options={"width": 32, "strides": (2, 2, 2)}).train()
    loss = DeepSupervision(LOSSES.build("dice_ce"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.03)

    def learn(batch: dict[str, Any]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(network(batch["image"]), batch["labels"])
        optimizer.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()

    learn(next(ours))  # compiles, and lets every library settle
    learning, feeding = [], []
    for _ in range(STEPS):
        start = perf_counter()
        batch = next(ours)
        fed = perf_counter()
        learn(batch)
        learning.append(perf_counter() - fed)
        feeding.append(fed - start)
    share = sum(learning) / (sum(learning) + sum(feeding))

    # One batch varies with what was drawn for it, and the queue fills in bursts.
    our_time = mean_seconds(ours, 10 * NUM_CASES)
    their_time = mean_seconds(theirs, NUM_CASES)
    sys.stdout.write(
        f"\nstep {1e3 * median(learning):.0f} ms; feeding a batch of 2 on "
        f"{torch.get_num_threads()} threads: ours {1e3 * our_time:.1f} ms, "
        f"TorchIO {1e3 * their_time:.1f} ms, {their_time / our_time:.1f} times ours\n"
        f"learning has {share:.1%} of the time, with TorchIO's queue it would have "
        f"{median(learning) / (median(learning) + their_time):.1%}\n"
    )
    assert share >= SHARE_OF_LEARNING


def mean_seconds(feed: Iterator[Any], count: int) -> float:
    start = perf_counter()
    for _ in range(count):
        next(feed)
    return (perf_counter() - start) / count
