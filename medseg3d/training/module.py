"""The training step: patches in, one loss out."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from medseg3d.errors import RunError


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW and its schedule; see the fields of the same names in ``FitConfig``."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    warmup: float = 0.03
    decay_power: float = 1.5


class SegmentationModule(LightningModule):
    """Network, loss and optimizer.

    Args:
        network: Gives logits, or a list of them, finest first, while training.
        loss: Takes those logits and integer labels ``(B, 1, I, J, K)``.
        settings: Of the optimizer.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, settings: OptimizerSettings) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.settings = settings
        self.epoch_losses: list[float] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch of patches.

        Raises:
            RunError: If the loss is not finite; the weights are still those before the step.
        """
        loss: Tensor = self.loss(self.network(batch["image"]), batch["labels"])
        value = float(loss.detach())
        if value != value or value in (float("inf"), float("-inf")):
            cases = ", ".join(dict.fromkeys(batch["case"]))
            raise RunError(
                f"the loss became {value} at step {self.global_step} on cases {cases}; look at "
                "those cases, or lower learning_rate, or set precision to fp32; the best model "
                "so far is kept in the run folder's checkpoints"
            )
        self.epoch_losses.append(value)
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
            fused=self.trainer.precision != "16-mixed",  # whose scaler does not know fused steps
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Cut the gradient to the norm given; lightning's own refuses fused optimizers."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.network.parameters(), float(gradient_clip_val))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Whole volumes are validated by a callback; lightning wants the method."""
