"""A network's operations, recorded for libraries that take them from torch."""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from medseg3d.inference.backends.conversion import probe
from medseg3d.types import Size3


def traced(network: nn.Module, channels: int, example: Size3) -> Any:
    """The network's operations as torch.jit recorded them, for windows of any shape."""
    batch = torch.from_numpy(probe(channels, example))
    with warnings.catch_warnings(), torch.no_grad(), _Plain():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network, batch, check_trace=False)  # type: ignore[no-untyped-call]


def _normalized_per_channel(
    x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    if groups != x.shape[1]:
        return torch.group_norm(x, groups, weight, bias, eps)
    return torch.instance_norm(x, weight, bias, None, None, True, 0.0, eps, True)


class _Plain(TorchFunctionMode):
    """Spells some operations as other libraries know and compute them best.

    A group norm of single channels is an instance norm: OpenVINO 2026.4 computes that in two
    thirds of the time, and its compiler may crash on the other. Tensors that are split to
    bound the memory are kept whole, because a recorded split has a fixed number of parts.
    Axes are counted from the first one.
    """

    spelled: Mapping[str, Callable[..., Any]] = MappingProxyType(
        {
            "group_norm": _normalized_per_channel,
            "split": lambda x, *_, **__: (x,),
            "movedim": lambda x, source, target: x.permute(_moved(x.dim(), source, target)),
        }
    )

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        arguments: Any = (),
        options: Any = None,
    ) -> Any:
        """Call the function, or what stands for it."""
        plain = self.spelled.get(getattr(function, "__name__", ""), function)
        return plain(*arguments, **(options or {}))


def _moved(num_axes: int, source: int, target: int) -> list[int]:
    """Axes in their new order.

    Examples:
        >>> _moved(5, 2, -1)
        [0, 1, 3, 4, 2]
    """
    axes = [axis for axis in range(num_axes) if axis != source % num_axes]
    axes.insert(target % num_axes, source % num_axes)
    return axes
