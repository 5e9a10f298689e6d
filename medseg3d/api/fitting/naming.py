"""What segments that a network found without labels are called, told from held-out cases."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg3d.data.cache import CachedCase
from medseg3d.data.plan import Plan
from medseg3d.device import Precision
from medseg3d.errors import ModelError
from medseg3d.inference.backends import Eager
from medseg3d.inference.stream import predict_labels
from medseg3d.machine import num_processors
from medseg3d.types import Size3

Counts = npt.NDArray[np.int64]


class Segments(nn.Module):
    """The part of a network that gives logits of segments.

    Shape:
        - input: ``(B, C, *sp)``
        - output: ``(B, K, *sp)``
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.divisor: Size3 = network.divisor  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the segments."""
        logits: Tensor = self.network.segment(x)  # type: ignore[operator]
        return logits


def name_segments(
    network: nn.Module,
    cases: Sequence[CachedCase],
    plan: Plan,
    *,
    overlap: float,
    device: torch.device,
    precision: Precision,
) -> None:
    """Give each segment of a network to a label, so that held-out cases are labeled best.

    The names stay as they are where no case has labels, or the network gives no finite numbers.

    Args:
        network: In ``eval()`` mode, on its device; its names are changed.
        cases: Held out; those without labels are passed over.
        plan: They were preprocessed with.
        overlap: Fraction of a window shared with its neighbor.
        device: Where to compute.
        precision: Arithmetic of the network.
    """
    ready = Eager(Segments(network), device=device, precision=precision)
    counts = np.zeros((len(network.names), plan.num_labels), dtype=np.int64)  # type: ignore[arg-type]
    for case in cases:
        if not case.has_labels:
            continue
        try:
            found = predict_labels(
                ready,
                case.image(),
                window=plan.patch_size,
                overlap=overlap,
                threads=num_processors(),
            )
        except ModelError:  # not finite; validation says so
            return
        for segments, labels in zip(found, case.labels(), strict=True):
            known = labels < plan.num_labels
            pairs = segments[known].astype(np.int64) * plan.num_labels + labels[known]
            counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    if counts.any():
        network.name_segments(best_names(counts))  # type: ignore[operator]


def best_names(counts: Counts) -> list[int]:
    """The label of each segment with which Dice is highest.

    For one label that is the exact optimum: the segments of which the label makes up more than
    half of the Dice that is reached with them. Where several labels want a segment, the one gets
    it that makes up most of it beyond its own threshold.

    Args:
        counts: Voxels ``(K, L)`` of each segment that have each label, background first.

    Returns:
        One label per segment; 0 for background.

    Examples:
        >>> best_names(np.array([[90, 10], [2, 8], [4, 5]]))
        [0, 1, 1]
    """
    sizes = counts.sum(axis=1)
    shares = counts / np.maximum(sizes, 1)[:, None]
    spare = np.zeros(shares.shape)
    for label in range(1, counts.shape[1]):
        order = np.argsort(-shares[:, label], kind="stable")
        hits, taken = counts[order, label].cumsum(), sizes[order].cumsum()
        total = taken + counts[:, label].sum()
        reached = (2 * hits / np.maximum(total, 1)).max()
        spare[:, label] = shares[:, label] - reached / 2
    return [int(label) for label in spare.argmax(axis=1)]
