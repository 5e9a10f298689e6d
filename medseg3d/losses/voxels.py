"""What every loss does first: check the shapes, go to float32, set ignored voxels apart."""

from collections.abc import Sequence, Sized
from math import isfinite

import torch
from torch import Tensor

from medseg3d.errors import ConfigError, DataError


def in_float32(logits: Tensor) -> Tensor:
    """Logits in single precision whatever autocast made of them; double stays double."""
    return logits if logits.dtype == torch.float64 else logits.float()


def softmax_and_one_hot(
    logits: Tensor, target: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Probabilities and reference ``(B, L, *spatial)``, both 0 where a voxel is ignored.

    Raises:
        DataError: If logits and labels do not belong together.
    """
    check_target(logits, target)
    probabilities = in_float32(logits).softmax(dim=1)
    labels = torch.arange(logits.shape[1], device=target.device)
    one_hot = target == labels.view(1, -1, *(1,) * (target.ndim - 2))
    known = known_voxels(target, ignore_index)
    if known is not None:
        probabilities = probabilities * known
        one_hot = one_hot & known
    return probabilities, one_hot.to(probabilities.dtype)


def log_probability(logits: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    """``log p`` of each voxel's label, ``(B, *spatial)``; 0 where a voxel is ignored.

    Raises:
        DataError: If logits and labels do not belong together.
    """
    check_target(logits, target)
    labels = target.long()
    known = known_voxels(target, ignore_index)
    if known is not None:
        labels = labels.where(known, torch.zeros_like(labels))
    picked = in_float32(logits).log_softmax(dim=1).gather(1, labels)
    if known is not None:
        picked = picked.where(known, torch.zeros_like(picked))
    return picked[:, 0]


def known_voxels(target: Tensor, ignore_index: int | None) -> Tensor | None:
    """Voxels that count, ``(B, 1, *spatial)`` bool; None if all do."""
    if ignore_index is None or not _holds(target.dtype, ignore_index):
        return None
    return target != ignore_index


def _holds(dtype: torch.dtype, value: int) -> bool:
    """Whether an integer type has a value; compared with another one, it would wrap around."""
    return torch.tensor(value).to(dtype).item() == value


def mean_over_known(values: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    """Mean of ``(B, *spatial)`` that are 0 where ignored; 0 if no voxel counts."""
    known = known_voxels(target, ignore_index)
    if known is None:
        return values.mean()
    return values.sum() / known.sum().clamp_min(1)


def power(values: Tensor, exponent: float, *, smallest: float = 1e-6) -> Tensor:
    """``values ** exponent`` for values from 0, with a finite slope at 0.

    Below ``smallest`` an exponent under 1 would have a slope without bound; there the power is
    continued as a straight line through 0.
    """
    if exponent >= 1:
        return values**exponent
    line = values * smallest ** (exponent - 1)
    return torch.where(values < smallest, line, values.clamp_min(smallest) ** exponent)


def checked_weights(
    loss: str, weight: Sequence[float] | str | None, *, option: str = "weight", also: str = ""
) -> tuple[float, ...] | None:
    """Weights of labels as numbers; None if there are none.

    Args:
        loss: Its name.
        weight: As it was given.
        option: What it is called there.
        also: What else the option takes, for the message.

    Raises:
        ConfigError: If it is no list of numbers, one is negative, or all are 0.
    """
    if weight is None:
        return None
    try:
        values = () if isinstance(weight, str) else tuple(float(each) for each in weight)
    except (TypeError, ValueError):
        values = ()
    if not (values and all(map(isfinite, values))):
        raise ConfigError(f"{loss}: {option} must be one number per label{also}, got {weight!r}")
    if not min(values) >= 0 < max(values):
        raise ConfigError(f"{loss}: {option} must be at least 0 and not all 0, got {list(values)}")
    return values


def check_weights(loss: str, weight: Sized, num_labels: int, *, option: str = "weight") -> None:
    """Refuse weights that are not one per label.

    Raises:
        ConfigError: If there are more or fewer.
    """
    if len(weight) != num_labels:
        raise ConfigError(
            f"{loss}: {option} has {len(weight)} values; expected {num_labels}, one per label with "
            "the background first"
        )


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
