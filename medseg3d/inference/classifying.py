"""The class of a whole image, as a network finds it that learned classes beside labels."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg3d.device import Device, torch_device, torch_threads
from medseg3d.inference.windows import copy_window, starts
from medseg3d.types import Image, Size3

if TYPE_CHECKING:
    import torch
    from torch import nn


class Classifier:
    """Tells the class of images; computed by torch in float32.

    Args:
        module: Network in ``eval()`` mode with ``classify(image) -> logits (1, K)``.
        window: Voxels that it sees at once.
        device: Where to compute; the module is moved there.
        threads: Processors to compute on; None takes those that torch uses.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        window: Size3,
        device: Device | torch.device,
        threads: int | None = None,
    ) -> None:
        self.device = torch_device(device)
        self.module = module.to(self.device)
        self.window = window
        self._threads = threads

    def __call__(self, image: Image) -> npt.NDArray[np.float64]:
        """Probability of each class ``(K,)``, the mean of windows that cover the image.

        Args:
            image: ``(C, I, J, K)``, preprocessed.
        """
        import torch

        edges = (starts(n, w, 0.0) for n, w in zip(image.shape[1:], self.window, strict=True))
        seen = np.empty((1, len(image), *self.window), dtype=np.float32)
        found = []
        with torch_threads(self._threads), torch.inference_mode():
            for i, j, k in product(*edges):
                copy_window(image, (i, j, k), seen[0])
                windows = torch.from_numpy(seen).to(self.device)
                logits: torch.Tensor = self.module.classify(windows)  # type: ignore[operator]
                found.append(logits[0].double().softmax(0).cpu().numpy())
        return np.asarray(np.mean(found, axis=0))
