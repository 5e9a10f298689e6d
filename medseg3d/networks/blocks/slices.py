"""Volumes to 2D slices with their neighbors, and back.

Reference:
    Li et al., "H-DenseUNet", IEEE TMI 37(12), 2018. arXiv:1709.07330, the mapping F.
"""

import torch
from torch import Tensor


def to_slabs(volume: Tensor, size: int) -> Tensor:
    """Every slice along the last axis, with as many slices before it as after it as channels.

    The first and the last slice stand in for their missing neighbors.

    Args:
        volume: ``(B, C, I, J, K)``.
        size: Odd number of slices in all; 1 for no neighbors.

    Returns:
        ``(B * K, size * C, I, J)``; channels are all of the first slice of the slab, then all of
        the next one.
    """
    first, last = ([end] * (size // 2) for end in (volume[..., :1], volume[..., -1:]))
    padded = torch.cat([*first, volume, *last], dim=-1)
    shifted = [padded[..., start : start + 1 - size or None] for start in range(size)]
    slabs = torch.cat(shifted, dim=1)
    return slabs.permute(0, 4, 1, 2, 3).flatten(0, 1)


def from_slices(slices: Tensor, num_volumes: int) -> Tensor:
    """Stack 2D slices to volumes again.

    Args:
        slices: ``(B * K, C, I, J)``, the slices of a volume in order.
        num_volumes: ``B``.

    Returns:
        ``(B, C, I, J, K)``.
    """
    stack = slices.reshape(num_volumes, -1, *slices.shape[1:])
    return stack.permute(0, 2, 3, 4, 1)
