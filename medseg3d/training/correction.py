"""Learning in spite of wrong labels: what the network has come to know outvotes them, in cycles.

When a cycle begins, the averaged weights join an even mean of those of all cycles
(``w_m = m / (m + 1) w_(m-1) + w / (m + 1)``), and from then on what a network with these weights
makes of a patch has one vote more against the one of its labels, which gives the mean of both
(``y_m = m / (m + 1) y_(m-1) + y / (m + 1)``) [1]_. From the second cycle on labels can be outvoted,
and from the third on the votes against them are no more.

The paper lets the learning rate rise again with each cycle and learns from the mean. Here the
cycles share one schedule, since in a given time restarts cost more than they gain, and a patch of
which much is outvoted is not learned from: what the network makes of it would teach it nothing,
and learning from its own errors costs more than a patch. Votes count only where they tell more
than that the network is not perfect: in connected parts that are thicker somewhere than an
uncertain border, and between labels that it finds where the references mostly have them.

References:
    .. [1] Li et al., "Self-correction for human parsing", TPAMI 2020. arXiv:1910.09777
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy import ndimage
from torch import Tensor, nn

from medseg3d.io.atomic import write_csv
from medseg3d.training.averaging import tensors_of
from medseg3d.training.interrupts import Interrupts
from medseg3d.types import Mask, Size3

log = logging.getLogger("medseg3d")

FIRST = 0.25
"""Part of the budget after which the first cycle begins."""

DOUBTFUL, MOST_NAMED = 0.2, 8
"""Share of the labels of a case from which on it is named, and how many are."""

LEAST_WRONG = 0.2
"""Part of a patch's foreground that must be outvoted; on hard cases a network errs in less."""

LEAST_KNOWN = 0.5
"""Dice of what the network finds of a label, over all patches, from which on it is asked."""

MOST_VOTES = 3
"""Votes of the network against one of the given label."""

THICK = 3
"""Voxels; disagreements that are thinner are taken for uncertain borders."""


@dataclass(frozen=True)
class CorrectionSettings:
    """How labels are outvoted.

    Attributes:
        cycles: How many, at least one.
        thickness: Voxels along ``(I, J, K)`` of a box that must fit into a part that is outvoted.
    """

    cycles: int
    thickness: Size3


class Correction:
    """The mean of the weights of all cycles, and what it thinks of labels.

    Args:
        network: Copied before it has learned anything.
        settings: How labels are outvoted.

    Attributes:
        cycles: How many have begun.
        counts: For each case how many voxels of its patches were outvoted, and how many were
            foreground, before or after.
        agreement: For each label how many voxels the reference has of it, the network, and both.
    """

    def __init__(self, network: nn.Module, settings: CorrectionSettings) -> None:
        self.settings = settings
        self.cycles = 0
        self.counts: dict[str, list[int]] = {}
        self.agreement: list[list[int]] = []
        self._asked: list[list[int]] = []
        self._looked_at: list[tuple[str, int, int]] = []
        self._network = copy.deepcopy(network).eval().requires_grad_(False)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of the mean by name, to be stored and changed in place."""
        return tensors_of(self._network)

    def move(self, device: torch.device) -> None:
        """Compute there."""
        self._network.to(device)

    def due(self, used: float) -> int:
        """Cycles that have begun when a part of the budget is used up.

        Args:
            used: Between 0 and 1.
        """
        number = self.settings.cycles
        passed = (used - FIRST) / (1 - FIRST)
        return 0 if passed < 0 else min(number, 1 + int(passed * number))

    def begin_cycle(self, weights: dict[str, Tensor]) -> None:
        """Take these weights into the mean."""
        share = 1 / (self.cycles + 1)
        for name, mean in self.tensors.items():
            if mean.is_floating_point():
                mean.lerp_(weights[name].to(mean), share)
            else:
                mean.copy_(weights[name])
        self.cycles += 1

    @property
    def can_outvote(self) -> bool:
        """Whether there are cycles enough to outvote a label."""
        return self.cycles > 1

    @torch.no_grad()
    def believed(self, image: Tensor, labels: Tensor, cases: Sequence[str]) -> Tensor:
        """Which patches have labels to learn from, ``(B,)``.

        Args:
            image: ``(B, C, I, J, K)``.
            labels: ``(B, 1, I, J, K)`` integer labels; those that are no channel of the network,
                for voxels that nobody annotated, have no say.
            cases: Of each patch, for the counts.
        """
        votes: Tensor = self._network(image).float().softmax(dim=1)
        known = labels < votes.shape[1]
        given = torch.where(known, labels, 0).long()
        trusted = self._trusted(given[known], votes.argmax(dim=1, keepdim=True)[known], votes)
        own = torch.full_like(votes[:, :1], 1 / min(self.cycles, MOST_VOTES))
        elected = votes.scatter_add(1, given, own).argmax(dim=1, keepdim=True)
        against = (elected != given) & known & trusted[elected] & trusted[given]
        thick = [thick_parts(case[0], self.settings.thickness) for case in against.cpu().numpy()]
        outvoted = torch.from_numpy(np.stack(thick)[:, None]).to(labels.device)
        foreground = ((given > 0) | (outvoted & (elected > 0))) & known
        sizes, wholes = (each.sum((1, 2, 3, 4)) for each in (outvoted, foreground))
        self._looked_at += zip(cases, sizes.tolist(), wholes.tolist(), strict=True)
        return sizes <= LEAST_WRONG * wholes

    def _trusted(self, given: Tensor, found: Tensor, votes: Tensor) -> Tensor:
        """Whether the network knows each label, by all patches that it was asked about so far."""
        number = votes.shape[1]
        both = given[given == found]
        counts = [torch.bincount(each, minlength=number).tolist() for each in (given, found, both)]
        before = self._asked or self.agreement or [[0] * number] * len(counts)
        self._asked = [
            [old + new for old, new in zip(*pair, strict=True)]
            for pair in zip(before, counts, strict=True)
        ]
        theirs, ours, shared = torch.tensor(self._asked, device=votes.device)
        known: Tensor = 2 * shared >= LEAST_KNOWN * (theirs + ours)
        return known

    def end_step(self) -> None:
        """Count the patches of the step that has ended; one that is cut off is not counted."""
        for case, outvoted, foreground in self._looked_at:
            before = self.counts.get(case, [0, 0])
            self.counts[case] = [before[0] + outvoted, before[1] + foreground]
        self.agreement = self._asked or self.agreement
        self._asked, self._looked_at = [], []

    def shares(self) -> dict[str, float]:
        """Which part of the foreground was outvoted, by case, the most first."""
        shares = {
            case: outvoted / max(1, foreground)
            for case, (outvoted, foreground) in self.counts.items()
        }
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def write(self, path: Path) -> None:
        """Write the shares as a table, and say which cases should be looked at."""
        shares = self.shares()
        rows = ([case, f"{share:.4f}"] for case, share in shares.items())
        write_csv(path, ["case", "share_outvoted"], rows)
        doubtful = [f"{case} ({share:.0%})" for case, share in shares.items() if share > DOUBTFUL]
        if doubtful:
            log.warning(
                "self-correction: the network outvotes more than %.0f %% of the labels of %d "
                "cases: %s%s; look at them, the table is %s",
                100 * DOUBTFUL,
                len(doubtful),
                ", ".join(doubtful[:MOST_NAMED]),
                ", ..." if len(doubtful) > MOST_NAMED else "",
                path,
            )


def thick_parts(mask: Mask, thickness: Sequence[int]) -> Mask:
    """The connected parts of a mask into which a box fits somewhere.

    Args:
        mask: ``(I, J, K)``.
        thickness: Voxels of the box along each axis; cut to the size of the mask.

    Examples:
        >>> mask = np.array([[[1, 1, 1, 0, 1, 1]]], dtype=bool)
        >>> thick_parts(mask, (1, 1, 3))
        array([[[ True,  True,  True, False, False, False]]])
    """
    size = [min(pair) for pair in zip(thickness, mask.shape, strict=True)]
    centers: npt.NDArray[np.uint8] = ndimage.minimum_filter(
        mask.astype(np.uint8), size, mode="constant"
    )
    parts, number = ndimage.label(mask)
    kept = np.zeros(number + 1, dtype=np.bool_)
    kept[parts[centers > 0]] = True
    kept[0] = False
    return np.asarray(kept[parts])


class Cycles(Callback):
    """Begins the cycles of a correction when they are due.

    Must stand behind what counts the budget and what holds the weights.

    Args:
        correction: Whose cycles.
        interrupts: Held back while the mean changes.
        used: Part of the budget that is used up, the same for all processes.
        weights: The weights to take in, by name.
    """

    def __init__(
        self,
        correction: Correction,
        interrupts: Interrupts,
        *,
        used: Callable[[], float],
        weights: Callable[[], dict[str, Tensor]],
    ) -> None:
        self._correction = correction
        self._interrupts = interrupts
        self._used = used
        self._weights = weights

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the cycle that is due."""
        if self._correction.cycles < self._correction.due(self._used()):
            self._interrupts.hold()
            self._correction.begin_cycle(self._weights())
            self._interrupts.release()
            log.info("self-correction: cycle %d", self._correction.cycles)
