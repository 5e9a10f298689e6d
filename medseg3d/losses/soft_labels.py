"""A loss against probabilities in place of labels."""

import torch
from torch import Tensor

from medseg3d.losses.voxels import in_float32, known_voxels

SMOOTH = 1e-5


def soft_dice_ce(
    logits: Tensor, probabilities: Tensor, target: Tensor, *, ignore_index: int | None = None
) -> Tensor:
    """Cross-entropy plus Dice of each foreground label, of a patch whose labels are not sure.

    Where the probabilities are those of labels, 0 or 1, it is the loss of these.

    Args:
        logits: ``(B, L, *spatial)``.
        probabilities: What the labels are thought to be, ``(B, L, *spatial)``.
        target: Labels ``(B, 1, *spatial)``, which tell the voxels to leave out.
        ignore_index: Label of such voxels.

    Returns:
        A scalar.
    """
    logs = in_float32(logits).log_softmax(dim=1)
    wanted = probabilities.to(logs)
    known = known_voxels(target, ignore_index)
    counts = torch.ones_like(logs[:, :1]) if known is None else known.to(logs)
    cross_entropy = -(wanted * logs * counts).sum() / counts.sum().clamp_min(1)
    found, axes = logs.exp() * counts, list(range(2, logs.ndim))
    shared = (found * wanted)[:, 1:].sum(axes)
    sizes = (found + wanted * counts)[:, 1:].sum(axes)
    return cross_entropy + 1 - ((2 * shared + SMOOTH) / (sizes + SMOOTH)).mean()
