"""Volumes to 2D slices with their neighbors, and back.

Reference:
    Li et al., "H-DenseUNet", IEEE TMI 37(12), 2018. arXiv:1709.07330, the mapping F.
"""

import torch
from torch import Tensor


def to_triplets(volume: Tensor) -> Tensor:
    """Every slice along the last axis, with the slices before and after it as channels.

    The first and the last slice stand in for their missing neighbors.

    Args:
        volume: ``(B, C, I, J, K)``.

    Returns:
        ``(B * K, 3 * C, I, J)``; channels are all of the slice before, the slice, the
        slice after.
    """
    before = torch.cat([volume[..., :1], volume[..., :-1]], dim=-1)
    after = torch.cat([volume[..., 1:], volume[..., -1:]], dim=-1)
    triplets = torch.cat([before, volume, after], dim=1)
    return triplets.permute(0, 4, 1, 2, 3).flatten(0, 1)


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
