"""What every loss does first: check the shapes, go to float32, set ignored voxels apart."""

import torch
from torch import Tensor

from medseg3d.errors import DataError


def in_float32(logits: Tensor) -> Tensor:
    """Logits in single precision whatever autocast made of them; double stays double."""
    return logits if logits.dtype == torch.float64 else logits.float()


def check_target(logits: Tensor, target: Tensor) -> None:
    """Refuse logits and labels that do not belong together.

    Args:
        logits: ``(B, L, *spatial)``, background included, so ``L`` is at least 2.
        target: Integer labels, ``(B, 1, *spatial)``.

    Raises:
        DataError: If the shapes do not fit or the labels are not integers.
    """
    if logits.ndim < 3 or logits.shape[1] < 2:
        raise DataError(
            f"logits have shape {tuple(logits.shape)}; expected (B, L, *spatial) with L >= 2, "
            "background included"
        )
    expected = (logits.shape[0], 1, *logits.shape[2:])
    if target.shape != expected:
        raise DataError(
            f"target has shape {tuple(target.shape)}, logits {tuple(logits.shape)}; "
            f"expected a target of shape {expected}"
        )
    if target.is_floating_point() or target.is_complex():
        raise DataError(f"target has type {target.dtype}; expected integer labels")
