"""Dice of held-out cases while a network is being trained."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medseg3d.api.fitting.naming import name_segments
from medseg3d.data.annotation import only_annotated
from medseg3d.data.cache import CachedCase
from medseg3d.data.plan import Plan
from medseg3d.data.regions import region_mask
from medseg3d.device import Precision
from medseg3d.errors import ModelError
from medseg3d.inference.backends import Eager
from medseg3d.inference.stream import predict_labels
from medseg3d.machine import num_processors
from medseg3d.types import LabelMap

log = logging.getLogger("medseg3d")

Look = Callable[[CachedCase, LabelMap], None]
"""Takes a case and its prediction ``(I, J, K)``."""


def validate(
    network: nn.Module,
    cases: Sequence[CachedCase],
    plan: Plan,
    *,
    overlap: float,
    device: torch.device,
    precision: Precision,
    look: Look | None = None,
) -> list[float]:
    """Mean Dice per label that is scored over whole preprocessed cases, on the working grid.

    The network, its modes and all random numbers are afterwards as they were, but for the names
    of segments that a network found without labels.

    Args:
        network: On its device.
        cases: With their labels.
        plan: They were preprocessed with.
        overlap: Fraction of a window shared with its neighbor.
        device: Where to compute.
        precision: Arithmetic of the network.
        look: Gets each case and its prediction.
    """
    per_case = []
    with _evaluating(network, device):
        if hasattr(network, "name_segments"):
            name_segments(network, cases, plan, overlap=overlap, device=device, precision=precision)
        ready = Eager(network, device=device, precision=precision)
        for case in cases:
            reference = case.labels()
            try:
                labels: LabelMap = predict_labels(
                    ready,
                    case.image(),
                    window=plan.window,
                    overlap=overlap,
                    slice_axis=plan.single_slices,
                    threads=num_processors(),
                )
            except ModelError as error:  # not finite, which further training may mend
                log.warning("a held-out case counts as not found: %s", error)
                labels = np.zeros_like(reference)
            if look is not None:
                look(case, labels)
            labels, reference = only_annotated(labels, reference, plan.num_labels)
            if regions := plan.region_indices:
                per_case.append([_dice_of(labels, reference, region) for region in regions])
            else:
                per_case.append(dice_by_label(labels, reference, range(1, plan.num_labels)))
    return [mean(scores) for scores in zip(*per_case, strict=True)]


def _dice_of(prediction: LabelMap, reference: LabelMap, region: Sequence[int]) -> float:
    ours, theirs = (region_mask(labels, region) for labels in (prediction, reference))
    return dice_by_label(ours, theirs, [1])[0]


@contextmanager
def _evaluating(network: nn.Module, device: torch.device) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def dice_by_label(prediction: LabelMap, reference: LabelMap, labels: Sequence[int]) -> list[float]:
    """Dice of some labels, counted plane by plane; nan where neither map has the label.

    Args:
        prediction: ``(I, J, K)``.
        reference: The same shape.
        labels: Values to compare, none negative.

    Examples:
        >>> dice_by_label(np.array([[[1, 1, 2]]]), np.array([[[1, 0, 2]]]), [1, 2, 3])
        [0.6666666666666666, 1.0, nan]
    """
    highest = max(labels)
    sizes, shared = np.zeros((2, highest + 1), dtype=np.int64)
    axis = int(np.argmax(np.abs(reference.strides)))  # whose planes lie together in memory
    planes = (np.moveaxis(array, axis, 0) for array in (prediction, reference))
    for ours, theirs in zip(*planes, strict=True):
        sizes += _counts(ours, highest) + _counts(theirs, highest)
        shared += _counts(ours[ours == theirs], highest)
    return [
        float(2 * shared[label] / sizes[label]) if sizes[label] else math.nan for label in labels
    ]


def _counts(values: LabelMap, highest: int) -> npt.NDArray[np.int64]:
    return np.bincount(values.ravel(), minlength=highest + 1)[: highest + 1]


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are not nan; nan if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
