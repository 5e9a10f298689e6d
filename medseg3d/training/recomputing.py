"""Computing activations a second time instead of keeping them: less memory for more time.

Reference:
    Chen et al., "Training deep nets with sublinear memory cost", 2016. arXiv:1604.06174
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medseg3d.errors import ConfigError

HEIGHT = 2
"""A block holds layers, or parts that hold layers: a stage of convolutions, a residual block."""

CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def recompute_activations(network: nn.Module) -> None:
    """Let each block keep its inputs only, and compute the rest again for the gradient.

    Loss and gradients are those of the plain network; random layers draw the same numbers again
    and running statistics are updated once. Nothing changes outside of training.

    Args:
        network: Changed in place; names of its weights stay.
    """
    for block in blocks(network):
        block.forward = MethodType(_forward, block)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of at most ``HEIGHT`` levels above their layers, never the whole."""
    for child in network.children():
        if isinstance(child, CONTAINERS) or height(child) > HEIGHT:
            yield from blocks(child)
        elif height(child) > 0:
            yield child


def height(module: nn.Module) -> int:
    """Levels of modules inside.

    Examples:
        >>> height(nn.ReLU()), height(nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU())))
        (0, 2)
    """
    return max((1 + height(child) for child in module.children()), default=0)


def _forward(self: nn.Module, *inputs: Any, **options: Any) -> Any:
    plain = partial(type(self).forward, self)
    if not (self.training and torch.is_grad_enabled()):
        return plain(*inputs, **options)
    tensors = [each for each in (*inputs, *options.values()) if isinstance(each, Tensor)]
    versions = [tensor._version for tensor in tensors]

    @contextmanager
    def second_time() -> Iterator[None]:
        if versions != [tensor._version for tensor in tensors]:
            raise ConfigError(
                f"{type(self).__name__} is given tensors that are changed in place later, so that "
                "it cannot be computed again; leave out recompute"
            )
        with _same_buffers(self):
            yield

    return checkpoint(
        plain,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), second_time()),
        **options,
    )


@contextmanager
def _same_buffers(block: nn.Module) -> Iterator[None]:
    """Give buffers, such as running statistics, their values back in the end."""
    before = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
