"""The training step: patches in, one loss out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from medseg3d.errors import RunError
from medseg3d.losses.case_maps import CutMaps
from medseg3d.training.correction import Correction
from medseg3d.training.course import Course

COMMON = frozenset({"image", "labels", "case", "maps"})
"""What every batch holds, and maps for the loss, if it takes some."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW and its schedule; see the fields of the same names in ``FitConfig``."""

    learning_rate: float
    weight_decay: float
    warmup: float
    decay_power: float


class SegmentationModule(LightningModule):
    """Network, loss and optimizer.

    Args:
        network: Gives logits, or a list of them, finest first, while training.
        loss: Takes those logits and integer labels ``(B, 1, I, J, K)``.
        settings: Of the optimizer.
        course: Tells the step.
        before_update: Called when gradients are ready and the weights are about to change.
        accumulate: Batches whose gradients make one step.
        correction: Says which patches have labels to learn from, if it is wanted.

    Attributes:
        step_loss: Loss of the step in hand; nan if none of its patches is learned from.
        cases: Cases of its batches.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        settings: OptimizerSettings,
        course: Course,
        before_update: Callable[[], None],
        *,
        accumulate: int = 1,
        correction: Correction | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.settings = settings
        self.step_loss = math.nan
        self.cases: tuple[str, ...] = ()
        self.accumulate = accumulate
        self._losses: list[float] = []
        self._course = course
        self._before_update = before_update
        self._correction = correction

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> dict[str, Any]:
        """Take in arrays, which come from workers that have no shared memory for tensors."""
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in batch.items()
        }

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch of patches.

        Raises:
            RunError: If the loss is not finite; the weights are still those before the step.
        """
        if self.begins_step(batch_idx):
            self.cases, self._losses, self.step_loss = (), [], math.nan
        self.cases = tuple(dict.fromkeys((*self.cases, *batch["case"])))
        learned = self._believed(batch)
        if learned is None:
            return 0.0 * self._cost(batch)
        loss = self._cost(learned)
        self._losses.append(float(loss.detach()))
        self.step_loss = sum(self._losses) / len(self._losses)
        if not math.isfinite(self.step_loss):
            raise self._not_finite("loss", self.step_loss)
        return loss

    def begins_step(self, batch_idx: int) -> bool:
        """Whether this batch is the first of a step."""
        return batch_idx % self.accumulate == 0

    def ends_step(self, batch_idx: int) -> bool:
        """Whether this batch is the last of a step."""
        return (batch_idx + 1) % self.accumulate == 0

    def end_step(self) -> None:
        """Count what belongs to the step that has ended."""
        if self._correction is not None:
            self._correction.end_step()

    def _believed(self, batch: dict[str, Any]) -> dict[str, Any] | None:
        """The patches of a batch that have labels to learn from; None if there are none."""
        if self._correction is None or not self._correction.can_outvote:
            return batch
        kept = self._correction.believed(batch["image"], batch["labels"], batch["case"])
        if not kept.any():
            return None
        return {
            name: value[kept] if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }

    def _cost(self, batch: dict[str, Any]) -> Tensor:
        """The loss, or the whole of what a network that learns from more wants to be small."""
        image, labels = batch["image"], batch["labels"]
        own = getattr(self.network, "objective", None)
        if own:
            more = {name: value for name, value in batch.items() if name not in COMMON}
            whole: Tensor = own(self.loss, image, labels, **more)
            return whole
        maps = [CutMaps.of(batch["maps"])] if "maps" in batch else []
        loss: Tensor = self.loss(self.network(image), labels, *maps)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW that does not decay biases and norms."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.settings.learning_rate,
            fused=not self._scales_loss,  # whose scaler does not know fused steps
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Cut the gradient to the norm given; lightning's own refuses fused optimizers.

        Raises:
            RunError: If it is not finite and no loss scaler is there to skip the step.
        """
        if gradient_clip_val:
            parameters = self.network.parameters()
            norm = float(nn.utils.clip_grad_norm_(parameters, float(gradient_clip_val)))
            if not (math.isfinite(norm) or self._scales_loss):
                raise self._not_finite("gradient", norm)
        self._before_update()

    @property
    def _scales_loss(self) -> bool:
        return self.trainer.precision == "16-mixed"

    def _not_finite(self, what: str, value: float) -> RunError:
        return RunError(
            f"the {what} became {value} at step {self._course.step} on cases "
            f"{', '.join(self.cases)}; look at those cases, or begin a run with a lower "
            "learning_rate, or with precision fp32"
        )
