"""Maps that losses by distance make of a reference, of a patch or once of its whole case.

Distances within a patch end at its border and take long to find. A training therefore makes the
maps of each case once and cuts them with the patches; a loss that is called by itself makes them
of the labels it is given.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg3d.types import LabelMap

Maps = npt.NDArray[np.float32]
"""``(M, *spatial)``; 0 where a map has nothing to say, as beyond the volume."""


@dataclass(frozen=True)
class CutMaps:
    """Maps of whole cases, cut like the patches that they belong to.

    Attributes:
        values: ``(B, M, *spatial)``.
        coarseness: Voxel size along each axis, in voxels of the finest resolution.
    """

    values: Tensor
    coarseness: tuple[float, ...]

    @classmethod
    def of(cls, values: Tensor) -> "CutMaps":
        """Maps ``(B, M, *spatial)`` of the finest resolution."""
        return cls(values, (1.0,) * (values.ndim - 2))

    def split(self, counts: Sequence[int]) -> "list[CutMaps]":
        """So many maps each, in order."""
        return [
            CutMaps(part, self.coarseness) for part in torch.split(self.values, list(counts), dim=1)
        ]


class MappedLoss(nn.Module, ABC):
    """A loss that compares with maps of the reference beside its labels."""

    per_label = True
    """Whether there is a map for each label, background included, or one for all."""

    def num_maps(self, num_labels: int) -> int:
        """How many maps there are for ``L`` labels."""
        return num_labels if self.per_label else 1

    def mirrored(self, mirrored_labels: Sequence[int], num_labels: int) -> list[int]:
        """Which map takes the place of each where labels change sides."""
        return list(mirrored_labels[:num_labels]) if self.per_label else [0]

    @abstractmethod
    def map_facts(self) -> Mapping[str, Any]:
        """What the maps depend on beside the labels, in plain values."""

    @abstractmethod
    def make_maps(self, labels: LabelMap, num_labels: int) -> Maps:
        """The maps ``(M, *spatial)`` of labels ``(*spatial)``."""

    def maps_for(self, logits: Tensor, target: Tensor, maps: CutMaps | None) -> Tensor:
        """The maps that are given, or else those of the labels, without gradients.

        Args:
            logits: ``(B, L, *spatial)``.
            target: ``(B, 1, *spatial)`` integer labels.
            maps: Of the whole case, or nothing.

        Returns:
            ``(B, M, *spatial)`` float32 on the device of the logits.
        """
        if maps is None:
            maps = maps_of(self, target, logits.shape[1])
            assert maps is not None
        return maps.values.to(device=logits.device, dtype=torch.float32)


def mapped_parts(loss: nn.Module) -> list[MappedLoss]:
    """The outermost parts of a loss that have maps, in the order in which these are stacked.

    What stands in for the loss at the finest of several levels takes the same maps.
    """
    if isinstance(loss, MappedLoss):
        return [loss]
    children = [child for name, child in loss.named_children() if name != "finest"]
    return [part for child in children for part in mapped_parts(child)]


def make_maps(loss: nn.Module, labels: LabelMap, num_labels: int) -> Maps:
    """All maps of a loss with parts that have some, ``(M, *spatial)``."""
    return np.concatenate([part.make_maps(labels, num_labels) for part in mapped_parts(loss)])


def maps_of(loss: nn.Module, target: Tensor, num_labels: int) -> CutMaps | None:
    """All maps of a loss for labels ``(B, 1, *spatial)``; None if no part has some."""
    if not mapped_parts(loss):
        return None
    labels = target[:, 0].detach().cpu().numpy()
    made = np.stack([make_maps(loss, case, num_labels) for case in labels])
    return CutMaps.of(torch.from_numpy(made))


def split_maps(
    losses: Sequence[nn.Module], maps: CutMaps | None, num_labels: int
) -> list[CutMaps | None]:
    """The share of each loss in the maps of all; None for those that have no maps."""
    if maps is None:
        return [None] * len(losses)
    counts = [sum(part.num_maps(num_labels) for part in mapped_parts(loss)) for loss in losses]
    shares = maps.split(counts)
    return [share if count else None for share, count in zip(shares, counts, strict=True)]


def mirrored_maps(loss: nn.Module, mirrored_labels: Sequence[int], num_labels: int) -> list[int]:
    """Which map takes the place of each where labels change sides.

    Args:
        loss: With parts that have maps.
        mirrored_labels: For each label, the one that it becomes.
        num_labels: Labels ``L``, background included.
    """
    order: list[int] = []
    for part in mapped_parts(loss):
        order += [len(order) + place for place in part.mirrored(mirrored_labels, num_labels)]
    return order
