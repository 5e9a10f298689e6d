"""Windows over a volume: where they lie, how they are weighted and stitched."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import combinations, product
from math import ceil, prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.data.sides import SAGITTAL
from medseg3d.device import Precision, autocast
from medseg3d.types import Size3

SIGMA = 1 / 8
"""Standard deviation of the Gaussian weights as a fraction of the window's edge."""

LARGEST_WINDOW = 2
"""A window may grow to this many times its voxels if it then holds the whole volume."""

Advance = Callable[[int, int], None]
"""Called with the windows done and the windows in all."""


def starts(length: int, window: int, overlap: float) -> list[int]:
    """First voxels of evenly spread windows that cover ``length`` voxels.

    Neighbors share at least the fraction ``overlap``. One window if it covers all.

    Examples:
        >>> starts(10, 4, 0.5)
        [0, 2, 4, 6]
        >>> starts(11, 4, 0.5)
        [0, 2, 4, 5, 7]
        >>> starts(3, 4, 0.5)
        [0]
    """
    room = length - window
    if room <= 0:
        return [0]
    step = max(1.0, window * (1 - overlap))
    count = ceil(room / step) + 1
    return [round(room * place / (count - 1)) for place in range(count)]


def window_starts(shape: Size3, window: Size3, overlap: float) -> list[Size3]:
    """First voxels of all windows, last axis fastest."""
    axes = [starts(n, w, overlap) for n, w in zip(shape, window, strict=True)]
    return list(product(*axes))  # type: ignore[arg-type]


def fit_window(shape: Size3, window: Size3, divisor: Size3) -> Size3:
    """One window around the whole volume if that is little more than a window, else the window.

    A volume slightly larger than the window would take eight windows that overlap almost
    wholly; a convolutional network sees it at once for an eighth of the time.

    Examples:
        >>> fit_window((43, 50, 37), (40, 56, 40), (8, 8, 8))
        (48, 56, 40)
        >>> fit_window((90, 90, 90), (40, 56, 40), (8, 8, 8))
        (40, 56, 40)
    """
    whole = tuple(-(-max(n, d) // d) * d for n, d in zip(shape, divisor, strict=True))
    if all(w <= edge for w, edge in zip(whole, window, strict=True)):
        return window
    grown = tuple(max(w, edge) for w, edge in zip(whole, window, strict=True))
    if prod(grown) > LARGEST_WINDOW * prod(window):
        return window
    return grown[0], grown[1], grown[2]


@lru_cache(maxsize=8)
def gaussian_weights(window: Size3) -> Tensor:
    """Weights ``(i, j, k)`` that fall from 1 in the middle to the border, never to 0."""
    axes = []
    for edge in window:
        offsets = torch.arange(edge, dtype=torch.float32) - (edge - 1) / 2
        axes.append(torch.exp(-0.5 * (offsets / (SIGMA * edge)) ** 2))
    weights = torch.einsum("i,j,k->ijk", *axes)
    return (weights / weights.max()).clamp_min(1e-4)


def predict_logits(
    network: nn.Module,
    image: npt.NDArray[np.float32],
    *,
    window: Size3,
    overlap: float = 0.5,
    mirror_axes: tuple[int, ...] = (),
    mirrored_labels: tuple[int, ...] = (),
    device: torch.device | None = None,
    precision: Precision = "fp32",
    advance: Advance | None = None,
) -> npt.NDArray[np.float32]:
    """Logits of a whole volume, stitched from overlapping windows.

    Args:
        network: In ``eval()`` mode; its ``divisor`` must divide ``window``.
        image: ``(C, I, J, K)`` normalized intensities.
        window: Voxels per axis the network sees at once; smaller volumes are padded by 0, and
            one a little larger is seen whole (:func:`fit_window`).
        overlap: Fraction of a window shared with its neighbor, in ``[0, 1)``.
        mirror_axes: Axes whose mirrored copies are averaged.
        mirrored_labels: Logit channel that each becomes in copies mirrored along the sagittal
            axis; empty if all stay.
        device: Where the network is.
        precision: Arithmetic of the network.
        advance: Told after each window how many are done and how many there are.

    Returns:
        ``(L, I, J, K)`` float32.
    """
    device = device or torch.device("cpu")
    divisor = getattr(network, "divisor", (1, 1, 1))
    window = fit_window((image.shape[1], image.shape[2], image.shape[3]), window, divisor)
    volume, inner = _padded(torch.from_numpy(np.ascontiguousarray(image)), window)
    shape = (volume.shape[1], volume.shape[2], volume.shape[3])
    places = window_starts(shape, window, overlap)
    weights = gaussian_weights(window)
    total: Tensor | None = None
    norm = torch.zeros(shape)
    with torch.inference_mode(), autocast(device, precision):
        for done, start in enumerate(places, start=1):
            box = tuple(slice(first, first + w) for first, w in zip(start, window, strict=True))
            patch = volume[(slice(None), *box)][None].to(device)
            logits = _mirrored(network, patch, mirror_axes, mirrored_labels)[0].float().cpu()
            if len(places) == 1:
                total = logits
            else:
                if total is None:
                    total = torch.zeros((logits.shape[0], *shape))
                total[(slice(None), *box)] += logits * weights
                norm[box] += weights
            if advance is not None:
                advance(done, len(places))
        assert total is not None, "there is always one window"
        if len(places) > 1:
            total.div_(norm)
        return total[(slice(None), *inner)].numpy()


def _padded(volume: Tensor, window: Size3) -> tuple[Tensor, tuple[slice, slice, slice]]:
    """Volume padded on both sides to at least the window, and where the volume lies in it."""
    padding: list[int] = []
    inner = []
    for length, edge in zip(volume.shape[1:], window, strict=True):
        missing = max(0, edge - length)
        inner.append(slice(missing // 2, missing // 2 + length))
        padding = [missing // 2, missing - missing // 2, *padding]
    padded = functional.pad(volume, padding) if any(padding) else volume
    return padded, (inner[0], inner[1], inner[2])


def _mirrored(
    network: nn.Module, patch: Tensor, axes: tuple[int, ...], labels: tuple[int, ...]
) -> Tensor:
    """Mean logits over the patch and its mirror images along all subsets of ``axes``.

    In a patient mirrored from left to right the network finds the left kidney where the right
    one is, so the logits of such pairs change places again.
    """
    total: Tensor | None = None
    count = 0
    for flips in _subsets(axes):
        dims = [axis + 2 for axis in flips]
        logits = network(patch.flip(dims)).flip(dims) if dims else network(patch)
        if SAGITTAL in flips and labels:
            logits = logits[:, list(labels)]
        total = logits if total is None else total + logits
        count += 1
    assert total is not None, "the empty subset is always there"
    return total / count


def _subsets(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for size in range(len(axes) + 1):
        yield from combinations(axes, size)
