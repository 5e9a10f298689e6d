"""Cross entropy, voxel by voxel, plain or weighted, of all voxels or of the worst."""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.pooling import mean_over_processes
from medseg3d.losses.voxels import (
    check_target,
    check_weights,
    checked_weights,
    in_float32,
    known_voxels,
    log_probability,
)

Weights = tuple[float, ...] | Literal["auto"] | None
AUTO: Literal["auto"] = "auto"
LEFT_OUT = -100
"""Stands for voxels that torch is to leave out."""


@LOSSES.register("cross_entropy", paper="Szegedy et al., CVPR 2016, arXiv:1512.00567")
class CrossEntropy(nn.Module):
    """Mean over voxels of ``-log p`` of their label, with optional weights and smoothing.

    A batch whose voxels are all ignored gives 0 with zero gradients, not ``nan``.

    Args:
        weight: One weight per label, background first, or ``auto`` for
            :func:`frequency_weights` of ``label_counts``.
        normalize: Divide the weighted sum by the ``weights`` of the voxels, as torch does, or
            by their ``count``.
        label_smoothing: Share of each voxel's weight spread evenly over all labels, in [0, 1).
        ignore_index: Label of voxels to leave out of the mean.
        label_counts: Voxels of each label in the training cases, background first.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If an option is out of its range, or there is not one weight per label.

    References:
        Label smoothing: Szegedy et al., CVPR 2016. https://arxiv.org/abs/1512.00567
    """

    def __init__(
        self,
        *,
        weight: Sequence[float] | Literal["auto"] | None = None,
        normalize: Literal["weights", "count"] = "weights",
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        label_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(
                f"cross_entropy: label_smoothing must lie in [0, 1), got {label_smoothing}"
            )
        if normalize not in ("weights", "count"):
            raise ConfigError(
                f"cross_entropy: normalize must be weights or count, got {normalize!r}"
            )
        self.weight = given_or_auto("cross_entropy", weight, label_counts)
        self.normalize = normalize
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.over_processes = False  # see losses.pooling

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        check_target(logits, target)
        values, labels = in_float32(logits), target[:, 0].long()
        known = known_voxels(labels, self.ignore_index)
        if known is not None:
            labels = labels.masked_fill(~known, LEFT_OUT)
        weight = weights_for("cross_entropy", self.weight, values)
        if weight is not None:
            # smoothing would have them pay for the other labels
            labels = labels.masked_fill(weight[labels.clamp_min(0)] == 0, LEFT_OUT)
        losses = F.cross_entropy(
            values,
            labels,
            weight=weight,
            reduction="none",  # torch's own sum has no deterministic form on a GPU
            label_smoothing=self.label_smoothing,
            ignore_index=LEFT_OUT,
        )
        total = losses.sum()
        if weight is not None and self.normalize == "weights":
            divisor = (weight[labels.clamp_min(0)] * (labels != LEFT_OUT)).sum()
        elif known is None:
            return total / target.numel()
        else:
            divisor = known.sum().to(total.dtype)
        if self.over_processes:
            divisor = mean_over_processes(divisor)
        return total / divisor.clamp_min(torch.finfo(total.dtype).tiny)


def given_or_auto(
    loss: str,
    weight: Sequence[float] | Literal["auto"] | None,
    label_counts: Sequence[int] | None,
) -> Weights:
    """Weights of labels as they were given or as they are counted; ``auto`` without counts stays.

    Raises:
        ConfigError: If they are no numbers, one is negative, or all are 0.
    """
    if weight == AUTO:
        if label_counts is None:
            return AUTO
        weight = frequency_weights(label_counts)
    return checked_weights(loss, weight, also=f" or {AUTO}")


def weights_for(loss: str, weight: Weights, logits: Tensor) -> Tensor | None:
    """One weight for each label of float logits ``(B, L, *spatial)``; None if all weigh 1.

    Raises:
        ConfigError: If there are more or fewer, or labels were not counted.
    """
    if weight is None:
        return None
    if isinstance(weight, str):
        raise ConfigError(f"{loss}: weight {AUTO!r} needs label_counts")
    values = torch.tensor(weight, dtype=logits.dtype, device=logits.device)
    check_weights(loss, values, logits.shape[1])
    return values


def frequency_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Weights in inverse proportion to the root of a label's frequency, 1 for the mean voxel.

    A label that no voxel has weighs 0.

    Args:
        counts: Voxels per label.

    Examples:
        >>> [round(weight, 6) for weight in frequency_weights([90, 10, 0])]
        [0.833333, 2.5, 0.0]
    """
    roots = [sqrt(count) for count in counts]
    scale = sum(counts) / (sum(roots) or 1.0)
    return tuple(scale / root if root else 0.0 for root in roots)


@LOSSES.register("top_k", paper="Wu et al., arXiv:1605.06885, 2016")
class TopK(nn.Module):
    """Mean cross entropy of the worst ``percent`` of the voxels.

    Ignored voxels are put aside before the rest is ranked; at least one voxel is kept.

    Args:
        percent: Share of the voxels to keep, in (0, 100].
        batch: Rank the voxels of all cases of the batch together, of each process by itself.
        ignore_index: Label of voxels to leave out, and of cases that hold nothing else.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32

    Raises:
        ConfigError: If ``percent`` is not in (0, 100].

    References:
        Wu et al., "Bridging category-level and instance-level semantic image segmentation",
        2016. https://arxiv.org/abs/1605.06885
    """

    def __init__(
        self, *, percent: float = 10.0, batch: bool = True, ignore_index: int | None = None
    ) -> None:
        super().__init__()
        if not 0.0 < percent <= 100.0:
            raise ConfigError(f"top_k: percent must lie in (0, 100], got {percent}")
        self.percent = percent
        self.batch = batch
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        losses = -log_probability(logits, target, self.ignore_index).flatten(1)
        known = known_voxels(target.flatten(1), self.ignore_index)
        cases = list(losses)
        if known is not None:
            cases = [case[counted] for case, counted in zip(losses, known, strict=True)]
        if self.batch:
            cases = [torch.cat(cases)]
        worst = [self._worst(case) for case in cases if case.numel()]
        return torch.stack(worst).mean() if worst else losses.sum()  # of zeros

    def _worst(self, losses: Tensor) -> Tensor:
        keep = max(1, ceil(losses.numel() * self.percent / 100))
        return losses.topk(keep, sorted=False).values.mean()


@LOSSES.register("focal", paper="Lin et al., ICCV 2017, arXiv:1708.02002")
class Focal(nn.Module):
    """Cross entropy of each voxel times ``(1 - p) ** gamma``, so that easy voxels count little.

    Args:
        gamma: At least 0, where it is :class:`CrossEntropy`.
        alpha: Weight per label, background first; one number is that of every structure and
            the background then weighs the rest to 1; None weighs nothing.
        ignore_index: Label of voxels to leave out.

    Shape:
        - logits: ``(B, L, *spatial)``, background included
        - target: ``(B, 1, *spatial)`` integer labels
        - output: scalar, float32; the mean over the voxels that count

    Raises:
        ConfigError: If ``gamma`` or a weight is negative, or there is not one weight per label.

    References:
        Lin et al., ICCV 2017. https://arxiv.org/abs/1708.02002
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not gamma >= 0.0:
            raise ConfigError(f"focal: gamma must be at least 0, got {gamma}")
        self.alpha: float | tuple[float, ...] | None
        if isinstance(alpha, int | float):
            if not 0.0 <= alpha <= 1.0:
                raise ConfigError(f"focal: alpha as one number must lie in [0, 1], got {alpha}")
            self.alpha = alpha
        else:
            self.alpha = checked_weights("focal", alpha, option="alpha", also=" or one for all")
        self.gamma = gamma
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``."""
        log_p = log_probability(logits, target, self.ignore_index)
        missing = -torch.expm1(log_p)  # 1 - p without its cancellation
        if self.gamma < 1:  # the slope at 0 has no bound
            missing = missing.clamp_min(1e-6)
        losses = -(missing**self.gamma) * log_p
        known = known_voxels(target, self.ignore_index)
        if self.alpha is not None:
            losses = losses * self._weights(logits, target, known)
        return losses.mean() if known is None else losses.sum() / known.sum().clamp_min(1)

    def _weights(self, logits: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
        """Weight of each voxel by its label, ``(B, *spatial)``."""
        num_labels = logits.shape[1]
        if isinstance(self.alpha, int | float):
            values = [1 - self.alpha, *[self.alpha] * (num_labels - 1)]
        else:
            values = list(self.alpha or ())
        weight = torch.tensor(values, dtype=in_float32(logits).dtype, device=logits.device)
        check_weights("focal", weight, num_labels, option="alpha")
        labels = target[:, 0].long()
        return weight[labels if known is None else labels.where(known[:, 0], labels * 0)]
