"""Moving average of the weights, which is what a run keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from medseg3d.training.interrupts import Interrupts


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name, each once also where two names share it."""
    named = chain(network.named_parameters(), network.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


class Averaging:
    """Exponential moving average of weights and buffers, quick at first.

    After ``n`` updates the decay is ``min(decay, (1 + n) / (10 + n))``, so that a short run is
    not held back by its initial weights. The first update copies the weights.

    Args:
        network: Whose weights are averaged; already on its device.
        decay: Share of the average that an update keeps in the long run; 0 keeps no average.
        interrupts: Held back while average and weights change places.

    Attributes:
        updates: How many there were.
        tensors: The average by name; empty without one.
    """

    def __init__(self, network: nn.Module, decay: float, interrupts: Interrupts) -> None:
        self.updates = 0
        self._decay = decay
        self._network = network
        self._interrupts = interrupts
        current = tensors_of(network) if decay else {}
        self.tensors = {name: tensor.clone() for name, tensor in current.items()}

    def update(self) -> None:
        """Take in the weights after a step."""
        if not self.tensors:
            return
        current = tensors_of(self._network)
        kept = 0.0
        if self.updates:
            kept = min(self._decay, (1 + self.updates) / (10 + self.updates))
        real = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in real], [current[name] for name in real], 1 - kept
        )
        for name in self.tensors.keys() - set(real):
            self.tensors[name].copy_(current[name])
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the network, and the weights back at the end."""
        self._interrupts.hold()
        self.swap()
        try:
            self._interrupts.release()
            yield
        finally:
            self._interrupts.hold()
            self.swap()
            self._interrupts.release()

    def swap(self) -> None:
        """Let average and weights change places."""
        current = tensors_of(self._network)
        for name, average in self.tensors.items():
            weights = current[name].clone()
            current[name].copy_(average)
            average.copy_(weights)
