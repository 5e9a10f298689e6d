"""Learning in spite of wrong labels: what the network has come to know corrects them, in cycles.

Reference:
    Li et al., "Self-correction for human parsing", TPAMI 2020. arXiv:1910.09777

When a cycle begins, the averaged weights join an even mean of those of all cycles
(``w_m = m / (m + 1) w_(m-1) + w / (m + 1)``). What a network with these weights makes of a patch is
mixed with its labels in the same proportion, so that labels which it does not believe count less
and less, though never less than :data:`LEAST_TRUST`. The labels that are stored, and those of
held-out cases, stay as they are. The paper lets the learning rate rise again with each cycle; here
the cycles share the end of one schedule, since in a given time restarts cost more than they gain.
"""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from medseg3d.losses.soft_labels import soft_dice_ce
from medseg3d.training.averaging import tensors_of
from medseg3d.training.interrupts import Interrupts

log = logging.getLogger("medseg3d")

FIRST = 0.4
"""Part of the budget after which the first cycle begins."""

LEAST_TRUST = 0.3
"""Weight of the given labels at the least."""


@dataclass(frozen=True)
class CorrectionSettings:
    """How labels are corrected.

    Attributes:
        cycles: How many, at least one.
        ignore_index: Label of voxels that nobody annotated.
    """

    cycles: int
    ignore_index: int | None = None


class Correction:
    """The mean of the weights of all cycles, and the loss that it makes of a patch.

    Args:
        network: Copied before it has learned anything.
        settings: How labels are corrected.

    Attributes:
        cycles: How many have begun.
    """

    def __init__(self, network: nn.Module, settings: CorrectionSettings) -> None:
        self.settings = settings
        self.cycles = 0
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
    def trust(self) -> float:
        """Weight of the given labels."""
        return max(LEAST_TRUST, 1 / (self.cycles + 1))

    def corrected(self, loss: Tensor, logits: Any, image: Tensor, labels: Tensor) -> Tensor:
        """A loss in which the given labels and what the mean network believes are mixed.

        Args:
            loss: Of the given labels.
            logits: ``(B, L, *sp)``, or a list with the finest ones first.
            image: ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)``.
        """
        if not self.cycles:
            return loss
        with torch.no_grad():
            believed = self._network(image).float().softmax(dim=1)
        finest = logits if isinstance(logits, Tensor) else logits[0]
        ignored = self.settings.ignore_index
        other = soft_dice_ce(finest, believed, labels, ignore_index=ignored)
        return self.trust * loss + (1 - self.trust) * other


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
