"""Label maps that a network which knows several answers draws, and how much they differ.

Each sample has one draw of standard normal numbers, which all windows of a case share, as do all
voxels of a window: so neighboring windows tell the same story, and no seams appear between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg3d.device import Device, Precision, torch_device, torch_threads
from medseg3d.inference.planes import ONE, Numbers
from medseg3d.types import LabelMap, Size3

if TYPE_CHECKING:
    import torch
    from torch import nn


class Sampler:
    """One answer of a network, as a network for windows; computed by torch in float32.

    Args:
        module: Network in ``eval()`` mode with ``latent_size`` and ``sample(x, noise)``.
        noise: Standard normal numbers ``(latent_size,)``.
        device: Where to compute; the module is moved there.
        threads: Processors to compute on; None takes those that torch uses.
    """

    backend = "eager"
    precision: Precision = "fp32"

    def __init__(
        self,
        module: nn.Module,
        noise: npt.NDArray[np.float32],
        *,
        device: Device | torch.device,
        threads: int | None = None,
    ) -> None:
        self.device = torch_device(device)
        self.module = module.to(self.device)
        self.noise = noise
        self.divisor: Size3 = getattr(module, "divisor", (1, 1, 1))
        self._threads = threads

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(B, L, i, j, k)`` of windows ``(B, C, i, j, k)``."""
        import torch

        windows = torch.from_numpy(np.require(batch, requirements="W")).to(self.device)
        noise = torch.from_numpy(self.noise).to(self.device)
        with torch_threads(self._threads), torch.inference_mode():
            logits: torch.Tensor = self.module.sample(windows, noise)  # type: ignore[operator]
            return np.asarray(logits.float().cpu().numpy())


def draw(number: int, size: int, *, seed: int) -> npt.NDArray[np.float32]:
    """Noise of one sample, which depends on the seed and its number only.

    Args:
        number: Of the sample.
        size: Random numbers that the network wants.
        seed: Of all samples.
    """
    return np.random.default_rng((seed, number)).standard_normal(size).astype(np.float32)


def entropy_of(samples: Sequence[LabelMap], num_labels: int) -> Numbers:
    """Entropy of the labels that samples have at a voxel, over its largest value, log L.

    Args:
        samples: At least one ``(I, J, K)``.
        num_labels: ``L``, background included.

    Returns:
        ``(I, J, K)`` where 0 means that all are equal and 65535 that all labels are as frequent.

    Examples:
        >>> samples = [np.array([[[0, 1, 2]]]), np.array([[[0, 1, 1]]])]
        >>> entropy_of(samples, 4).tolist()
        [[[0, 0, 32768]]]
    """
    axis = int(np.argmax(np.abs(samples[0].strides)))  # whose planes lie together in memory
    found = np.zeros_like(samples[0], dtype=np.uint16)
    views = [np.moveaxis(sample, axis, 0) for sample in samples]
    for into, *planes in zip(np.moveaxis(found, axis, 0), *views, strict=True):
        together = np.stack(planes)
        differ = (together[1:] != together[0]).any(axis=0)
        votes = together[:, differ]
        entropy = np.zeros(votes.shape[1])
        for value in np.unique(votes):
            share = (votes == value).mean(axis=0)
            entropy -= share * np.log(np.where(share > 0, share, 1))
        into[differ] = np.rint(ONE * entropy / np.log(num_labels))
    return found
