"""Max pooling that remembers where each maximum was, and the way back.

Torch's own pair counts places in the whole image, which other libraries cannot follow when the
image has another size, and adds up in any order on a GPU. Here a place is counted within its
window.
"""

from itertools import product

import torch
from torch import Tensor

from medseg3d.networks.blocks.stages import Step


def max_pool(x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Maximum of each window, and which of its voxels that was, the first one of equals.

    Args:
        x: ``(B, C, *sp)``, each axis divisible by its step.
        step: Voxels of a window per axis.

    Returns:
        Maxima and places within the windows, both ``(B, C, *sp / step)``.

    Examples:
        >>> maxima, places = max_pool(torch.tensor([[[3.0, 7.0, 2.0, 2.0]]]), (2,))
        >>> maxima, places
        (tensor([[[7., 2.]]]), tensor([[[1, 0]]]))
        >>> max_unpool(maxima, places, (2,))
        tensor([[[0., 7., 2., 0.]]])
    """
    before = (slice(None), slice(None))
    voxels = torch.stack(
        [
            x[
                (
                    *before,
                    *(slice(first, None, edge) for first, edge in zip(place, step, strict=True)),
                )
            ]
            for place in product(*map(range, step))
        ]
    )
    places = voxels.argmax(0)
    return voxels.gather(0, places[None]).squeeze(0), places


def max_unpool(x: Tensor, places: Tensor, step: Step) -> Tensor:
    """Put values back where :func:`max_pool` found them; all else is zero.

    Args:
        x: ``(B, C, *sp)``.
        places: ``(B, C, *sp)``, within the windows.
        step: Voxels of a window per axis.

    Returns:
        ``(B, C, *sp * step)``.
    """
    number = torch.Size(step).numel()
    voxels = [x.masked_fill(places != place, 0.0) for place in range(number)]
    for axis, edge in reversed(list(enumerate(step, start=2))):
        voxels = [
            torch.stack(voxels[first : first + edge], dim=axis + 1).flatten(axis, axis + 1)
            for first in range(0, len(voxels), edge)
        ]
    return voxels[0]
