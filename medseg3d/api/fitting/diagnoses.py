"""``classes.csv``: the class that a network finds for each held-out case, beside the true one."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from medseg3d.data.cache import CachedCase
from medseg3d.data.cases import Case
from medseg3d.inference.classifying import Classifier
from medseg3d.io.atomic import write_csv
from medseg3d.progress import track
from medseg3d.types import Size3

log = logging.getLogger("medseg3d")

DIAGNOSES = "classes.csv"


def write_diagnoses(
    network: nn.Module,
    cases: Sequence[Case],
    cached: Sequence[CachedCase],
    names: Sequence[str],
    path: Path,
    *,
    window: Size3,
    device: torch.device,
) -> None:
    """Find the class of each case and write all of them as a table.

    Args:
        network: With ``classify(image) -> logits (1, K)``.
        cases: With their classes.
        cached: The same cases preprocessed.
        names: Of the ``K`` classes.
        path: The table: true class, found class and the probability of each.
        window: Voxels that the network sees at once.
        device: Where to compute.

    Raises:
        RunError: If the table cannot be written.
    """
    rows = []
    right = 0
    classify = Classifier(network.eval(), window=window, device=device)
    every = list(zip(cases, cached, strict=True))
    for case, volume in track(every, "Classifying", total=len(every), unit="case"):
        probabilities = classify(volume.read_image((0, 0, 0), volume.shape))
        found = names[int(probabilities.argmax())]
        right += found == case.class_name
        shown = [f"{value:.4f}" for value in probabilities.tolist()]
        rows.append([case.id, case.class_name, found, *shown])
    write_csv(path, ["case", "class", "found", *(f"probability_{name}" for name in names)], rows)
    log.info("class of %d of %d held-out cases found (%s)", right, len(cases), path)
