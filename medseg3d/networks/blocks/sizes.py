"""Any input size: pad up to what the strides divide, cut the logits back."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def pad_to_multiple(x: Tensor, divisor: Sequence[int]) -> Tensor:
    """Repeat the border voxels at the end of each axis until ``divisor`` divides it.

    Args:
        x: ``(B, C, *sp)``.
        divisor: One positive integer per spatial axis.

    Returns:
        ``(B, C, *sp)`` with each axis rounded up; voxel 0 stays voxel 0.

    Examples:
        >>> import torch
        >>> pad_to_multiple(torch.zeros(1, 1, 5, 8), (4, 4)).shape
        torch.Size([1, 1, 8, 8])
    """
    amounts: list[int] = []
    for size, step in zip(x.shape[:1:-1], divisor[::-1], strict=True):
        amounts += [0, -size % step]
    return functional.pad(x, amounts, mode="replicate")


def crop(x: Tensor, size: Sequence[int], scale: Sequence[int] | None = None) -> Tensor:
    """Keep the part of ``x`` that covers an image of ``size`` voxels.

    Args:
        x: ``(B, C, *sp)``, possibly padded at the end of its axes.
        size: Voxels of the image per axis.
        scale: Image voxels per voxel of ``x``, per axis; 1 when absent.

    Returns:
        ``(B, C, *ceil(size / scale))``.
    """
    for place, (voxels, step) in enumerate(zip(size, scale or (1,) * len(size), strict=True)):
        x = x.narrow(place + 2, 0, (voxels + step - 1) // step)
    return x
