"""Several networks as one."""

from collections.abc import Sequence
from math import lcm
from typing import Literal

import numpy as np
import numpy.typing as npt

from medseg3d.device import Precision
from medseg3d.inference.network import WindowNetwork
from medseg3d.types import Size3

LEAST = 1e-7
"""Smallest mean probability, so that its logarithm is finite."""


class Ensemble:
    """Averages the probabilities of networks, and gives the logarithm of the mean as logits.

    Args:
        networks: At least one; all see the same windows and tell the same labels apart.
    """

    def __init__(self, networks: Sequence[WindowNetwork]) -> None:
        self.networks = tuple(networks)
        self._mean: npt.NDArray[np.float32] = np.empty(0, np.float32)

    @property
    def backend(self) -> str:
        """Registered name of the first network's backend."""
        return self.networks[0].backend

    @property
    def precision(self) -> Precision:
        """Arithmetic of the first network."""
        return self.networks[0].precision

    @property
    def divisor(self) -> Size3:
        """Each network pads windows to multiples that divide these."""
        i, j, k = (lcm(*edges) for edges in zip(*(n.divisor for n in self.networks), strict=True))
        return i, j, k

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(B, L, i, j, k)`` of a batch ``(B, C, i, j, k)``; the next call overwrites."""
        for number, network in enumerate(self.networks):
            shares = _softmax(network(batch))
            if number == 0:
                self._mean = shares
            else:
                self._mean += shares
        self._mean /= len(self.networks)
        np.maximum(self._mean, LEAST, out=self._mean)
        return np.log(self._mean, out=self._mean)


def told(network: WindowNetwork, fact: Literal["backend", "precision"]) -> str:
    """A fact of a network in words; of several that differ, of each, as ``bf16, fp32``."""
    members = getattr(network, "networks", (network,))
    return ", ".join(dict.fromkeys(str(getattr(member, fact)) for member in members))


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    shares: npt.NDArray[np.float32] = logits - logits.max(axis=1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares
